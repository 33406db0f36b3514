"""Each application, deployed by Ray Serve from its ``serveConfigV2``, called by gRPC."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cytosynth.service_methods import SERVICES

ROOT = Path(__file__).resolve().parents[4]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DEPLOY_AND_CALL = """
import sys, time
import grpc, ray, yaml
from pathlib import Path
from ray import serve
from ray.serve._private.api import serve_start
from ray.serve.config import HTTPOptions
from ray.serve.schema import ServeDeploySchema

name, grpc_port, http_port, temp = sys.argv[1:]
manifest = yaml.safe_load(Path(f"deploy/k8s/base/{name}.yaml").read_text())
schema = ServeDeploySchema.model_validate(yaml.safe_load(manifest["spec"]["serveConfigV2"]))
for tries_left in (2, 1, 0):  # a busy machine may take longer than the 30 s that Ray allows
    try:
        ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False,
                 object_store_memory=128 * 2**20, _temp_dir=temp)
        break
    except Exception:
        if not tries_left:
            raise
        ray.shutdown()
client = serve_start(http_options=HTTPOptions(host="127.0.0.1", port=int(http_port)))
client.deploy_apps(schema, _blocking=False)
deadline = time.monotonic() + 300
while True:
    app = serve.status().applications.get(name)
    if app is not None and app.status == "RUNNING":
        break
    assert app is None or app.status != "DEPLOY_FAILED", app
    assert time.monotonic() < deadline, app
    time.sleep(0.5)

from grpc_health.v1 import health_pb2, health_pb2_grpc

with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
    ask = health_pb2.HealthCheckRequest(service=f"cytosynth.{name}.v1.{name.capitalize()}Service")
    print("health", health_pb2_grpc.HealthStub(channel).Check(ask, timeout=30).status)
metadata = (("application", name), ("x-cytosynth-tenant", "laboratory"))
with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
    if name == "generator":
        from cytosynth.generator.v1 import generator_pb2 as pb, generator_pb2_grpc as rpc
        answer = rpc.GeneratorServiceStub(channel).GetCapabilities(
            pb.GetCapabilitiesRequest(), metadata=metadata, timeout=60)
        assert answer.ByteSize() > 0
    elif name == "classifier":
        from cytosynth.classifier.v1 import classifier_pb2 as pb, classifier_pb2_grpc as rpc
        answer = rpc.ClassifierServiceStub(channel).ListModels(
            pb.ListModelsRequest(), metadata=metadata, timeout=60)
    else:
        from cytosynth.trainer.v1 import trainer_pb2 as pb, trainer_pb2_grpc as rpc
        answer = rpc.TrainerServiceStub(channel).ListJobs(
            pb.ListJobsRequest(), metadata=metadata, timeout=60)
print("answered", type(answer).__name__)
serve.shutdown()
"""


@pytest.mark.parametrize("name", SERVICES)
def test_application_of_the_serve_config_answers(name: str, tmp_path: Path) -> None:
    settings: dict[str, str] = {}
    for file in ("ray", "common", name):
        for line in (ROOT / f"deploy/k8s/base/settings/{file}.env").read_text().splitlines():
            key, _, value = line.partition("=")
            settings[key] = value
    settings |= {
        "HOME": str(tmp_path),
        "CYTOSYNTH_STORE_URI": f"file://{tmp_path}/store",
        "CYTOSYNTH_DATABASE_URL": f"sqlite:///{tmp_path}/jobs.db",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("CYTOSYNTH_")
    }
    environment |= settings
    migrated = subprocess.run(
        [sys.executable, "-m", "services.common.database.migrate"],
        cwd=ROOT,
        env=environment,
        check=False,
    )
    assert migrated.returncode == 0
    ports = {"generator": ("52110", "52111"), "classifier": ("52112", "52113"),
             "trainer": ("52114", "52115")}[name]  # fmt: skip
    environment["CYTOSYNTH_SERVE_PORT"] = ports[0]
    short = Path("/tmp") / f"cs-{os.getpid()}-{name}"  # Ray's sockets want a short path
    done = subprocess.run(
        [sys.executable, "-c", DEPLOY_AND_CALL, name, *ports, str(short)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "health 1" in done.stdout
    assert "answered" in done.stdout
