#!/usr/bin/env bash
# Builds the images without a Docker engine and proves that they start: buildah, chroot isolation,
# a base made by debootstrap from the Debian mirror that this machine's apt uses. Needs root, 10 GB.
#   ACCELERATOR=none|cuda (default none)   BASE_IMAGE=… to use an image that is there instead
set -euo pipefail
cd "$(dirname "$0")/../.."

PATH=$PATH:/usr/sbin:/sbin # debootstrap's folder, which a plain user's PATH (su, cron) leaves out
for tool in buildah debootstrap; do
  command -v "$tool" > /dev/null \
    || { echo "image-check SKIPPED: $tool is not installed (Debian package of that name)"; exit 0; }
done
[ "$(id -u)" = 0 ] || { echo "image-check SKIPPED: chroot isolation needs root"; exit 0; }

work=$(mktemp -d)
accelerator=${ACCELERATOR:-none}
b() { buildah --root "$work/root" --runroot "$work/run" --storage-driver vfs "$@"; }
pids=()
containers=()
finish() {
  for pid in "${pids[@]}"; do kill -- "-$pid" 2> /dev/null || true; done
  [ "${#pids[@]}" = 0 ] || sleep 1
  for container in "${containers[@]}"; do b rm "$container" > /dev/null 2>&1 || true; done
  # debootstrap mounts the machine's /proc below $work, and stopped half-way leaves it there: root
  # must never remove what lies behind a mount.
  awk -v below="$work/" 'index($2, below) == 1 { print $2 }' /proc/mounts | sort -r \
    | while read -r mounted; do umount "$mounted" 2> /dev/null || umount --lazy "$mounted" || true; done
  if grep -q " $work/" /proc/mounts; then
    echo "left as it is, something is mounted in it: $work"
  else
    rm -rf --one-file-system "$work"
  fi
}
trap finish EXIT
trap 'exit 130' INT TERM

base=${BASE_IMAGE:-}
if [ -z "$base" ]; then
  codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
  mirror=$(apt-get indextargets --format '$(REPO_URI) $(COMPONENT)' "Created-By: Packages" \
    "Codename: $codename" | awk '$2 == "main" { print $1; exit }')
  echo "base: debootstrap of $codename"
  # In the background, as a signal reaches the trap only between commands; its group ends with us.
  setsid debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv \
    "$codename" "$work/base" "$mirror" > "$work/debootstrap.log" &
  pids+=($!)
  wait "${pids[0]}"
  pids=()
  rm -rf "$work"/base/var/cache/apt/archives/*.deb "$work"/base/var/lib/apt/lists/*
  container=$(b from scratch)
  b copy -q "$container" "$work/base" / > /dev/null
  b commit -q --rm "$container" base > /dev/null
  rm -rf "$work/base"
  base=localhost/base
fi

for target in edge service; do
  echo "build: $target ($accelerator)"
  # The certificates let pip reach an index through a proxy with an authority of its own.
  b bud -q --format docker --isolation chroot --volume /etc/ssl/certs:/etc/ssl/certs:ro \
    -f deploy/images/Dockerfile --target "$target" --build-arg BASE_IMAGE="$base" \
    --build-arg TARGET="$target" --build-arg ACCELERATOR="$accelerator" \
    -t "cytosynth-$target" . > /dev/null
done
b images --format '{{.Name}} {{.Size}}'

user=$(b inspect --type image --format '{{.OCIv1.Config.User}}' cytosynth-service)
[ "$user" = 10001:10001 ] || { echo "the service image runs as '$user'"; exit 1; }

# Starts an image in the background: start NAME IMAGE COMMAND…
start() {
  local name=$1 image=$2
  shift 2
  local container
  container=$(b from "$image")
  containers+=("$container")
  [ "$name" = service ] || b copy -q --chown 10001:10001 "$container" "$work/envoy.yaml" /etc/envoy/envoy.yaml > /dev/null
  setsid buildah --root "$work/root" --runroot "$work/run" --storage-driver vfs \
    run --isolation chroot "$container" -- "$@" > "$work/$name.log" 2>&1 &
  pids+=($!)
  echo "$container" > "$work/$name.container"
}

grpc_port=${IMAGE_CHECK_PORT:-52300}
edge_port=$((grpc_port + 10))
start service cytosynth-service python -m services.launch.one_service trainer \
  --host 127.0.0.1 --port "$grpc_port"
service=$(cat "$work/service.container")
b run --isolation chroot "$service" -- python -m services.edge.render --host 127.0.0.1 \
  --port "$edge_port" --admin-port $((grpc_port + 11)) \
  --upstream "generator=127.0.0.1:$grpc_port" --upstream "classifier=127.0.0.1:$grpc_port" \
  --upstream "trainer=127.0.0.1:$grpc_port" > "$work/envoy.yaml"
start edge cytosynth-edge /usr/local/bin/envoy --disable-hot-restart \
  --config-path /etc/envoy/envoy.yaml --log-level warning

# Asked from inside the service's image, as its own user, through the edge of the other image.
cat > "$work/ask.py" << 'PYTHON'
import os, sys, time
from cytosynth.client import Client, CytosynthError

address, deadline = sys.argv[1], time.monotonic() + 300
while True:
    try:
        with Client(address, timeout_seconds=10) as client:
            jobs, datasets = client.list_jobs(), client.list_datasets()
        break
    except CytosynthError as error:
        if time.monotonic() > deadline:
            raise
        time.sleep(2)
assert os.getuid() == 10001, os.getuid()
print(f"the trainer answers through the edge, as user {os.getuid()}: {len(jobs)} jobs, {len(datasets)} datasets")
PYTHON
b copy -q "$service" "$work/ask.py" /ask.py > /dev/null
b run --isolation chroot "$service" -- python /ask.py "127.0.0.1:$edge_port" \
  || { tail -n 30 "$work"/service.log "$work"/edge.log; exit 1; }
b run --isolation chroot --env CYTOSYNTH_SERVE_PORT="$grpc_port" "$service" -- \
  python -m services.launch.health || { echo "the health check fails"; exit 1; }
echo "the health check passes"
admin=$((grpc_port + 11))
edge=$(cat "$work/edge.container")
b run --isolation chroot "$edge" -- python3 -m services.edge.lifecycle ready --admin-port "$admin" \
  || { echo "the edge's probe fails"; exit 1; }
b run --isolation chroot "$edge" -- python3 -m services.edge.lifecycle drain --admin-port "$admin" \
  --notice-seconds 0 --longest-seconds 20 || { echo "the edge does not drain"; exit 1; }
echo "the edge's probe and drain work"
tools=$(b run --isolation chroot "$service" -- sh -c 'command -v gcc cc make ld pip || true')
[ -z "$tools" ] || { echo "build tools in the image: $tools"; exit 1; }
echo "image-check: all passed"
