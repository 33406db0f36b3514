"""Checks of ``deploy/k8s``: every overlay rendered and validated; every planted one refused.

``python tools/manifests.py`` prints what was checked and how long it took.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import manifest_planted
import manifest_policies
import manifest_schemas
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # services and deploy, which the settings and imports are checked in
K8S = ROOT / "deploy/k8s"
PLANTED = K8S / "planted.yaml"
ENVOY = K8S / "base/edge/envoy.yaml"


def notices() -> list[str]:
    """What cannot be checked on this machine, for people to see."""
    missing = []
    if _renderer() is None:
        missing.append(
            "SKIPPED: manifests were not rendered: install kubectl 1.21+ or kustomize 4+"
        )
    if not (manifest_schemas.crds_folder() / "rayservices.yaml").is_file():
        missing.append(
            f"SKIPPED: Ray kinds were not compared with KubeRay's CRDs: set "
            f"{manifest_schemas.CRDS_VARIABLE} to the folder that holds rayservices.yaml"
        )
    if not manifest_policies.CHECKOV.is_file():
        missing.append("SKIPPED: checkov did not run: make manifest-tools")
    return missing


def edge_problems() -> list[str]:
    """Whether the edge's committed configuration is what services/edge/render.py makes now."""
    if ENVOY.read_text() == rendered_edge():
        return []
    return [f"{ENVOY.relative_to(ROOT)} is out of date: run `make edge-config`"]


def rendered_edge() -> str:
    """The edge's configuration on a cluster."""
    from cytosynth.service_methods import SERVICES
    from services.common.rpc.server import DEFAULT_PORT, NUM_PORTS
    from services.edge.render import EdgeConfig, EdgeTls, render

    certificates = Path("/etc/cytosynth")
    more_ports = tuple(DEFAULT_PORT + number for number in range(1, NUM_PORTS))
    return render(
        EdgeConfig(
            upstreams={name: (f"{name}-serve", DEFAULT_PORT) for name in SERVICES},
            more_ports=dict.fromkeys(SERVICES, more_ports),
            host="0.0.0.0",
            port=50051,
            internal_host="0.0.0.0",
            internal_port=50052,
            metrics_host="0.0.0.0",
            metrics_port=9902,
            tls=EdgeTls(
                certificates / "tls/tls.crt",
                certificates / "tls/tls.key",
                certificates / "client-ca/ca.crt",
            ),
            client_certificates="required",
        )
    )


def overlay_problems() -> list[str]:
    """Problems of overlays, and planted manifests that were not refused."""
    if _renderer() is None:
        return []
    overlays = {path.name: render(path) for path in sorted(K8S.glob("overlays/*"))}
    try:
        planted = manifest_planted.load(PLANTED, overlays)
    except ValueError as error:
        return [f"{PLANTED.name}: {error}"]
    groups = {f"overlay-{name}": with_pods(all_) for name, all_ in overlays.items()}
    groups |= {case.name: with_pods([case.manifest]) for case in planted}
    verdicts = manifest_policies.checkov_problems(groups)
    problems = []
    for name, manifests in overlays.items():
        found = problems_of(manifests) + manifest_schemas.ray_environment_problems(manifests)
        found += (verdicts or {}).get(f"overlay-{name}", [])
        problems += [f"overlays/{name}: {line}" for line in sorted(set(found))]
    for case in planted:
        found = problems_of([case.manifest]) + (verdicts or {}).get(case.name, [])
        problems += [
            f"{PLANTED.name}: {case.name} {line}" for line in _unexpected(case.reasons, set(found))
        ]
    return problems


def _unexpected(reasons: Iterable[str], found: set[str]) -> list[str]:
    """Differences between a planted manifest's reasons and the problems found."""
    expected = set(reasons)
    if not manifest_policies.CHECKOV.is_file():
        expected = {line for line in expected if ": checkov: " not in line}
    if not (manifest_schemas.crds_folder() / "rayservices.yaml").is_file():
        expected = {line for line in expected if not re.match(r"RayService/\S+ schema: ", line)}
    missed = [f"was not refused for: {line}" for line in sorted(expected - found)]
    return missed + [f"was refused for another reason: {line}" for line in sorted(found - expected)]


def problems_of(manifests: list[dict[str, Any]]) -> list[str]:
    """Problems of objects and their pods: schemas, settings, Serve, Rego."""
    problems = []
    for manifest in manifests:
        name = f"{manifest.get('kind')}/{manifest.get('metadata', {}).get('name')}"
        group = str(manifest.get("apiVersion", ""))
        if group.startswith("ray.io/"):
            found = manifest_schemas.ray_problems(manifest)
            if manifest["kind"] == "RayService":
                found += manifest_schemas.serve_problems(manifest)
        elif group.startswith(manifest_schemas.WITHOUT_SCHEMA):
            found = []
        else:
            found = manifest_schemas.core_problems(manifest)
        if manifest.get("kind") == "ConfigMap":
            found += manifest_schemas.settings_problems(manifest)
        if manifest.get("kind") != "Pod":
            found += manifest_policies.rego_problems(manifest)
        problems += [f"{name}: {line}" for line in found]
        for pod in manifest_schemas.pods_of(manifest):
            found = manifest_policies.rego_problems(pod)
            if group.startswith("ray.io/"):
                found += manifest_schemas.core_problems(pod)
            problems += [f"Pod/{pod['metadata']['name']}: {line}" for line in found]
    return problems


def with_pods(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The objects with Ray kinds as their pods, for checkov."""
    known = [one for one in manifests if not one.get("apiVersion", "").startswith("ray.io/")]
    rays = [one for one in manifests if one not in known]
    return known + [pod for one in rays for pod in manifest_schemas.pods_of(one)]


def render(folder: Path) -> list[dict[str, Any]]:
    """The objects of an overlay, as kubectl would apply them."""
    command = _renderer()
    assert command is not None
    done = subprocess.run(
        [*command, str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{folder.name} cannot be rendered: {done.stderr.strip()[-1000:]}")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [one for one in yaml.load_all(done.stdout, loader) if one]


@cache
def _renderer() -> tuple[str, ...] | None:
    if shutil.which("kubectl"):
        return ("kubectl", "kustomize")
    return ("kustomize", "build") if shutil.which("kustomize") else None


def main() -> int:
    """Runs every check; ``edge-config`` renews the edge's configuration instead."""
    if sys.argv[1:] == ["edge-config"]:
        ENVOY.write_text(rendered_edge())
        return 0
    start = time.monotonic()
    problems = edge_problems() + overlay_problems()
    for line in [*notices(), *problems]:
        print(line)
    print(f"{len(problems)} problems in {time.monotonic() - start:.1f} s")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
