"""Requests for studies that cannot be carried out are refused by field."""

from __future__ import annotations

from typing import Any

import pytest

from services.common.errors import FailedPrecondition, InvalidArgument
from services.common.images.codec import encode_image
from services.common.store.artifacts import ArtifactStore
from services.trainer.studies import job as study
from services.trainer.studies.recipe import phantom_classes
from tests.support import fakes
from tests.support.few_shot import TENANT, cell_image, upload_dataset
from tests.support.studies import QUICK, begin


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"preset": "huge"}, "settings.preset"),
        ({"models": ["resnet18", "vgg"]}, "settings.models[1]"),
        ({"models": ["clip", "clip"]}, "settings.models"),
        ({"arms": ["real_plus_synthetic"]}, "settings.arms"),
        ({"arms": ["real_only", "magic"]}, "settings.arms[1]"),
        ({"num_per_class": [0]}, "settings.num_per_class[0]"),
        ({"num_per_class": [5001]}, "settings.num_per_class[0]"),
        ({"num_per_class": [4, 2]}, "settings.num_per_class"),
        ({"num_draws": 51}, "settings.num_draws"),
        ({"seed": -1}, "settings.seed"),
        ({"num_steps": -5}, "settings.num_steps"),
        ({"loss_weight": float("nan")}, "settings.loss_weight"),
        ({"sampler_preset": "ultra"}, "settings.sampler_preset"),
        ({"shots": -1}, "settings.shots"),
        ({"class_shots": {"monocyte": 0}}, "settings.class_shots['monocyte']"),
        ({"class_shots": {"dragon": 3}}, "settings.class_shots['dragon']"),
        ({"base": "nope"}, "settings.base"),
        ({"clip_base": "nope"}, "settings.clip_base"),
        ({"transfer_resnet_base": "nope"}, "settings.transfer_resnet_base"),
        ({"transfer_clip_base": "nope"}, "settings.transfer_clip_base"),
        ({"feature_space": "nope"}, "settings.feature_space"),
    ],
)
def test_bad_settings_are_refused_by_field(
    changes: dict[str, Any], field: str, settings: Any, store: ArtifactStore
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        begin(store, settings, **changes)
    assert caught.value.field == field and caught.value.remedy


def test_classes_without_a_phantom_leave_that_arm_out(settings: Any, store: ArtifactStore) -> None:
    assert phantom_classes(["neutrophil"]) == ["neutrophil_segmented"]
    assert phantom_classes(["neutrophil", "unicorn"]) == []
    assert "real_plus_phantoms" in begin(store, settings)["settings"]["arms"]
    from services.trainer.datasets.upload import DatasetHeader, DatasetUpload

    with DatasetUpload(store, TENANT, DatasetHeader(center_crop=1.0), settings) as upload:
        for number in range(12):
            class_id = ("unicorn", "monocyte")[number % 2]
            upload.add(class_id, f"{number}.png", "", encode_image(cell_image(class_id, number)))
        name = upload.commit(12)["name"]
    spec = study.validate({"dataset": name, "settings": QUICK}, store, TENANT, settings)
    assert set(spec["settings"]["arms"]) == set(QUICK["arms"]) - {"real_plus_phantoms"}


def test_the_base_must_be_blind_to_the_test_images(settings: Any, store: ArtifactStore) -> None:
    dataset = upload_dataset(store, settings)
    manifest = store.get_manifest(TENANT, "datasets", dataset.split("/")[1])
    images = manifest["body"]["images"]
    for name, seen in (
        ("digests", list(images)),
        ("phashes", [i["phash"] for i in images.values()]),
    ):
        fakes.write_tiny_clip(settings.models_dir, "informed", **{name: seen})
        spec = {"dataset": dataset, "settings": QUICK | {"clip_base": "informed"}}
        with pytest.raises(FailedPrecondition, match="of the 15 locked test images") as caught:
            study.validate(spec, store, TENANT, settings)
        assert caught.value.subject == "CLIP base informed"
