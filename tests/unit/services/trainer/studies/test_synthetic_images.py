"""A study's synthetic images: no test images, no copies of training images."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from services.common.errors import FailedPrecondition
from services.common.images.codec import center_square, encode_image
from services.common.store.artifacts import ArtifactStore
from services.trainer.datasets.resplitting import resplit
from services.trainer.studies import job as study
from services.trainer.studies.recipe import StudySettings
from tests.support.few_shot import (
    CLASSES,
    TENANT,
    DrawnImage,
    FakeGenerator,
    cell_image,
    job_context,
)
from tests.support.studies import begin, read_report


def test_a_synthetic_image_in_the_test_set_stops_the_study(
    settings: Any, store: ArtifactStore, generator: FakeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copying(class_counts: dict[str, int], seed: int) -> Any:
        index = 0
        for class_id, count in class_counts.items():
            for number in range(count):
                data = encode_image(cell_image(class_id, number))  # what was uploaded
                yield DrawnImage(index, class_id, index, data, "d", {"base": "tiny"})
                index += 1

    monkeypatch.setattr(FakeGenerator, "__call__", lambda _, *args: copying(*args))
    spec = begin(store, settings, num_per_class=[14], models=["resnet18"])
    with pytest.raises(FailedPrecondition, match="15 of its locked test images are synthetic"):
        study.run(spec, job_context(store, settings))


def test_near_duplicates_of_training_images_are_withheld_and_counted(
    settings: Any,
    store: ArtifactStore,
    generator: FakeGenerator,
    trained: Counter[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = begin(store, settings, models=["resnet18"], num_draws=1, num_per_class=[4])
    split = StudySettings.from_dict(spec["settings"]).split(0, list(CLASSES))
    source_id = spec["dataset"].split("/")[1]
    body = resplit(store, TENANT, source_id, split, "the-same-split", settings)["body"]
    planted = body["classes"]["lymphocyte"]["train"][0]
    number = int(body["images"][planted]["file_name"].split("/")[1][:-4])
    really = FakeGenerator.__call__

    def memorising(self: FakeGenerator, class_counts: dict[str, int], seed: int) -> Any:
        for image in really(self, class_counts, seed):
            if image.class_id == "lymphocyte" and image.index % 4 in (0, 2):
                copied = center_square(cell_image("lymphocyte", number), body["center_crop"], 64)
                copied = np.ascontiguousarray(np.rot90(copied, image.index % 4))
                data = encode_image(copied)
                yield DrawnImage(image.index, image.class_id, 0, data, "d", image.manifest)
            else:
                yield image

    monkeypatch.setattr(FakeGenerator, "__call__", memorising)
    content = read_report(store, study.run(spec, job_context(store, settings)))
    [draw] = content["draws"]
    assert (draw["num_synthetic"], draw["num_withheld"]) == (12, 2)
    assert content["privacy"]["near_copies"] == {
        "num_synthetic": 12,
        "num_redrawn": 0,
        "num_withheld": 2,
        "num_used": 10,
        "num_released": 0,
    }
    compared = content["quality"]["overall"]
    assert compared["n_synthetic"] == compared["n_real"] == [10], "those withheld are left out"
    page = store.read(TENANT, "reports", "job-1", "report.html").decode()
    assert "Of 12 synthetic images 2 were near-duplicates" in page
    assert trained["resnet18", 0, "9+10"] == 1 and trained["resnet18", 0, "10+0"] == 1
