"""Classifiers rebuilt from their files, and LoRA in both CLIP towers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models

from services.common.errors import FailedPrecondition, InvalidArgument
from services.common.models.classifier_config import ClassifierConfig
from services.common.models.classifiers import (
    build_model,
    features_and_logits,
    load_model,
    probabilities,
    save_model,
)
from services.common.models.clip_bases import list_clip_bases, resolve_clip_base
from services.common.models.clip_classifier import _SplitAttention
from services.common.models.resnet_classifier import ResNetClassifier, SmallMapConv2d
from tests.support.fakes import write_tiny_clip

CLASSES = ("lymphocyte", "monocyte", "myeloblast")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_clip(folder)
    return folder


def config_of(architecture: str, models_dir: Path) -> ClassifierConfig:
    if architecture != "clip":
        return ClassifierConfig(architecture, CLASSES, 32)
    revision = resolve_clip_base("tiny-clip", models_dir).revision
    return ClassifierConfig("clip", CLASSES, 32, "tiny-clip", revision, lora_rank=4)


def some_images(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("architecture", ["resnet18", "clip"])
def test_saved_classifier_answers_as_before(architecture: str, models_dir: Path) -> None:
    config = config_of(architecture, models_dir)
    torch.manual_seed(1)
    model = build_model(config, models_dir)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.02)
    model.train()
    model.logits(torch.rand(4, 3, 32, 32))  # moves BatchNorm statistics, where there are any
    before = probabilities(model.eval(), some_images(), CPU)
    torch.manual_seed(2)
    again = load_model(
        ClassifierConfig.from_dict(config.to_dict()),
        save_model(model)["model.safetensors"],
        models_dir,
    )
    np.testing.assert_allclose(probabilities(again, some_images(), CPU), before, atol=1e-6)
    np.testing.assert_allclose(before.sum(axis=1), 1.0, atol=1e-12)


def test_weights_of_another_architecture_are_refused(models_dir: Path) -> None:
    weights = save_model(build_model(config_of("clip", models_dir), models_dir))
    with pytest.raises(ValueError, match="do not belong"):
        load_model(config_of("resnet18", models_dir), weights["model.safetensors"], models_dir)


def test_only_lora_and_logit_scale_of_clip_are_trained_and_both_towers_have_gradients(
    models_dir: Path,
) -> None:
    model = build_model(config_of("clip", models_dir), models_dir)
    loss = nn.functional.cross_entropy(model.logits(torch.rand(3, 3, 32, 32)), torch.arange(3))
    loss.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or name == "clip.logit_scale" for name in trained)
    moving = [n for n, p in trained.items() if p.grad is not None and p.grad.abs().sum() > 0]
    assert any(".visual." in name for name in moving)
    assert any("clip.transformer." in name for name in moving)
    for part in ("q_proj", "k_proj", "v_proj", "out_proj", "c_fc", "c_proj"):
        assert any(f".{part}." in name for name in trained)
    assert set(model.learned_state()) == set(trained)


def test_paper_recipe_keeps_lora_to_the_attention(models_dir: Path) -> None:
    config = config_of("clip", models_dir)
    model = build_model(
        ClassifierConfig.from_dict({**config.to_dict(), "lora_mlp": False}), models_dir
    )
    trained = [name for name in model.learned_state() if "lora_" in name]
    assert trained and all(".attn." in name for name in trained)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_split_attention_computes_what_the_fused_one_did(batch_first: bool, causal: bool) -> None:
    torch.manual_seed(0)
    fused = nn.MultiheadAttention(16, 4, batch_first=batch_first).eval()
    nn.init.normal_(fused.in_proj_bias)
    x = torch.randn(5, 5, 16)
    mask = torch.full((5, 5), float("-inf")).triu(1) if causal else None
    expected = fused(x, x, x, need_weights=False, attn_mask=mask)[0]
    torch.testing.assert_close(_SplitAttention(fused)(x, x, x, attn_mask=mask)[0], expected)


def test_text_features_are_computed_anew_after_training(models_dir: Path) -> None:
    model = build_model(config_of("clip", models_dir), models_dir).eval()
    before = probabilities(model, some_images(), CPU)
    model.train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "clip.transformer" in name and "lora_B" in name:
                parameter.add_(1.0)
    assert np.abs(probabilities(model.eval(), some_images(), CPU) - before).max() > 1e-6


def test_lora_is_refused_on_another_revision_of_its_base(models_dir: Path) -> None:
    config = config_of("clip", models_dir).to_dict() | {"clip_revision": "0" * 64}
    with pytest.raises(FailedPrecondition, match="tiny-clip"):
        build_model(ClassifierConfig.from_dict(config), models_dir)


def test_unknown_clip_base_is_named_with_those_that_exist(models_dir: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"settings.clip_base.*'nope'.*tiny-clip"):
        resolve_clip_base("nope", models_dir)
    with pytest.raises(InvalidArgument):
        resolve_clip_base("../models/tiny-clip", models_dir)


def test_manifest_points_at_a_model_kept_elsewhere(tmp_path: Path) -> None:
    folder = write_tiny_clip(tmp_path / "elsewhere", "weights")
    for name, location in (
        ("by-id", "ViT-B-32/laion2b_s34b_b79k"),
        ("by-hub", "hf-hub:owner/model"),
        ("by-folder", str(folder)),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(
            f'{{"kind": "clip_base", "location": "{location}", "image_size_px": 224}}'
        )
    assert list_clip_bases(tmp_path) == ["by-folder", "by-hub", "by-id"]
    by_id = resolve_clip_base("by-id", tmp_path)
    assert (by_id.model_name, by_id.pretrained) == ("ViT-B-32", "laion2b_s34b_b79k")
    assert by_id.image_size_px == 224
    assert resolve_clip_base("by-hub", tmp_path).model_name == "hf-hub:owner/model"
    by_folder = resolve_clip_base("by-folder", tmp_path)
    assert (by_folder.model_name, by_folder.image_size_px) == (f"local-dir:{folder}", 32)


@pytest.mark.parametrize(("size", "stride"), [(4, 2), (2, 1), (3, 2), (1, 1)])
def test_convolution_of_a_tiny_map_is_that_of_torch(size: int, stride: int) -> None:
    torch.manual_seed(size)
    plain = nn.Conv2d(8, 16, 3, stride=stride, padding=1, bias=False)
    plain = plain.to(memory_format=torch.channels_last)
    twin = nn.Conv2d(8, 16, 3, stride=stride, padding=1, bias=False)
    twin.load_state_dict(plain.state_dict())
    small = SmallMapConv2d.of(twin.to(memory_format=torch.channels_last))
    inputs = [torch.randn(3, 8, size, size).requires_grad_() for _ in range(2)]
    inputs[1].data.copy_(inputs[0].data)
    outputs = [conv(x) for conv, x in zip((plain, small), inputs, strict=True)]
    assert outputs[1].shape == outputs[0].shape
    assert not any("Convolution" in name for name in _functions_behind(outputs[1]))
    weights = torch.randn_like(outputs[0])
    for output in outputs:
        (output * weights).sum().backward()
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=0, atol=1e-5)
    torch.testing.assert_close(small.weight.grad, plain.weight.grad, rtol=0, atol=1e-4)
    assert small.weight.grad is not None
    assert small.weight.grad.stride() == small.weight.stride()  # the optimizer copies nothing
    with torch.no_grad():
        assert torch.equal(small(inputs[0]), plain(inputs[0]))


def _functions_behind(output: torch.Tensor) -> list[str]:
    found, todo = [], [output.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None:
            found.append(node.name())
            todo += [each for each, _ in node.next_functions]
    return found


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_resnet_starts_from_the_weights_that_torchvision_samples(architecture: str) -> None:
    torch.manual_seed(5)
    ours = ResNetClassifier(ClassifierConfig(architecture, ("a", "b"), 64))
    after = torch.rand(1)
    torch.manual_seed(5)
    theirs = getattr(torchvision_models, architecture)(num_classes=2, zero_init_residual=True)
    assert torch.equal(after, torch.rand(1))
    state = ours.net.state_dict()
    assert list(state) == list(theirs.state_dict())
    assert all(torch.equal(state[name], t) for name, t in theirs.state_dict().items())
    assert sum(isinstance(m, SmallMapConv2d) for m in ours.modules()) == (
        4 if architecture == "resnet18" else 3
    )


@pytest.mark.parametrize("architecture", ["resnet18", "clip"])
def test_features_and_logits_of_one_pass_are_those_of_the_classifier(
    architecture: str, models_dir: Path
) -> None:
    model = build_model(config_of(architecture, models_dir), models_dir).eval()
    features, logits = features_and_logits(model, some_images(), CPU)
    assert features.shape[0] == len(some_images()) and features.shape[1] > logits.shape[1]
    softmaxed = torch.softmax(torch.from_numpy(logits).double(), dim=1).numpy()
    np.testing.assert_array_equal(softmaxed, probabilities(model, some_images(), CPU))
    again = model.head(torch.from_numpy(features)).detach().numpy()
    np.testing.assert_allclose(again, logits, rtol=1e-4, atol=1e-5)


def test_resnet_answers_to_the_bit_as_torchvision(models_dir: Path) -> None:
    model = build_model(config_of("resnet18", models_dir), models_dir).eval()
    x = torch.rand(4, 3, 32, 32)
    normal = model.normalize(x, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        expected = model.net(normal.contiguous(memory_format=torch.channels_last))
        assert torch.equal(model.logits(x), expected)


def test_folded_lora_answers_as_before_without_layers_of_its_own(models_dir: Path) -> None:
    torch.manual_seed(0)
    model = build_model(config_of("clip", models_dir), models_dir).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # they start at 0, as if there were none
                parameter.normal_(std=0.05)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    used: list[str] = []
    for name, module in model.named_modules():
        if "lora_A" in name and not list(module.children()):
            module.register_forward_hook(lambda *_, name=name: used.append(name))
    before = features_and_logits(model, images, CPU)
    assert used
    used.clear()
    model.fold()
    after = features_and_logits(model, images, CPU)
    assert not used
    for found, expected in zip(after, before, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)
