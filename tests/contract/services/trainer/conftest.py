"""One trainer for all contract tests: tiny base, real channel."""

from __future__ import annotations

import os
from collections.abc import Iterator

import grpc
import pytest

from cytosynth.trainer.v1 import trainer_pb2_grpc
from services.common.store.artifacts import ArtifactStore
from tests.support import fakes
from tests.support.servers.local_serve import local_serve
from tests.support.trainer import (
    Running,
    upload_requests,
)


@pytest.fixture(scope="package")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("trainer")
    fakes.write_tiny_base(root / "models", "tiny")
    os.environ.pop("RAY_SERVE_ENABLE_HA_PROXY", None)
    # Imported late: Ray reads its environment when it is imported.
    from services.trainer.app import APP_NAME, build_app
    from services.trainer.config import TrainerSettings

    settings = TrainerSettings(
        store_uri=f"file://{root}/store",
        database_url=f"sqlite:///{root}/jobs.db",
        models_dir=root / "models",
        default_base="tiny",
        lease_seconds=4.0,
        heartbeat_seconds=0.2,
        checkpoint_seconds=0.0,
        runner_num_threads=1,
        runner_idle_seconds=20.0,
        upload_idle_seconds=3.0,
        drain_file=root / "drain",
    )
    with local_serve(build_app(settings), APP_NAME) as address:
        with grpc.insecure_channel(address) as channel:
            stub = trainer_pb2_grpc.TrainerServiceStub(channel)
            yield Running(stub, root, ArtifactStore(settings.store_uri))


@pytest.fixture(scope="package")
def dataset(running: Running) -> str:
    return running.upload(upload_requests(key="shared dataset")).name
