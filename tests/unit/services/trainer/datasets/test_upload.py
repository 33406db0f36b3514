"""Datasets: whole or absent, duplicates corrected, one dataset per key."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from services.common.errors import (
    AlreadyExists,
    DomainError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from services.common.images.codec import encode_image
from services.common.resource_names import DATASETS
from services.common.store.artifacts import ArtifactStore
from services.trainer.config import TrainerSettings
from services.trainer.datasets.center_crop import estimate_center_crop
from services.trainer.datasets.reading import load_images, usable_classes
from services.trainer.datasets.splitting import SplitSettings
from services.trainer.datasets.upload import DatasetHeader, DatasetUpload
from tests.support.cells import cell, png

HEADER = DatasetHeader(display_name="ward 7", split=SplitSettings(shots=3), center_crop=1.0)


def files_in(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


def upload(store: ArtifactStore, settings: TrainerSettings, header: DatasetHeader = HEADER):
    with DatasetUpload(store, "local", header, settings) as upload:
        for number in range(12):
            class_id = ("basophil", "monocyte")[number % 2]
            upload.add(class_id, f"{number}.png", "", png(number))
        return upload.commit(12)


def test_a_dataset_holds_its_images_split_and_hashes(store, settings) -> None:
    manifest = upload(store, settings)
    body = manifest["body"]
    assert usable_classes(manifest) == ["basophil", "monocyte"]
    assert [len(body["classes"]["basophil"][side]) for side in ("train", "test")] == [3, 3]
    assert len(body["images"]) == 12 and len(body["split_digest"]) == 64
    train = [d for each in body["classes"].values() for d in each["train"]]
    assert manifest["digests"] == sorted(train)
    assert all(len(each["phash"]) == 16 for each in body["images"].values())
    dataset_id = manifest["name"].split("/")[1]
    digest = train[0]
    number = int(body["images"][digest]["file_name"].split(".")[0])
    stored = store.read("local", DATASETS, dataset_id, f"images/{digest}")
    assert stored == png(number), "the original bytes are kept"

    loaded = load_images(store, "local", dataset_id, "test", 16, settings)
    assert loaded.images.shape == (6, 16, 16, 3) and loaded.images.dtype == np.uint8
    assert loaded.class_ids == ("basophil",) * 3 + ("monocyte",) * 3
    assert not set(loaded.digests) & set(train)


def test_the_same_key_gives_the_same_dataset(store, settings) -> None:
    header = DatasetHeader(split=SplitSettings(shots=3), idempotency_key="a key", center_crop=1.0)
    first, again = upload(store, settings, header), upload(store, settings, header)
    assert first == again
    assert len(store.list("local", DATASETS)) == 1
    changed = DatasetHeader(split=SplitSettings(shots=2), idempotency_key="a key", center_crop=1.0)
    with pytest.raises(AlreadyExists, match="idempotency_key"):
        upload(store, settings, changed)


def test_no_key_gives_a_fresh_dataset(store, settings) -> None:
    assert upload(store, settings)["name"] != upload(store, settings)["name"]


def test_nothing_is_kept_without_a_commit(store, settings, tmp_path: Path) -> None:
    with DatasetUpload(store, "local", HEADER, settings) as cut:
        cut.add("basophil", "a.png", "", png(1))
    assert not files_in(tmp_path)


def test_a_wrong_count_keeps_nothing(store, settings, tmp_path: Path) -> None:
    with DatasetUpload(store, "local", HEADER, settings) as wrong:
        for number in range(4):
            wrong.add("basophil", f"{number}.png", "", png(number))
        with pytest.raises(InvalidArgument, match="is 5, but 4 images arrived") as caught:
            wrong.commit(5)
    assert caught.value.field == "commit.num_images" and caught.value.remedy
    assert not files_in(tmp_path)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (png(1)[:-30], "truncated"),
        (b"not an image", "not an image"),
        (b"", "empty"),
        (png(1, size=4), "4x4"),
    ],
)
def test_a_bad_image_is_named(store, settings, tmp_path: Path, data: bytes, problem: str) -> None:
    with DatasetUpload(store, "local", HEADER, settings) as bad:
        bad.add("basophil", "fine.png", "", png(2))
        with pytest.raises(InvalidArgument) as caught:
            bad.add("basophil", "ward/broken.png", "", data)
    assert caught.value.field == "image.data"
    assert "'ward/broken.png'" in caught.value.problem and problem in caught.value.problem
    assert not files_in(tmp_path)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_generated_image_is_no_real_image(store, settings, format: str) -> None:
    with (
        DatasetUpload(store, "lab", HEADER, settings) as upload,
        pytest.raises(InvalidArgument, match="is marked as generated") as caught,
    ):
        upload.add("monocyte", "m.png", "", encode_image(cell(1), format, synthetic=True))
    assert caught.value.field == "image.data" and "'m.png'" in caught.value.problem


def test_bad_class_and_long_names_are_named(store, settings) -> None:
    with DatasetUpload(store, "local", HEADER, settings) as bad:
        for class_id in ("Basophil", "", "a/b", "../x", "a" * 64):
            with pytest.raises(InvalidArgument) as caught:
                bad.add(class_id, "a.png", "", png(1))
            assert caught.value.field == "image.class_id"
        with pytest.raises(InvalidArgument):
            bad.add("basophil", "a" * 501, "", png(1))


def test_duplicates_are_merged_or_dropped_with_a_notice(store, settings) -> None:
    with DatasetUpload(store, "local", HEADER, settings) as twice:
        for number in range(6):
            twice.add("basophil", f"{number}.png", "", png(number))
            twice.add("monocyte", f"m{number}.png", "", png(100 + number))
        twice.add("basophil", "copy.png", "", png(0))
        twice.add("monocyte", "misfiled.png", "", png(1))
        body = twice.commit(14)["body"]
    assert body["classes"]["basophil"]["num_images"] == 5
    assert any("copy.png is 0.png" in notice for notice in body["notices"])
    assert any("1.png dropped" in notice for notice in body["notices"])


def test_limits_hold(store, settings) -> None:
    small = settings.model_copy(update={"max_dataset_images": 2})
    with DatasetUpload(store, "local", HEADER, small) as full:
        full.add("basophil", "0.png", "", png(0))
        full.add("basophil", "1.png", "", png(1))
        with pytest.raises(ResourceExhausted, match="more than 2 images"):
            full.add("basophil", "2.png", "", png(2))


@pytest.mark.parametrize(
    ("header", "field"),
    [
        (DatasetHeader(center_crop=float("nan")), "header.center_crop"),
        (DatasetHeader(center_crop=1.5), "header.center_crop"),
        (DatasetHeader(center_crop=-0.1), "header.center_crop"),
        (DatasetHeader(display_name="x" * 201), "header.display_name"),
        (DatasetHeader(idempotency_key="x" * 129), "header.idempotency_key"),
        (DatasetHeader(split=SplitSettings(shots=-3)), "header.split.shots"),
    ],
)
def test_a_bad_header_names_its_field(store, settings, header, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        DatasetUpload(store, "local", header, settings)
    assert caught.value.field == field


def test_center_crop_follows_the_nuclei() -> None:
    small = estimate_center_crop([cell(s, size=64, nucleus=0.36) for s in range(8)])
    large = estimate_center_crop([cell(s, size=64, nucleus=0.6) for s in range(8)])
    assert 0.5 <= small < 0.85 and large == 1.0
    assert estimate_center_crop([np.full((32, 32, 3), 200, np.uint8)]) == 1.0


def test_deletion_is_proved_and_final(store, settings, tmp_path: Path) -> None:
    dataset_id = upload(store, settings)["name"].split("/")[1]
    proof = store.delete("local", DATASETS, dataset_id)
    assert proof["num_objects"] == 13
    assert not files_in(tmp_path)
    with pytest.raises(NotFound):
        load_images(store, "local", dataset_id, "train", 16, settings)


def test_tenants_do_not_meet(store, settings) -> None:
    name = upload(store, settings)["name"].split("/")[1]
    with pytest.raises(DomainError):
        load_images(store, "other", name, "train", 16, settings)
    assert store.list("other", DATASETS) == []
