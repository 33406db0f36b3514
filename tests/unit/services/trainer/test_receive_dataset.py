"""A stream's bad images, named together in one refusal after reading on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest

from cytosynth.trainer.v1 import trainer_pb2 as pb
from services.common.errors import InvalidArgument
from services.common.store.artifacts import ArtifactStore
from services.trainer.config import TrainerSettings
from services.trainer.datasets.refusals import MAX_REFUSED
from services.trainer.receive_dataset import receive_dataset
from tests.support.cells import png


def image(number: int, data: bytes = b"text", **fields: str) -> pb.UploadDatasetRequest:
    values = {"class_id": "blast", "file_name": f"{number}.png", **fields}
    return pb.UploadDatasetRequest(image=pb.DatasetImage(data=data, **values))


def commit(number: int) -> pb.UploadDatasetRequest:
    return pb.UploadDatasetRequest(commit=pb.DatasetCommit(num_images=number))


@pytest.fixture
def receive(tmp_path: Path):
    """Receive messages after a header; ``.taken`` counts those asked for."""
    settings = TrainerSettings(
        store_uri=f"file://{tmp_path}/store", database_url=f"sqlite:///{tmp_path}/jobs.db"
    )

    def run(messages: Iterable[pb.UploadDatasetRequest]) -> dict[str, Any]:
        async def stream() -> AsyncIterator[pb.UploadDatasetRequest]:
            yield pb.UploadDatasetRequest(header=pb.DatasetHeader(center_crop=1.0))
            for message in messages:
                run.taken += 1
                yield message

        store = ArtifactStore(settings.store_uri)
        return asyncio.run(receive_dataset(stream(), store, "local", settings))

    run.taken = 0
    return run


@pytest.mark.parametrize("end", [[commit(4)], []])
def test_all_bad_images_are_named_when_the_upload_ends(receive, end: list) -> None:
    messages = [
        image(0, png(0)),
        image(1),
        image(2, png(2)[:-30]),
        image(3, png(3), class_id="No Class"),
    ]
    with pytest.raises(InvalidArgument) as caught:
        receive([*messages, *end])
    error = caught.value
    assert (error.field, error.problem[:17]) == ("image.data", "image 2 ('1.png')")
    assert [field for field, _ in error.further] == ["image.data", "image.class_id"]
    assert "image 3 ('2.png'): is a truncated" in error.message
    assert "image.class_id: image 4 ('3.png')" in error.message


def test_an_upload_of_bad_images_alone_is_not_read_to_its_end(receive) -> None:
    with pytest.raises(InvalidArgument, match=f"and {MAX_REFUSED - 5} more") as caught:
        receive(image(number) for number in range(100_000))
    assert receive.taken == MAX_REFUSED
    assert len(caught.value.further) < 10


def test_words_for_unknown_are_no_patient(receive) -> None:
    names = ["NA", "n/a", "none", " p1 "]
    messages = [image(number, png(number), patient_id=names[number]) for number in range(4)]
    body = receive([*messages, commit(4)])["body"]
    assert sorted(each["patient_id"] for each in body["images"].values()) == ["", "", "", "p1"]
