"""ResNet bases give classifiers their first weights, or are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.common.errors import FailedPrecondition, InvalidArgument
from services.common.models.classifier_config import ClassifierConfig
from services.common.models.classifiers import build_model
from services.common.models.resnet_bases import HEAD_PREFIX, list_resnet_bases, resolve_resnet_base
from services.common.models.resnet_classifier import load_initial_weights
from tests.support import fakes

CONFIG = ClassifierConfig("resnet18", ("eosinophil", "monocyte"), 32)


def test_a_classifier_takes_all_but_the_last_layer(tmp_path: Path) -> None:
    folder = fakes.write_tiny_resnet(tmp_path)
    stored = load_file(folder / "model.safetensors")
    assert not any(name.startswith(HEAD_PREFIX) for name in stored)
    torch.manual_seed(5)
    model = build_model(CONFIG, tmp_path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_initial_weights(model, resolve_resnet_base("tiny-resnet", "resnet18", tmp_path))
    for name, tensor in model.state_dict().items():
        if name.startswith(HEAD_PREFIX):
            assert torch.equal(tensor, before[name])
        else:
            assert torch.equal(tensor, stored[name].to(tensor.dtype))
    assert not torch.equal(model.state_dict()["net.conv1.weight"], before["net.conv1.weight"])


def test_unknown_or_unfitting_bases_are_refused_by_field(tmp_path: Path) -> None:
    fakes.write_tiny_resnet(tmp_path)
    fakes.write_tiny_clip(tmp_path)
    assert list_resnet_bases(tmp_path) == ["tiny-resnet"]
    assert list_resnet_bases(tmp_path / "nowhere") == []
    with pytest.raises(InvalidArgument, match=r"settings.resnet_base.*'tiny-clip'.*tiny-resnet"):
        resolve_resnet_base("tiny-clip", "resnet18", tmp_path)
    with pytest.raises(
        InvalidArgument, match="tiny-resnet is a resnet18, not a resnet50"
    ) as caught:
        resolve_resnet_base("tiny-resnet", "resnet50", tmp_path, "settings.transfer_resnet_base")
    assert caught.value.field == "settings.transfer_resnet_base"


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    folder = fakes.write_tiny_resnet(tmp_path)
    save_file({"net.conv1.weight": torch.zeros(1)}, folder / "model.safetensors")
    base = resolve_resnet_base("tiny-resnet", "resnet18", tmp_path)
    with pytest.raises(FailedPrecondition, match="not those of a resnet18"):
        load_initial_weights(build_model(CONFIG, tmp_path), base)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FailedPrecondition, match=r"no model\.safetensors"):
        resolve_resnet_base("tiny-resnet", "resnet18", tmp_path)


def test_weights_may_lie_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fakes.write_tiny_resnet(tmp_path / "elsewhere")
    for name, location in (("by-folder", str(folder)), ("by-name", "torchvision/IMAGENET1K_V1")):
        (tmp_path / name).mkdir()
        manifest = {"kind": "resnet_base", "architecture": "resnet18", "location": location}
        (tmp_path / name / "manifest.json").write_text(json.dumps(manifest))
    by_folder = resolve_resnet_base("by-folder", "resnet18", tmp_path)
    assert by_folder.weights == str(folder / "model.safetensors")
    by_name = resolve_resnet_base("by-name", "resnet18", tmp_path)
    assert by_name.revision != by_folder.revision
    # torchvision's weights come from its server; here from where it would have put them.
    other = build_model(ClassifierConfig("resnet18", tuple("abc"), 32), tmp_path)
    published = {k.removeprefix("net."): v for k, v in other.state_dict().items()}
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url", lambda url, **_: published
    )
    model = build_model(CONFIG, tmp_path)
    load_initial_weights(model, by_name)
    assert torch.equal(model.state_dict()["net.conv1.weight"], published["conv1.weight"])
