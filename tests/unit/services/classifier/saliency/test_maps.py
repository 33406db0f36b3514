"""Saliency finds the pixels that speak for a class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from services.classifier.saliency.maps import grad_cam, integrated_gradients, saliency_map
from services.common.models.classifier_config import ClassifierConfig
from services.common.models.classifiers import build_model
from services.common.models.image_classifier import ImageClassifier
from services.common.models.resnet_classifier import ResNetClassifier
from tests.support.fakes import write_tiny_clip
from tests.support.few_shot import CLASSES, cell_image

CPU = torch.device("cpu")


class Brightness(ImageClassifier):
    """A model whose class 1 follows the top left quarter's brightness."""

    def features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        height, width = (size // 2 for size in images_BCHW.shape[2:])
        return images_BCHW[:, :, :height, :width].mean(dim=(1, 2, 3))[:, None]

    def head(self, features_BD: torch.Tensor) -> torch.Tensor:
        return torch.cat([-features_BD, features_BD], dim=1)


@pytest.fixture
def resnet() -> ResNetClassifier:
    torch.manual_seed(0)
    model = build_model(ClassifierConfig("resnet18", CLASSES, 64), Path("unused")).eval()
    assert isinstance(model, ResNetClassifier)
    return model


def test_a_map_shows_where_the_class_is_seen() -> None:
    image = np.full((64, 64, 3), 60, np.uint8)
    image[8:24, 8:24] = 250
    for_bright = saliency_map(Brightness(), image, 1, CPU)
    assert for_bright.shape == (64, 64) and for_bright.max() == pytest.approx(1, abs=1e-5)
    assert for_bright[10:22, 10:22].min() > 0.5
    assert for_bright[32:, :].max() == 0 and for_bright[:, 36:].max() == 0
    for_dark = saliency_map(Brightness(), image, 0, CPU)
    assert for_dark[10:22, 10:22].max() < 0.5 < for_dark.max()


def test_shares_of_pixels_add_up_to_what_they_explain() -> None:
    torch.manual_seed(0)
    model, image = Brightness(), torch.rand(1, 3, 16, 16)
    blank = image.mean(dim=(2, 3), keepdim=True).expand_as(image)
    rise = (model.logits(image) - model.logits(blank))[0, 1]
    share = integrated_gradients(model, image, 1).sum()
    assert share.item() == pytest.approx(rise.item(), abs=1e-5)


def test_grad_cam_weighs_the_last_maps_by_their_gradients(resnet: ResNetClassifier) -> None:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = grad_cam(resnet, image, 2)
    with torch.no_grad():
        maps = resnet.maps(image)
    # Behind the average of a map is one layer, so its gradient is that layer's weight.
    weight = resnet.net.fc.weight[2].detach() / (maps.shape[2] * maps.shape[3])
    expected = (weight[None, :, None, None] * maps).sum(dim=1, keepdim=True).relu()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


def test_maps_differ_by_class_and_leave_the_network_as_it_was(resnet: ResNetClassifier) -> None:
    image = cell_image("monocyte", 1, 64)
    maps = [saliency_map(resnet, image, index, CPU) for index in range(3)]
    assert all(each.min() >= 0 and each.max() <= 1 for each in maps)
    assert not np.allclose(maps[0], maps[1])
    assert all(parameter.grad is None for parameter in resnet.parameters())
    assert not resnet.training


def test_clip_has_maps_too(tmp_path: Path) -> None:
    write_tiny_clip(tmp_path)
    model = build_model(ClassifierConfig("clip", CLASSES, 32, "tiny-clip"), tmp_path).eval()
    image = cell_image("eosinophil", 1, 32)
    found = saliency_map(model, image, 0, CPU)
    assert found.shape == (32, 32) and found.min() >= 0 and found.max() <= 1
