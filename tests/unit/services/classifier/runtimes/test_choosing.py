"""Runtimes agree with torch, or torch computes."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from services.classifier.runtimes import choosing
from services.classifier.runtimes.choosing import choose_runtime, parity_problem
from services.classifier.runtimes.runtime import TorchRuntime
from services.common.models.classifier_config import ClassifierConfig
from services.common.models.classifiers import build_model
from services.common.models.image_classifier import ImageClassifier
from tests.support.fakes import write_tiny_clip
from tests.support.few_shot import CLASSES, cell_image

CPU = torch.device("cpu")
SIZE = 32


def lively(model: ImageClassifier) -> ImageClassifier:
    """The model with all branches at work, unlike a new ResNet's."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.2, 0.6, generator=generator)
    return model.eval()


@pytest.fixture(params=["resnet18", "resnet50", "clip"])
def network(request: pytest.FixtureRequest, tmp_path: Path) -> ImageClassifier:
    torch.manual_seed(0)
    write_tiny_clip(tmp_path)
    base = "tiny-clip" if request.param == "clip" else ""
    return lively(build_model(ClassifierConfig(request.param, CLASSES, SIZE, base), tmp_path))


@pytest.fixture
def resnet() -> ImageClassifier:
    torch.manual_seed(0)
    return lively(build_model(ClassifierConfig("resnet18", CLASSES, SIZE), Path("unused")))


class Shifted:
    """Torch, but for a logit or for the features."""

    name = "shifted"

    def __init__(self, network: ImageClassifier, logit: float = 0.0, feature: float = 0.0) -> None:
        self._torch = TorchRuntime(network, CPU)
        self._logit, self._feature = logit, feature

    def run(self, images_BHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        features_BD, logits_BC = self._torch.run(images_BHWC)
        logits_BC[:, 0] += self._logit
        features_BD[:, 0] += self._feature
        return features_BD, logits_BC


@pytest.mark.parametrize("count", [1, 3, 8])
def test_openvino_agrees_with_torch_at_every_size(network: ImageClassifier, count: int) -> None:
    pytest.importorskip("openvino", reason="there is no wheel for this system")
    runtime = choose_runtime("auto", network, CPU, num_threads=1, num_streams=1)
    assert runtime.name == "openvino"
    images = np.stack([cell_image(CLASSES[n % 3], n, SIZE) for n in range(count)])
    features_BD, logits_BC = runtime.run(images)
    expected_BD, expected_BC = TorchRuntime(network, CPU).run(images)
    np.testing.assert_allclose(logits_BC, expected_BC, atol=1e-3)
    np.testing.assert_allclose(features_BD, expected_BD, atol=1e-3)
    assert len(np.unique(expected_BC)) > 1


def test_results_outlive_the_next_batch(resnet: ImageClassifier) -> None:
    pytest.importorskip("openvino", reason="there is no wheel for this system")
    runtime = choose_runtime("openvino", resnet, CPU, num_threads=1, num_streams=1)
    cells = [np.stack([cell_image(class_id, 0, SIZE)]) for class_id in CLASSES]
    _, first = runtime.run(cells[0])
    kept = first.copy()
    runtime.run(cells[1])
    np.testing.assert_array_equal(first, kept)


def test_torch_computes_if_asked(resnet: ImageClassifier) -> None:
    assert choose_runtime("torch", resnet, CPU, 1, 1).name == "torch"


def test_a_runtime_that_disagrees_is_not_used(
    resnet: ImageClassifier, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        choosing, "OpenVinoRuntime", lambda network, *_: Shifted(network, logit=0.1)
    )
    with caplog.at_level(logging.WARNING):
        assert choose_runtime("auto", resnet, CPU, 1, 1).name == "torch"
    assert "probabilities differ by" in caplog.text


@pytest.mark.parametrize(
    ("asked", "error", "reason"),
    [
        ("openvino", ImportError("no module"), "not installed"),
        ("auto", RuntimeError("unknown operator"), "cannot convert the network"),
    ],
)
def test_torch_computes_where_a_runtime_cannot(
    resnet: ImageClassifier,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    asked: choosing.Asked,
    error: Exception,
    reason: str,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(choosing, "OpenVinoRuntime", fail)
    with caplog.at_level(logging.WARNING):
        assert choose_runtime(asked, resnet, CPU, 1, 1).name == "torch"
    assert reason in caplog.text


def test_disagreement_is_told_in_numbers(resnet: ImageClassifier) -> None:
    reference = TorchRuntime(resnet, CPU)
    assert parity_problem(reference, Shifted(resnet, logit=1e-4), SIZE) == ""
    assert "probabilities" in parity_problem(reference, Shifted(resnet, logit=float("nan")), SIZE)
    assert "features" in parity_problem(reference, Shifted(resnet, feature=5.0), SIZE)
