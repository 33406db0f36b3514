"""Classification: versions, aliases, the model cache, independent answers."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from google.rpc import error_details_pb2
from PIL import Image

from services.classifier.classify import (
    BATCH_SIZES,
    check_count,
    chunks,
    classify,
    prepare,
    prepare_all,
)
from services.classifier.config import ClassifierSettings
from services.classifier.models import ModelRegistry
from services.common.database.jobs import JobDatabase, migrate
from services.common.errors import MAX_LISTED, FailedPrecondition, InvalidArgument, NotFound
from services.common.images.codec import ImageLimits, encode_image
from services.common.rpc.statuses import to_status
from services.common.store.artifacts import ArtifactStore
from tests.support.few_shot import CLASSES, TENANT, cell_image, store_random_classifier
from tests.support.image_files.icc_profiles import srgb_profile
from tests.support.image_files.tiff_files import tiff_file


@pytest.fixture
def settings(tmp_path: Path) -> ClassifierSettings:
    url = f"sqlite:///{tmp_path}/jobs.db"
    migrate(url)
    return ClassifierSettings(
        store_uri=f"file://{tmp_path}/store",
        database_url=url,
        models_dir=tmp_path / "models",
        classifier_max_loaded_models=2,
        classifier_device="cpu",
    )


@pytest.fixture
def registry(settings: ClassifierSettings) -> ModelRegistry:
    store = ArtifactStore(settings.store_uri)
    for number in (1, 2, 3):
        store_random_classifier(store, f"model-{number}", seed=number)
    return ModelRegistry(store, JobDatabase(settings.database_url).aliases, settings)


def some_arrays(registry: ModelRegistry, count: int) -> list[np.ndarray]:
    model = registry.load(TENANT, "model-1")
    files = [encode_image(cell_image(CLASSES[n % 3], n)) for n in range(count)]
    return [prepare(data, f"images[{n}]", model, ImageLimits()) for n, data in enumerate(files)]


def table(answers: list[Any]) -> np.ndarray:
    return np.array([[dict(a.probabilities)[c] for c in CLASSES] for a in answers])


def test_probabilities_are_ranked_and_sum_to_one(registry: ModelRegistry) -> None:
    model = registry.load(TENANT, "model-1")
    for answer in classify(model, some_arrays(registry, 5)):
        values = [probability for _, probability in answer.probabilities]
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1.0)
        assert answer.class_id == answer.probabilities[0][0]
        assert {class_id for class_id, _ in answer.probabilities} == set(CLASSES)


def test_answer_is_bit_identical_in_every_batch(registry: ModelRegistry) -> None:
    model = registry.load(TENANT, "model-1")
    arrays = some_arrays(registry, 20)
    together = table(classify(model, arrays))
    others = [np.zeros_like(arrays[0])] * 19
    alone_in_company = table(classify(model, [arrays[0], *others]))
    np.testing.assert_array_equal(alone_in_company[0], together[0])


def test_answer_differs_between_batch_sizes_by_rounding_alone(registry: ModelRegistry) -> None:
    model = registry.load(TENANT, "model-1")
    arrays = some_arrays(registry, 20)
    together = table(classify(model, arrays))
    single = np.concatenate([table(classify(model, [array])) for array in arrays])
    np.testing.assert_allclose(single, together, atol=1e-5, rtol=0)


def test_every_image_is_in_one_chunk() -> None:
    assert [part.start for part in chunks(70)] == [0, 32, 64]
    assert max(BATCH_SIZES) == 32


@pytest.mark.parametrize("count", [0, 257, 10**6])
def test_empty_and_huge_batches_are_refused(count: int) -> None:
    with pytest.raises(InvalidArgument, match="send 1 to 256"):
        check_count(count, 256)


def test_bad_image_is_named_by_its_place(registry: ModelRegistry) -> None:
    model = registry.load(TENANT, "model-1")
    with pytest.raises(InvalidArgument) as caught:
        prepare(b"no image", "images[3]", model, ImageLimits())
    assert caught.value.field == "images[3]"


def test_all_unreadable_images_of_a_call_are_named(registry: ModelRegistry) -> None:
    model = registry.load(TENANT, "model-1")
    good = encode_image(cell_image(CLASSES[0], 0))
    images = [good, b"", good, b"no image", *[b""] * 20]
    fields = [f"images[{number}]" for number in range(len(images))]
    with pytest.raises(InvalidArgument) as caught:
        prepare_all(images, fields, model, ImageLimits())
    error = caught.value
    assert error.field == "images[1]" and error.problem == "is empty"
    named = [error.field, *(field for field, _ in error.further)]
    assert named[:4] == ["images[1]", "images[3]", "images[4]", "images[5]"]
    assert len(named) == MAX_LISTED and error.num_more == 22 - MAX_LISTED
    status = to_status(error)
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details)
    assert [violation.field for violation in bad.field_violations] == named
    assert len(status.SerializeToString()) < 6000  # as base64 and with the message below 8 KiB
    assert len(prepare_all([good, good], fields[:2], model, ImageLimits())) == 2


def test_alpha_depth_planes_and_profile_leave_the_answer_as_it_is(registry: ModelRegistry) -> None:
    model = registry.load(TENANT, "model-1")
    cell = cell_image("lymphocyte", 3)
    deep = cell.astype(np.uint16) * 257
    files = {
        "hidden": encoded(np.dstack([cell, np.zeros(cell.shape[:2], np.uint8)])),
        "planar": tiff_file(deep, photometric=2, separate=True),
        "sRGB": encoded(cell, icc_profile=srgb_profile()),
    }
    expected = prepare(encode_image(cell), "image", model, ImageLimits())
    for name, data in files.items():
        np.testing.assert_array_equal(prepare(data, name, model, ImageLimits()), expected)
    grey = np.repeat(cell[..., 1:2], 3, 2)
    stated = tiff_file(
        (grey[..., 0].astype(np.uint32) * 4095 // 255).astype(np.uint16),
        photometric=1,
        tags={281: (3, [4095])},
    )
    arrays = [prepare(data, "image", model, ImageLimits()) for data in (encode_image(grey), stated)]
    rows = table(classify(model, arrays))
    np.testing.assert_allclose(rows[1], rows[0], atol=0.01)


def encoded(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_only_the_most_recently_used_models_stay_loaded(registry: ModelRegistry) -> None:
    first = registry.load(TENANT, "model-1")
    registry.load(TENANT, "model-2")
    assert registry.load(TENANT, "model-1") is first
    registry.load(TENANT, "model-3")  # model-2 was unused for longest
    assert registry.num_loaded == 2
    assert registry.load(TENANT, "model-1") is first


def test_alias_points_at_a_version_and_rolls_back(registry: ModelRegistry) -> None:
    with pytest.raises(NotFound, match="aliases/production"):
        registry.resolve(TENANT, "", "model")
    registry.set_alias(TENANT, "aliases/production", "classifiers/model-1")
    registry.set_alias(TENANT, "aliases/production", "classifiers/model-2")
    assert registry.resolve(TENANT, "", "model") == "model-2"
    assert registry.describe(TENANT, "model-2").aliases == ("production",)
    rolled = registry.rollback_alias(TENANT, "aliases/production")
    assert rolled.classifier_id == "model-1"
    assert registry.resolve(TENANT, "aliases/production", "model") == "model-1"
    with pytest.raises(FailedPrecondition):
        registry.rollback_alias(TENANT, "aliases/production")


def test_names_are_checked(registry: ModelRegistry) -> None:
    with pytest.raises(NotFound, match="classifiers/none"):
        registry.resolve(TENANT, "classifiers/none", "model")
    with pytest.raises(NotFound):
        registry.resolve("other-lab", "classifiers/model-1", "model")
    with pytest.raises(InvalidArgument) as caught:
        registry.resolve(TENANT, "adapters/model-1", "model")
    assert caught.value.field == "model"
    with pytest.raises(NotFound):
        registry.set_alias(TENANT, "aliases/production", "classifiers/none")
    with pytest.raises(InvalidArgument):
        registry.set_alias(TENANT, "aliases/production", "aliases/candidate")


def test_an_alias_does_not_roll_back_to_a_deleted_classifier(
    registry: ModelRegistry, settings: ClassifierSettings
) -> None:
    for number in (1, 2):
        registry.set_alias(TENANT, "aliases/production", f"classifiers/model-{number}")
    ArtifactStore(settings.store_uri).delete(TENANT, "classifiers", "model-1")
    with pytest.raises(FailedPrecondition, match=r"model-1 was deleted.*alias set production"):
        registry.rollback_alias(TENANT, "aliases/production")
    assert registry.resolve(TENANT, "aliases/production", "model") == "model-2"
    registry.delete_alias(TENANT, "aliases/production")
    assert registry.list_aliases(TENANT) == []


def test_a_classifier_deleted_while_they_are_listed_is_left_out(
    registry: ModelRegistry, settings: ClassifierSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(settings.store_uri)
    listed = store.list(TENANT, "classifiers")
    store.delete(TENANT, "classifiers", "model-2")
    monkeypatch.setattr(ArtifactStore, "list", lambda *_: listed)
    ids = [info.classifier_id for info in registry.list_models(TENANT)]
    assert ids == ["model-3", "model-1"]


def test_models_are_listed_newest_first_and_by_tenant(registry: ModelRegistry) -> None:
    listed = [info.classifier_id for info in registry.list_models(TENANT)]
    assert listed == ["model-3", "model-2", "model-1"]
    assert registry.list_models("other-lab") == []


def test_loaded_model_computes_without_gradients(registry: ModelRegistry) -> None:
    model = registry.load(TENANT, "model-1")
    assert not model.network.training
    assert model.device == torch.device("cpu")
