"""Uploads and imports onto a full disk: refused with advice, nothing kept."""

from __future__ import annotations

import asyncio
import errno
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from cytosynth.trainer.v1 import trainer_pb2 as pb
from services.common.database.jobs import JobDatabase, migrate
from services.common.store.artifacts import ArtifactStore
from services.trainer.service import TrainerService
from tests.support.few_shot import settings_for
from tests.support.full_disk import Refused, fill, small_disk
from tests.support.handler_context import HandlerContext
from tests.support.trainer import CLASSES, png, upload_requests


class Stream:
    """A client's messages, as Serve hands them to a handler."""

    def __init__(self, requests: list[pb.UploadDatasetRequest]) -> None:
        self._requests = requests

    async def __aiter__(self) -> AsyncIterator[pb.UploadDatasetRequest]:
        for request in self._requests:
            yield request

    def is_cancelled(self) -> bool:
        return False


def service(root: Path) -> TrainerService:
    settings = settings_for(root)
    migrate(settings.database_url)
    database = JobDatabase(settings.database_url)
    return TrainerService(settings, ArtifactStore(settings.store_uri), database, lambda: None)


def upload(trainer: TrainerService) -> HandlerContext:
    context = HandlerContext("local")
    requests = upload_requests(12, key="full")
    asyncio.run(trainer.UploadDataset(Stream(requests), context))
    return context


def check_refused(context: HandlerContext, store: Path) -> None:
    assert context.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "full" in context.details and "cytosynth delete" in context.details
    assert str(store) not in context.details
    assert not [path for path in store.rglob("*") if path.is_file() and path.name != "ballast"]


def test_an_upload_that_the_store_has_no_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = service(tmp_path)
    refused = Refused(monkeypatch, tmp_path / "store", errno.ENOSPC)
    refused.on = True
    check_refused(upload(trainer), tmp_path / "store")
    assert refused.num_refused == 1
    refused.on = False
    assert upload(trainer).code == grpc.StatusCode.OK, "the same upload, once there is room"


def test_an_import_that_the_store_has_no_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, context = service(tmp_path), HandlerContext("local")
    folder = tmp_path / "store/imports/local/cells"
    for number in range(8):
        path = folder / CLASSES[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    refused = Refused(monkeypatch, tmp_path / "store/tenants", errno.ENOSPC)
    refused.on = True
    request = pb.ImportDatasetRequest(uri=f"file://{folder}")
    asyncio.run(trainer.ImportDataset(request, context))
    check_refused(context, tmp_path / "store/tenants")


def test_an_upload_onto_a_store_that_is_really_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "store", 64 * 1024) as disk:
        trainer = service(tmp_path)
        ballast = fill(disk)
        check_refused(upload(trainer), disk)
        ballast.unlink()
        assert upload(trainer).code == grpc.StatusCode.OK


def test_an_upload_whose_spool_is_really_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "spool", 64 * 1024) as disk:
        trainer = service(tmp_path)
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        ballast = fill(disk)
        check_refused(upload(trainer), tmp_path / "store")
        ballast.unlink()
        assert upload(trainer).code == grpc.StatusCode.OK
