"""An upload arrives whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from cytosynth.client import (
    Client,
    CytosynthError,
    SplitSettings,
)
from tests.support.servers.toy_services.server import ToyServices


def test_upload_sends_every_image_and_the_last_message(
    toy: ToyServices, client: Client, folder: Path
) -> None:
    (folder / "labels.csv").write_text(
        "file,class,patient_id\nblast/0.png,blast,p1\nmono/1.png,mono,p2\n"
    )
    (folder / "blast/notes.txt").write_text("left out")
    (folder / "empty").mkdir()
    seen: list[tuple[int, int]] = []
    dataset = client.upload_dataset(
        folder,
        split=SplitSettings(shots=1, class_shots={"blast": 2}, max_test_per_class=7, seed=9),
        display_name="Ward 3",
        idempotency_key="k1",
        on_progress=lambda done, total: seen.append((done, total)),
    )
    upload = toy.trainer.uploads[0]
    assert upload.committed
    assert [(i.file_name, i.class_id, i.patient_id) for i in upload.images] == [
        ("blast/0.png", "blast", "p1"),
        ("blast/1.png", "blast", ""),
        ("blast/2.png", "blast", ""),
        ("mono/0.png", "mono", ""),
        ("mono/1.png", "mono", "p2"),
    ]
    assert upload.header is not None
    assert upload.header.idempotency_key == "k1"
    assert upload.header.split.max_test_per_class == 7
    assert [(c.class_id, c.num_train, c.num_test) for c in dataset.classes] == [
        ("blast", 2, 1),
        ("mono", 1, 1),
    ]
    assert (dataset.num_train, dataset.num_test) == (3, 2)
    assert dataset.create_time is not None
    assert dataset.create_time.timestamp() == 1000
    assert dataset.notices == (
        "blast/notes.txt: left out, not an image by its name",
        "empty: left out, the class folder holds no images",
        "no base of this package knows blast, mono: an adapter learns such a class from these "
        "images alone, without cells of the base",
        "3 images have no patient_id in labels.csv",
        "toy notice",
    )
    assert seen[-1] == (5, 5)


def test_an_upload_is_tried_again_with_the_same_key(
    toy: ToyServices, client: Client, folder: Path
) -> None:
    toy.trainer.refuse_uploads = 2
    client.upload_dataset(folder, split=SplitSettings(shots=1))
    assert len(toy.trainer.uploads) == 1
    assert len(toy.trainer.uploads[0].images) == 5


def test_a_refused_image_is_named(client: Client, folder: Path) -> None:
    (folder / "mono/0.png").write_bytes(b"not an image")
    with pytest.raises(CytosynthError, match=r"mono/0\.png: is not an image"):
        client.upload_dataset(folder)


def test_an_upload_cut_half_way_keeps_nothing(
    toy: ToyServices, client: Client, folder: Path
) -> None:
    def vanish(done: int, total: int) -> None:
        if done == 2:
            (folder / "mono/1.png").unlink()

    with pytest.raises(CytosynthError, match=r"mono/1\.png: cannot be read"):
        client.upload_dataset(folder, on_progress=vanish)
    assert toy.trainer.datasets == {}


def test_a_file_over_the_limit_is_named_before_anything_is_sent(
    toy: ToyServices, client: Client, folder: Path
) -> None:
    with (folder / "mono/big.png").open("wb") as file:
        file.truncate(20_000_001)
    with pytest.raises(CytosynthError, match=r"mono/big\.png: 20\.0 MB is over the limit of 20 MB"):
        client.upload_dataset(folder)
    assert toy.trainer.uploads == []
