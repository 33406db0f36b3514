"""Versions from the store: warm, padded, without gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from services.classifier.config import ClassifierSettings
from services.classifier.loaded_model import LoadedModel, ModelLoader
from services.common.errors import NotFound
from services.common.store.artifacts import ArtifactStore
from tests.support.few_shot import CLASSES, TENANT, cell_image, store_random_classifier


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> ModelLoader:
    root = tmp_path_factory.mktemp("store")
    store = ArtifactStore(f"file://{root}")
    store_random_classifier(store, "model-1", seed=1)
    return ModelLoader(store, ClassifierSettings(classifier_device="cpu"))


@pytest.fixture(scope="module")
def model(loader: ModelLoader) -> LoadedModel:
    return loader.load(TENANT, "model-1")


def cells(count: int) -> list[np.ndarray]:
    return [cell_image(CLASSES[number % 3], number, 32) for number in range(count)]


def logits(model: LoadedModel, images: list[np.ndarray], size: int) -> np.ndarray:
    return np.array([scores.logits for scores in model.scores(images, size)])


def test_the_answer_is_bit_identical_in_every_batch_of_a_size(model: LoadedModel) -> None:
    images = cells(7)
    together = logits(model, images, 8)
    assert together.shape == (7, len(CLASSES))
    np.testing.assert_array_equal(logits(model, images[:1], 8)[0], together[0])


def test_sizes_differ_by_rounding_alone(model: LoadedModel) -> None:
    images = cells(8)
    single = np.concatenate([logits(model, [image], 1) for image in images])
    np.testing.assert_allclose(single, logits(model, images, 8), atol=1e-4, rtol=0)


def test_features_belong_to_the_logits(model: LoadedModel) -> None:
    scores = model.scores(cells(1), 1)[0]
    head = torch.from_numpy(scores.features[None])
    expected = model.network.head(head).detach().numpy()[0]
    np.testing.assert_allclose(scores.logits, expected, atol=1e-4)


def test_a_version_is_warm_once_it_is_loaded(model: LoadedModel) -> None:
    assert model.times.sizes[0] == 1 and model.times.seconds(1) > 0
    assert not model.network.training and model.device == torch.device("cpu")
    assert model.runtime.name in ("torch", "openvino") and len(model.manifest_digest) == 64
    assert model.lane == (TENANT, "model-1")


def test_a_version_of_another_tenant_is_not_found(loader: ModelLoader) -> None:
    with pytest.raises(NotFound):
        loader.load("other-lab", "model-1")


def test_a_classifier_of_an_earlier_release_answers_with_plain_probabilities(
    model: LoadedModel,
) -> None:
    assert model.answers.calibration is None and model.answers.conformal is None
    assert model.answers.class_ids == CLASSES
