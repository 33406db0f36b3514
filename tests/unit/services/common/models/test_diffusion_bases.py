"""Bases are found by name, pinned by content and loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from services.common.errors import FailedPrecondition, InvalidArgument
from services.common.models import diffusion_bases, pipelines
from tests.support import fakes


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    fakes.write_tiny_base(folder, "tiny", class_ids=["monocyte", "basophil"])
    fakes.write_tiny_xl_base(folder, "tiny-xl")
    pointer = {"name": "far", "kind": "diffusion_base", "location": str(folder / "tiny")}
    for name, extra in (("far", {"revision": "abc", "image_size_px": 512}), ("unpinned", {})):
        (folder / name).mkdir()
        (folder / name / "manifest.json").write_text(json.dumps(pointer | extra))
    (folder / "recipes").mkdir()
    return folder


def test_only_bases_are_listed(models_dir: Path) -> None:
    assert diffusion_bases.list_bases(models_dir) == ["far", "tiny", "tiny-xl", "unpinned"]
    assert diffusion_bases.list_bases(models_dir / "absent") == []


def test_resolved_base_has_the_properties_in_its_files(models_dir: Path) -> None:
    base = diffusion_bases.resolve_base("tiny", models_dir)
    assert base.class_ids == ("monocyte", "basophil")
    assert base.image_size_px == fakes.IMAGE_SIZE_PX
    assert len(base.revision) == 64


def test_pointer_base_takes_location_and_revision_from_its_manifest(models_dir: Path) -> None:
    base = diffusion_bases.resolve_base("far", models_dir)
    assert (base.location, base.revision) == (str(models_dir / "tiny"), "abc")
    assert base.image_size_px == 512
    assert pipelines.image_size(diffusion_bases.load_pipeline(base)) == fakes.IMAGE_SIZE_PX


def test_unpinned_pointer_is_refused(models_dir: Path) -> None:
    with pytest.raises(FailedPrecondition, match="revision"):
        diffusion_bases.resolve_base("unpinned", models_dir)


@pytest.mark.parametrize("name", ["nope", "", "..", "../tiny", "/etc", "recipes", "a/b", "x" * 500])
def test_unknown_base_lists_the_known_ones(models_dir: Path, name: str) -> None:
    with pytest.raises(InvalidArgument, match="name one of: far, tiny, tiny-xl") as caught:
        diffusion_bases.resolve_base(name, models_dir)
    assert caught.value.field == "base"
    assert str(models_dir) not in caught.value.message


def test_revision_follows_weights_and_not_the_card(tmp_path: Path) -> None:
    folder = fakes.write_tiny_base(tmp_path, "tiny")
    before = diffusion_bases.folder_revision(folder)
    (folder / "README.md").write_text("a card")
    assert diffusion_bases.folder_revision(folder) == before
    copy = fakes.write_tiny_base(tmp_path / "again", "other-name")
    assert diffusion_bases.folder_revision(copy) == before
    assert (
        diffusion_bases.folder_revision(fakes.write_tiny_base(tmp_path, "tiny", seed=1)) != before
    )


def test_tiny_decoder_has_a_revision_of_its_own(tmp_path: Path) -> None:
    folder = fakes.write_tiny_base(tmp_path, "tiny")
    without = diffusion_bases.resolve_base("tiny", tmp_path)
    assert without.tiny_decoder is None
    assert diffusion_bases.load_tiny_decoder(without) is None
    fakes.write_tiny_decoder(folder)
    base = diffusion_bases.resolve_base("tiny", tmp_path)
    assert base.revision == without.revision
    assert base.tiny_decoder is not None
    fakes.write_tiny_decoder(folder, seed=1)
    other = diffusion_bases.resolve_base("tiny", tmp_path).tiny_decoder
    assert other is not None and other.revision != base.tiny_decoder.revision
    model = diffusion_bases.load_tiny_decoder(base, dtype=torch.bfloat16)
    assert model is not None
    assert model.decode(torch.zeros(2, 16, 4, 4, dtype=torch.bfloat16)).sample.shape == (
        2,
        3,
        32,
        32,
    )
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_tiny_decoder_kept_elsewhere_is_pinned(tmp_path: Path) -> None:
    folder = fakes.write_tiny_base(tmp_path, "tiny")
    place = {"location": str(fakes.write_tiny_decoder(tmp_path / "elsewhere"))}
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"tiny_decoder": place}))
    with pytest.raises(FailedPrecondition, match=r"tiny_decoder\.revision"):
        diffusion_bases.resolve_base("tiny", tmp_path)
    (folder / "manifest.json").write_text(json.dumps(manifest | {"tiny_decoder": "taesd"}))
    with pytest.raises(FailedPrecondition, match=r"tiny_decoder\.location"):
        diffusion_bases.resolve_base("tiny", tmp_path)
    pinned = {"tiny_decoder": place | {"revision": "abc"}}
    (folder / "manifest.json").write_text(json.dumps(manifest | pinned))
    base = diffusion_bases.resolve_base("tiny", tmp_path)
    assert base.tiny_decoder == diffusion_bases.TinyDecoder(place["location"], "abc")
    assert diffusion_bases.load_tiny_decoder(base) is not None


def test_damaged_tiny_decoder_tells_no_path(tmp_path: Path) -> None:
    folder = fakes.write_tiny_decoder(fakes.write_tiny_base(tmp_path, "tiny"))
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(FailedPrecondition, match="tiny decoder of tiny") as caught:
        diffusion_bases.load_tiny_decoder(diffusion_bases.resolve_base("tiny", tmp_path))
    assert str(tmp_path) not in caught.value.message


def test_damaged_base_tells_no_path(tmp_path: Path) -> None:
    folder = fakes.write_tiny_base(tmp_path, "tiny")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(FailedPrecondition) as caught:
        diffusion_bases.load_pipeline(diffusion_bases.resolve_base("tiny", tmp_path))
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize(("name", "width"), [("tiny", 16), ("tiny-xl", 32)])
def test_prompts_are_embedded(models_dir: Path, name: str, width: int) -> None:
    pipeline = diffusion_bases.load_pipeline(diffusion_bases.resolve_base(name, models_dir))
    found = pipelines.encode_prompts(pipeline, ["a monocyte", "a basophil", ""])
    assert found.tokens.shape == (3, fakes.NUM_TOKENS, width)
    assert not torch.equal(found.tokens[0], found.tokens[1])
    assert (found.pooled is not None) == (name == "tiny-xl")
    if found.pooled is not None:
        assert found.pooled[2].abs().sum() == 0
