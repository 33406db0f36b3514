"""A running trainer: requests to it, its refusals, and its runner's process."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from PIL import Image

from cytosynth.common.v1 import job_pb2
from cytosynth.trainer.v1 import trainer_pb2 as pb
from cytosynth.trainer.v1 import trainer_pb2_grpc
from services.common.store.artifacts import ArtifactStore
from tests.support.servers.local_serve import replica_processes

CLASSES = ("basophil", "monocyte")
FINAL = {job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED}


@dataclass
class Running:
    """A running trainer: a client's stub, its folder and its store."""

    stub: trainer_pb2_grpc.TrainerServiceStub
    root: Path
    store: ArtifactStore

    def upload(self, requests: list[pb.UploadDatasetRequest], tenant: str = "") -> pb.Dataset:
        """The dataset of an upload."""
        metadata = [("x-cytosynth-tenant", tenant)] if tenant else []
        answer = self.stub.UploadDataset(iter(requests), timeout=60, metadata=metadata)
        return answer.dataset

    def create_adapter(self, dataset: str, key: str = "", **settings: Any) -> job_pb2.Job:
        """The job of a new adapter."""
        request = adapter_request(dataset, key, **settings)
        return self.stub.CreateAdapter(request, timeout=30).job

    def watch(self, name: str) -> list[job_pb2.Job]:
        """All states of a job to its end."""
        answers = self.stub.WatchJob(pb.WatchJobRequest(name=name), timeout=600)
        return [answer.job for answer in answers]

    def stored_files(self) -> set[Path]:
        """Every file in the store."""
        return {path for path in (self.root / "store").rglob("*") if path.is_file()}


def png(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (4, 4, 3)).repeat(8, 0).repeat(8, 1)
    buffer = io.BytesIO()
    Image.fromarray(coarse.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def header(**fields: Any) -> pb.UploadDatasetRequest:
    fields.setdefault("split", pb.SplitSpec(shots=3))
    key = fields.pop("key", "")
    return pb.UploadDatasetRequest(
        header=pb.DatasetHeader(center_crop=1.0, idempotency_key=key, **fields)
    )


def image(number: int, **fields: Any) -> pb.UploadDatasetRequest:
    values = {
        "class_id": CLASSES[number % 2],
        "file_name": f"{number}.png",
        "data": png(number),
        **fields,
    }
    return pb.UploadDatasetRequest(image=pb.DatasetImage(**values))


def commit(count: int) -> pb.UploadDatasetRequest:
    return pb.UploadDatasetRequest(commit=pb.DatasetCommit(num_images=count))


def upload_requests(num_images: int = 10, **fields: Any) -> list[pb.UploadDatasetRequest]:
    return [header(**fields), *map(image, range(num_images)), commit(num_images)]


def adapter_request(dataset: str, key: str = "", **settings: Any) -> pb.CreateAdapterRequest:
    base = settings.pop("base", "")
    values = {"rank": 2, "alpha": 2.0, "num_steps": 6, "batch_size": 2, **settings}
    return pb.CreateAdapterRequest(
        dataset=dataset,
        base=base,
        settings=pb.AdapterSettings(**values),
        idempotency_key=key,
    )


def refusal(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str, str]:
    """Code, message and violated field of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error = caught.value
    status = rpc_status.from_call(error)
    assert status is not None, f"no details: {error}"
    field = ""
    for detail in status.details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            field = bad.field_violations[0].field
    assert "Traceback" not in error.details() and "/" + "tmp" not in error.details()
    return error.code(), error.details(), field


def wait_for_step(running: Running, name: str, step: int) -> None:
    for answer in running.stub.WatchJob(pb.WatchJobRequest(name=name), timeout=600):
        assert answer.job.state not in FINAL, answer.job
        if answer.job.progress.phase == "training adapter" and answer.job.progress.step >= step:
            return
    raise AssertionError("the job never trained")


def first_step(seen: list[job_pb2.Job], attempt: int) -> int:
    """The first training step that an attempt has told of."""
    return min(
        job.progress.step
        for job in seen
        if job.num_attempts == attempt and job.progress.phase == "training adapter"
    )


def runner_process() -> psutil.Process:
    found = replica_processes("JobRunner") or [
        process
        for process in psutil.Process().children(recursive=True)
        if "JobRunner" in " ".join(process.cmdline())
    ]
    assert len(found) == 1, found
    return found[0]
