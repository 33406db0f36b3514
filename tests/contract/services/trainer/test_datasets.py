"""Datasets over a real channel: uploads, imports, deletion."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from cytosynth.trainer.v1 import trainer_pb2 as pb
from tests.support.trainer import (
    CLASSES,
    Running,
    commit,
    header,
    image,
    png,
    refusal,
    upload_requests,
)

pytestmark = pytest.mark.timeout(1200)


def test_an_upload_is_split_and_shown(running: Running) -> None:
    shown = running.upload([*upload_requests(key="first", display_name="ward 7")])
    assert shown.name.startswith("datasets/") and shown.display_name == "ward 7"
    assert [(c.class_id, c.num_images, c.num_train, c.num_test) for c in shown.classes] == [
        ("basophil", 5, 3, 2),
        ("monocyte", 5, 3, 2),
    ]
    assert len(shown.split_digest) == 64 and shown.center_crop == 1.0
    got = running.stub.GetDataset(pb.GetDatasetRequest(name=shown.name), timeout=10)
    assert got.dataset == shown
    again = running.upload([*upload_requests(key="first", display_name="ward 7")])
    assert again == shown
    listed = running.stub.ListDatasets(pb.ListDatasetsRequest(), timeout=10).datasets
    assert [each.name for each in listed].count(shown.name) == 1


def test_another_upload_under_a_used_key_is_refused(running: Running, dataset: str) -> None:
    requests = upload_requests(8, key="shared dataset")
    code, message, _ = refusal(lambda: running.upload(requests))
    assert code == grpc.StatusCode.ALREADY_EXISTS and "idempotency_key" in message


UPLOADS: list[tuple[str, list[pb.UploadDatasetRequest], str, str]] = [
    ("no commit", [header(), image(0), image(1)], "commit", "send the whole upload again"),
    ("nothing", [], "commit", "again"),
    ("wrong count", [header(), image(0), image(1), commit(3)], "commit.num_images", "2 images"),
    ("image first", [image(0), commit(1)], "header", "header first"),
    ("two headers", [header(), header()], "header", "twice"),
    ("empty message", [header(), pb.UploadDatasetRequest()], "part", "not set"),
    ("truncated", [header(), image(0, data=png(0)[:-20])], "image.data", "'0.png'"),
    ("no image", [header(), image(0, data=b"text", file_name="notes.txt")], "image.data", "notes"),
    ("bad class", [header(), image(0, class_id="Not A Class")], "image.class_id", "a-z"),
    ("bad shots", [header(split=pb.SplitSpec(shots=-1))], "header.split.shots", "0 or more"),
    ("no images", [header(), commit(0)], "image", "at least two"),
    (
        "nothing to split",
        [header(), image(0), commit(1)],
        "header.split",
        "more images",
    ),
]


@pytest.mark.parametrize(
    ("requests", "field", "hint"), [u[1:] for u in UPLOADS], ids=[u[0] for u in UPLOADS]
)
def test_a_bad_upload_names_the_field_and_keeps_nothing(
    running: Running, requests: list[pb.UploadDatasetRequest], field: str, hint: str
) -> None:
    before = running.stored_files()
    code, message, named = refusal(lambda: running.upload(requests))
    assert (code, named) == (grpc.StatusCode.INVALID_ARGUMENT, field)
    assert hint in message
    assert running.stored_files() == before


def test_a_cut_upload_keeps_nothing_and_the_service_stays_up(running: Running) -> None:
    before = running.stored_files()

    def forever() -> Iterator[pb.UploadDatasetRequest]:
        yield header(key="cut")
        for number in range(4):
            yield image(number)
        time.sleep(30)

    call = running.stub.UploadDataset.future(forever(), timeout=60)
    time.sleep(1.5)
    call.cancel()
    time.sleep(1.0)
    assert running.stored_files() == before
    assert running.upload(upload_requests(key="cut")).name


def test_a_silent_upload_ends(running: Running) -> None:
    def silent() -> Iterator[pb.UploadDatasetRequest]:
        yield header()
        yield image(0)
        time.sleep(10)

    def call() -> None:
        running.stub.UploadDataset(silent(), timeout=30)

    code, message, field = refusal(call)
    assert (code, field) == (grpc.StatusCode.INVALID_ARGUMENT, "commit")
    assert "nothing came for 3 s" in message


def test_import_reads_only_the_callers_drop_folder(running: Running) -> None:
    for tenant in ("local", "other"):
        for number in range(8):
            path = running.root / f"store/imports/{tenant}/cells/{CLASSES[number % 2]}/{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(number))

    def ask(uri: str) -> pb.Dataset:
        request = pb.ImportDatasetRequest(uri=uri, header=header().header)
        return running.stub.ImportDataset(request, timeout=30).dataset

    store = f"file://{running.root}/store"
    assert sum(each.num_images for each in ask(f"{store}/imports/local/cells").classes) == 8
    for uri in (f"{store}/imports/other/cells", "file:///etc", f"{store}/tenants/local"):
        code, message, _ = refusal(lambda uri=uri: ask(uri))
        assert code == grpc.StatusCode.PERMISSION_DENIED and "upload" in message


def test_deletion_is_proved_and_datasets_are_the_tenants_own(running: Running) -> None:
    name = running.upload(upload_requests(), tenant="clinic-a").name

    def get(tenant: str) -> pb.GetDatasetResponse:
        metadata = [("x-cytosynth-tenant", tenant)]
        return running.stub.GetDataset(
            pb.GetDatasetRequest(name=name), timeout=10, metadata=metadata
        )

    def delete(tenant: str) -> pb.DeletionProof:
        metadata = [("x-cytosynth-tenant", tenant)]
        request = pb.DeleteDatasetRequest(name=name)
        return running.stub.DeleteDataset(request, timeout=10, metadata=metadata).proof

    assert get("clinic-a").dataset.name == name
    for action in (get, delete):
        code, message, _ = refusal(lambda action=action: action("clinic-b"))
        assert code == grpc.StatusCode.NOT_FOUND and name in message
    proof = delete("clinic-a")
    assert (proof.name, proof.num_objects, len(proof.digest)) == (name, 11, 64)
    assert refusal(lambda: get("clinic-a"))[0] == grpc.StatusCode.NOT_FOUND
    assert not [p for p in running.stored_files() if name.split("/")[1] in str(p)]


def test_an_import_asked_again_gives_the_same_dataset(running: Running) -> None:
    folder = running.root / "store/imports/local/asked-again"
    for number in range(8):
        path = folder / CLASSES[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))

    def ask(**fields: Any) -> pb.Dataset:
        request = pb.ImportDatasetRequest(
            uri=f"file://{folder}", header=header(key="an import", **fields).header
        )
        return running.stub.ImportDataset(request, timeout=30).dataset

    first = ask()
    assert ask() == first
    listed = running.stub.ListDatasets(pb.ListDatasetsRequest(), timeout=10).datasets
    assert [each.name for each in listed].count(first.name) == 1
    code, message, _ = refusal(lambda: ask(display_name="another"))
    assert code == grpc.StatusCode.ALREADY_EXISTS and "idempotency_key" in message
    next(folder.rglob("*.png")).unlink()
    code, message, _ = refusal(ask)
    assert code == grpc.StatusCode.ALREADY_EXISTS and "idempotency_key" in message
