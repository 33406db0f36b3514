"""Feature spaces: found by name, loaded from local files only, repeatable."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from services.common.errors import FailedPrecondition, InvalidArgument
from services.common.models.clip_bases import resolve_clip_base
from services.common.models.clip_classifier import load_clip
from services.trainer.evaluation.feature_space import FeatureSpace, resolve_feature_space
from tests.support.fakes import write_tiny_clip

PTH = "pt_inception-2015-12-05-6726825d.pth"


def some_images(count: int, size: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_clip(folder)
    return folder


@pytest.fixture(scope="module")
def clip_space(models_dir: Path) -> FeatureSpace:
    return resolve_feature_space("tiny-clip", models_dir).load()


def test_clip_features_are_the_directions_that_the_bases_image_tower_gives(
    clip_space: FeatureSpace, models_dir: Path
) -> None:
    images = some_images(3)
    base = resolve_clip_base("tiny-clip", models_dir)
    clip = load_clip(base).eval()
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        expected = clip.encode_image((pixels - 0.5) / 0.5).numpy()
    expected *= np.sqrt(16) / np.linalg.norm(expected, axis=1, keepdims=True)
    found = clip_space.features(images)
    assert found.shape == (3, 16) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert clip_space.to_dict() == {"name": "tiny-clip", "revision": base.revision}


def test_features_repeat_and_do_not_depend_on_the_batch(clip_space: FeatureSpace) -> None:
    images = some_images(130)
    steps: list[tuple[int, int]] = []
    found = clip_space.features(images, lambda *step: steps.append(step))
    assert np.array_equal(clip_space.features(images), found)
    np.testing.assert_allclose(clip_space.features(images[64:67]), found[64:67], atol=1e-5)
    assert len(np.unique(found.round(4), axis=0)) == 130, "each image has features of its own"
    assert steps == [(0, 130), (64, 130), (128, 130)]


def test_images_of_another_size_are_resized(clip_space: FeatureSpace) -> None:
    small = some_images(4)
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(
        clip_space.features(large), clip_space.features(small), rtol=0.2, atol=0.2
    )


@pytest.mark.parametrize(
    "images",
    [
        some_images(2).astype(np.float32),
        some_images(2)[0],
        some_images(2)[:, :16],
        some_images(2).transpose(0, 3, 1, 2),
        some_images(0),
    ],
)
def test_what_is_no_square_rgb_image_is_refused(
    clip_space: FeatureSpace, images: np.ndarray
) -> None:
    with pytest.raises(ValueError, match=r"uint8 of shape \(N, S, S, 3\), N > 0, not"):
        clip_space.features(images)


@pytest.mark.parametrize("name", ["", "missing", "../tiny-clip"])
def test_an_unknown_space_is_refused_with_those_there_are(name: str, models_dir: Path) -> None:
    with pytest.raises(InvalidArgument, match="name one of: tiny-clip, inception") as caught:
        resolve_feature_space(name, models_dir)
    assert caught.value.field == "settings.feature_space"


class _Random(FeatureExtractorInceptionV3):  # type: ignore[misc]
    """torch-fidelity's Inception as it is made, without weights to load."""

    def load_state_dict(self, *args: Any, **kwargs: Any) -> None:
        pass


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Any:
    nothing = tmp_path_factory.mktemp("nothing") / "nothing.pth"
    torch.save({}, nothing)
    torch.manual_seed(0)
    return _Random("random", ["2048"], str(nothing))


def write_manifest(weights: Path) -> None:
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    weights.with_name("manifest.json").write_text(json.dumps({"files": {weights.name: digest}}))


@pytest.mark.parametrize("file_name", [PTH, "model.safetensors"])
def test_inception_is_that_of_the_local_file(
    inception: Any, file_name: str, tmp_path: Path
) -> None:
    weights = tmp_path / "inception-v3" / file_name
    weights.parent.mkdir()
    state = inception.state_dict()
    save_file(state, weights) if file_name.endswith(".safetensors") else torch.save(state, weights)
    write_manifest(weights)
    space = resolve_feature_space("inception", tmp_path).load()
    images = some_images(2, 24)
    with torch.no_grad():
        [expected] = inception(torch.from_numpy(images).permute(0, 3, 1, 2))
    found = space.features(images)
    assert found.shape == (2, 2048) and found.std() > 0
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    assert space.revision == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_without_inception_weights_the_remedy_is_said_and_nothing_downloaded(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda url, *_, **__: asked.append(url))
    remedy = f"put {PTH} into the folder inception-v3 .*, or name a CLIP base: tiny-clip"
    with pytest.raises(FailedPrecondition, match=remedy) as caught:
        resolve_feature_space("inception", models_dir)
    assert caught.value.subject == "settings.feature_space"
    assert str(models_dir) not in caught.value.message
    assert not asked


@pytest.mark.parametrize("file_name", [PTH, "model.safetensors"])
def test_inception_weights_of_another_digest_are_refused(file_name: str, tmp_path: Path) -> None:
    weights = tmp_path / "inception-v3" / file_name
    weights.parent.mkdir()
    weights.write_bytes(b"whatever")
    with pytest.raises(FailedPrecondition, match="not those of their manifest"):
        resolve_feature_space("inception", tmp_path)
    write_manifest(weights)
    assert resolve_feature_space("inception", tmp_path).revision
    weights.write_bytes(b"something else")
    with pytest.raises(FailedPrecondition, match="not those of their manifest"):
        resolve_feature_space("inception", tmp_path)


class _Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("content", ["hostile", "another network"])
def test_a_file_that_is_no_inception_runs_nothing_and_is_refused(
    content: str, tmp_path: Path
) -> None:
    weights, trace = tmp_path / "inception-v3" / PTH, tmp_path / "trace"
    weights.parent.mkdir()
    torch.save(_Hostile(trace) if content == "hostile" else {"x": torch.ones(1)}, weights)
    write_manifest(weights)
    source = resolve_feature_space("inception", tmp_path)
    with pytest.raises(FailedPrecondition, match="do not load; let its operator"):
        source.load()
    assert not trace.exists()
