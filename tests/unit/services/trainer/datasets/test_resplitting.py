"""Another split of the same images: a separate artifact, deleted with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from services.common.database.jobs import JobDatabase, migrate
from services.common.errors import AlreadyExists, NotFound
from services.common.resource_names import DATASETS
from services.common.store.artifacts import ArtifactStore
from services.trainer.config import TrainerSettings
from services.trainer.datasets.center_crop import estimate_center_crop
from services.trainer.datasets.reading import delete_dataset, digests_of_split, load_images
from services.trainer.datasets.resplitting import resplit, spare_digests
from services.trainer.datasets.splitting import SplitSettings
from services.trainer.datasets.upload import DatasetHeader, DatasetUpload
from tests.support.cells import cell, png

SPLIT = SplitSettings(shots=2, class_shots={"monocyte": 3}, seed=5)


@pytest.fixture
def source(store: ArtifactStore, settings: TrainerSettings) -> str:
    """Id of a dataset of 12 images of six patients, two classes."""
    header = DatasetHeader(split=SplitSettings(shots=3), center_crop=1.0)
    with DatasetUpload(store, "local", header, settings) as upload:
        for number in range(12):
            class_id = ("basophil", "monocyte")[number % 2]
            data = png(number, size=64, nucleus=0.36)
            upload.add(class_id, f"{number}.png", f"p{number % 6}", data)
        name: str = upload.commit(12)["name"]
    return name.split("/")[1]


@pytest.fixture
def database(settings: TrainerSettings, tmp_path: Path) -> JobDatabase:
    migrate(f"sqlite:///{tmp_path}/resplit.db")
    return JobDatabase(f"sqlite:///{tmp_path}/resplit.db")


def test_a_redrawn_split_borrows_the_images_and_locks_its_own_test_side(
    store: ArtifactStore, settings: TrainerSettings, source: str
) -> None:
    drawn = resplit(store, "local", source, SPLIT, "draw-1", settings)
    assert drawn["parents"] == [f"datasets/{source}"] and not drawn["files"]
    train, test = (digests_of_split(drawn, side) for side in ("train", "test"))
    assert [len(train[each]) for each in ("basophil", "monocyte")] == [2, 3]
    patients = {d: image["patient_id"] for d, image in drawn["body"]["images"].items()}
    sides = [{patients[d] for each in side.values() for d in each} for side in (train, test)]
    assert sides[0] and sides[1] and not sides[0] & sides[1]
    loaded = load_images(store, "local", "draw-1", "train", 32, settings)
    assert loaded.images.shape == (5, 32, 32, 3)
    assert set(loaded.digests) == set(drawn["digests"])
    assert not set(loaded.digests) & {digest for each in test.values() for digest in each}
    own = [cell(int(drawn["body"]["images"][d]["file_name"][:-4]), size=64, nucleus=0.36)
           for d in sorted(drawn["digests"])]  # fmt: skip
    assert drawn["body"]["center_crop"] == round(estimate_center_crop(own), 3) < 1


def test_the_same_split_is_made_once_and_another_needs_another_id(
    store: ArtifactStore, settings: TrainerSettings, source: str
) -> None:
    first = resplit(store, "local", source, SPLIT, "draw-1", settings)
    assert resplit(store, "local", source, SPLIT, "draw-1", settings) == first
    other = SplitSettings(shots=2, seed=6)
    with pytest.raises(AlreadyExists, match="another id"):
        resplit(store, "local", source, other, "draw-1", settings)
    second = resplit(store, "local", source, other, "draw-2", settings)
    assert second["body"]["split_digest"] != first["body"]["split_digest"]
    again = resplit(store, "local", "draw-2", SPLIT, "draw-3", settings)
    assert again["body"]["images_of"] == f"datasets/{source}"
    assert again["body"]["split_digest"] == first["body"]["split_digest"]
    images = [
        load_images(store, "local", d, "test", 32, settings).images for d in ("draw-1", "draw-3")
    ]
    np.testing.assert_array_equal(*images)


def test_deleting_the_images_deletes_the_splits_drawn_of_them(
    store: ArtifactStore, database: JobDatabase, settings: TrainerSettings, source: str
) -> None:
    resplit(store, "local", source, SPLIT, "draw-1", settings)
    proof = delete_dataset(store, database, "local", source)
    assert proof["name"] == f"datasets/{source}" and proof["num_objects"] == 13
    assert store.list("local", DATASETS) == []
    with pytest.raises(NotFound):
        resplit(store, "local", source, SPLIT, "draw-1", settings)


def test_deleting_a_split_leaves_the_images(
    store: ArtifactStore, database: JobDatabase, settings: TrainerSettings, source: str
) -> None:
    resplit(store, "local", source, SPLIT, "draw-1", settings)
    delete_dataset(store, database, "local", "draw-1")
    assert len(load_images(store, "local", source, "test", 32, settings).images) > 0


def test_further_real_images_are_of_no_patient_who_tests_and_no_copy_of_a_test_image() -> None:
    def image(patient: str, phash: str) -> dict[str, str]:
        return {
            "class_id": "monocyte", "file_name": "", "patient_id": patient, "phash": phash
        }  # fmt: skip

    far = [f"{0xFFFF << 16 * k:016x}" for k in range(4)]
    images = {
        "a": image("trains", far[0]),
        "b": image("tests", far[1]),
        "c": image("tests", far[2]),
        "d": image("", f"{(0xFFFF << 16) ^ 1:016x}"),  # a near-duplicate of b
        "e": image("trains", far[3]),
    }
    split = {"train": ["a"], "test": ["b"], "left_out_reason": ""}
    dataset = {"body": {"images": images, "classes": {"monocyte": split}}}
    assert spare_digests(dataset) == {"monocyte": ["e"]}
