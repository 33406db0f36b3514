"""LoRA training on a tiny base: learning, byte-identical resumption, stopping on request."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_safetensors

from cytosynth.cell_classes import class_prompt
from services.common.errors import Cancelled, InvalidArgument
from services.common.models import lora
from services.common.models.diffusion_bases import load_pipeline, resolve_base
from services.common.models.pipelines import encode_prompts
from services.trainer.adapters.diffusion_loss import target_and_weight
from services.trainer.adapters.latents import encode_images
from services.trainer.adapters.recipe import AdapterSettings
from services.trainer.adapters.training import train_adapter
from tests.support.fakes import IMAGE_SIZE_PX, load_lora
from tests.support.few_shot import MemoryCheckpoints

CLASSES = ("basophil", "lymphocyte")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class StopAt:
    """A progress callback that raises at one step."""

    def __init__(self, step: int = -1) -> None:
        self.stop, self.seen = step, []

    def __call__(self, phase: str, step: int, total: int, metrics: dict[str, float]) -> None:
        self.seen.append((phase, step, total, dict(metrics)))
        if phase == "training adapter" and step == self.stop:
            raise Cancelled()


def cells(num_per_class: int = 4) -> tuple[np.ndarray, list[str]]:
    """Dark and bright squares: classes that differ."""
    rng = np.random.default_rng(0)
    images, class_ids = [], []
    for class_id, level in zip(CLASSES, (60, 200), strict=True):
        for _ in range(num_per_class):
            noise = rng.integers(-20, 20, (IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3))
            images.append(np.clip(level + noise, 0, 255).astype(np.uint8))
            class_ids.append(class_id)
    return np.stack(images), class_ids


def hyperparameters(**changes: Any) -> AdapterSettings:
    spec = {"rank": 4, "alpha": 4.0, "num_steps": 12, "batch_size": 4, "learning_rate": 3e-3}
    return AdapterSettings.from_spec({**spec, **changes})


def fit(models_dir: Path, settings: AdapterSettings, base: str = "tiny", **parts: Any):
    images, class_ids = cells()
    progress = parts.get("progress", StopAt())
    checkpoints = parts.get("checkpoints", MemoryCheckpoints())
    return train_adapter(
        images, class_ids, resolve_base(base, models_dir), settings, progress, checkpoints
    )


def test_loss_falls_and_the_adapter_changes_the_base(models_dir: Path) -> None:
    progress = StopAt()
    fitted = fit(models_dir, hyperparameters(num_steps=50, batch_size=8), progress=progress)
    losses = [seen[3]["loss"] for seen in progress.seen if "loss" in seen[3]]
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    assert list(fitted.files) == [f"shared/{lora.WEIGHTS_FILE}"]

    pipeline = load_pipeline(resolve_base("tiny", models_dir))

    def generate() -> tuple[torch.Tensor, torch.Tensor]:
        noise = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(3))
        tokens = encode_prompts(pipeline, [class_prompt("basophil")]).tokens
        with torch.no_grad():
            return tokens.detach(), pipeline.unet(noise, 500, tokens).sample

    text_before, image_before = generate()
    load_lora(pipeline, fitted.files[f"shared/{lora.WEIGHTS_FILE}"])
    text_after, image_after = generate()
    assert (image_after - image_before).abs().max() > 1e-2
    assert (text_after - text_before).abs().max() > 1e-4, "the text encoder must be trained too"


def test_every_lora_matrix_is_trained(models_dir: Path) -> None:
    fitted = fit(models_dir, hyperparameters())
    tensors = load_safetensors(fitted.files[f"shared/{lora.WEIGHTS_FILE}"])
    zero = [name for name, t in tensors.items() if "lora_B" in name and not t.abs().max() > 0]
    assert not zero
    assert any(name.startswith("text_encoder.") for name in tensors)
    assert any("conv1" in name for name in tensors)


def test_few_images_are_seen_in_many_views_and_many_in_eight(models_dir: Path) -> None:
    pipeline = load_pipeline(resolve_base("tiny", models_dir))
    images, class_ids = cells()

    def views(num_images: int, **changes: Any) -> int:
        some = np.concatenate([images] * 40)[:num_images]
        names = ["basophil"] * num_images
        return encode_images(pipeline, some, names, quiet, **changes).mean.shape[1]

    def quiet(*_: Any) -> None: ...

    assert views(4, num_views=64) == 64
    assert views(200, num_views=64) == 10
    assert views(300, num_views=64) == 8
    assert views(3, num_views=1) == 1

    few = [encode_images(pipeline, images, class_ids, quiet, 20, seed).mean for seed in (1, 1, 2)]
    assert torch.equal(few[0], few[1])
    plain = encode_images(pipeline, images, class_ids, quiet).mean
    assert torch.allclose(few[0][:, :8], plain, atol=1e-5), "orientations come first"
    assert torch.allclose(few[2][:, :8], plain, atol=1e-5)
    assert not torch.equal(few[0][:, 8:], few[2][:, 8:]), "the seed determines the others"
    flat = few[0].flatten(2)
    assert (torch.cdist(flat, flat) + torch.eye(20)).min() > 1e-4, "no view twice"


@pytest.mark.parametrize(("num_images", "num_steps"), [(1, 24), (18, 101), (160, 300), (9999, 300)])
def test_fewer_images_take_fewer_steps(num_images: int, num_steps: int) -> None:
    assert AdapterSettings.from_spec({}).for_images(num_images).num_steps == num_steps
    asked = AdapterSettings.from_spec({"num_steps": 7})
    assert asked.for_images(num_images) == asked
    paper = AdapterSettings.from_spec({"preset": "paper"})
    assert paper.for_images(num_images) == paper


@pytest.mark.parametrize("per_class", [False, True])
def test_a_run_that_was_cut_off_ends_with_the_same_bytes(models_dir: Path, per_class: bool) -> None:
    settings = hyperparameters(per_class=per_class)
    whole = fit(models_dir, settings).files
    checkpoints = MemoryCheckpoints(every=3)
    for stop in (5, 10, 17) if per_class else (5, 10):
        with pytest.raises(Cancelled):
            fit(models_dir, settings, progress=StopAt(stop), checkpoints=checkpoints)
    progress = StopAt()
    resumed = fit(models_dir, settings, progress=progress, checkpoints=checkpoints).files
    first = next(seen[1] for seen in progress.seen if seen[0] == "training adapter")
    assert first > 0, "it must continue, not start anew"
    assert {k: hashlib.sha256(v).hexdigest() for k, v in resumed.items()} == {
        k: hashlib.sha256(v).hexdigest() for k, v in whole.items()
    }


def test_a_checkpoint_of_other_hyperparameters_is_not_continued(models_dir: Path) -> None:
    checkpoints = MemoryCheckpoints(every=3)
    with pytest.raises(Cancelled):
        fit(models_dir, hyperparameters(seed=1), progress=StopAt(8), checkpoints=checkpoints)
    progress = StopAt(1)
    with pytest.raises(Cancelled):
        fit(models_dir, hyperparameters(seed=2), progress=progress, checkpoints=checkpoints)
    assert [seen[1] for seen in progress.seen if seen[0] == "training adapter"] == [0, 1]


def test_cancel_stops_within_a_step(models_dir: Path) -> None:
    progress = StopAt(2)
    with pytest.raises(Cancelled):
        fit(models_dir, hyperparameters(), progress=progress)
    assert progress.seen[-1][1] == 2


def test_seed_decides_the_adapter(models_dir: Path) -> None:
    first, again, other = (
        fit(models_dir, hyperparameters(seed=s, num_steps=3)).files for s in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_one_adapter_per_class(models_dir: Path) -> None:
    fitted = fit(models_dir, hyperparameters(per_class=True, num_steps=2))
    assert sorted(fitted.files) == [f"{c}/{lora.WEIGHTS_FILE}" for c in CLASSES]
    assert len(set(fitted.files.values())) == 2


def test_sdxl_trains_by_the_same_code(models_dir: Path) -> None:
    fitted = fit(models_dir, hyperparameters(num_steps=2), base="tiny-xl")
    tensors = load_safetensors(fitted.files[f"shared/{lora.WEIGHTS_FILE}"])
    assert any(name.startswith("text_encoder_2.") for name in tensors)


def test_targets_agree_whatever_the_base_predicts() -> None:
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(2, 1, 2, 2, generator=generator) for _ in range(2))
    alpha = torch.tensor([0.9, 0.1]).view(2, 1, 1, 1)
    v, _ = target_and_weight("v_prediction", latents, noise, alpha, 5.0)
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    assert torch.allclose(alpha.sqrt() * noisy - (1 - alpha).sqrt() * v, latents, atol=1e-5)
    _, weight = target_and_weight("epsilon", latents, noise, alpha, 5.0)
    assert torch.allclose(weight.view(-1), torch.tensor([5 / 9, 1.0]))


def test_a_unet_that_predicts_images_learns_as_one_that_predicts_velocity() -> None:
    generator = torch.Generator().manual_seed(0)
    latents, noise, wrong = (torch.randn(3, 1, 2, 2, generator=generator) for _ in range(3))
    alpha = torch.tensor([0.9, 0.1, 0.999]).view(3, 1, 1, 1)
    found, weight = target_and_weight("sample", latents, noise, alpha, 0.0)
    assert torch.equal(found, latents)
    v, v_weight = target_and_weight("v_prediction", latents, noise, alpha, 0.0)
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    wrong_v = (alpha.sqrt() * noisy - (latents + wrong)) / (1 - alpha).sqrt()
    assert torch.allclose(
        weight[:2] * wrong[:2] ** 2, (v_weight * (wrong_v - v) ** 2)[:2], rtol=1e-3
    )
    assert weight[2] == 20, "little noise counts no more than this"
    _, capped = target_and_weight("sample", latents, noise, alpha, 5.0)
    assert torch.allclose(capped.view(-1), torch.tensor([5.0, 1 / 9, 5.0]))


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"preset": "gpu"}, "settings.preset"),
        ({"rank": 0}, "settings.rank"),
        ({"rank": 257}, "settings.rank"),
        ({"alpha": 0.0}, "settings.alpha"),
        ({"alpha": float("nan")}, "settings.alpha"),
        ({"alpha": float("inf")}, "settings.alpha"),
        ({"num_steps": -1}, "settings.num_steps"),
        ({"num_steps": 10**9}, "settings.num_steps"),
        ({"batch_size": 0}, "settings.batch_size"),
        ({"learning_rate": float("nan")}, "settings.learning_rate"),
        ({"learning_rate": -1e-4}, "settings.learning_rate"),
        ({"seed": -1}, "settings.seed"),
    ],
)
def test_bad_settings_name_their_field(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        AdapterSettings.from_spec(spec)
    assert caught.value.field == field
    assert caught.value.remedy


def test_presets_are_as_published() -> None:
    paper = AdapterSettings.from_spec({"preset": "paper"})
    assert (paper.rank, paper.alpha, paper.batch_size, paper.learning_rate) == (16, 16.0, 8, 1e-4)
    assert paper.per_class and paper.lora.unet_targets == ("to_q", "to_k", "to_v", "to_out.0")
    assert AdapterSettings.from_spec({}).preset == "cpu"
    assert AdapterSettings.from_spec({"preset": "paper", "rank": 4}).rank == 4
    assert AdapterSettings.from_spec(paper.to_dict()) == paper
