"""The attack's findings: memorized images, or nothing where nothing was learned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from services.common.errors import Cancelled
from services.common.images.near_duplicates import NEAR_DUPLICATE_HASHES, NearDuplicateHashes
from services.common.models import lora
from services.common.models.diffusion_bases import load_pipeline, resolve_base
from services.common.store.artifacts import ArtifactStore
from services.trainer.adapters import job as fit_adapter
from services.trainer.adapters import membership_inference
from services.trainer.adapters.diffusion_loss import target_and_weight
from services.trainer.adapters.latents import encode_images
from services.trainer.adapters.membership_inference import (
    MAX_IMAGES,
    PHASE_AUDIT,
    attack_figures,
    audit_adapter,
    audit_counts,
)
from services.trainer.adapters.recipe import AdapterSettings
from services.trainer.adapters.training import train_adapter
from services.trainer.datasets.reading import SplitImages, load_images
from tests.support.fakes import IMAGE_SIZE_PX
from tests.support.few_shot import (
    CLASSES,
    TENANT,
    MemoryCheckpoints,
    cell_image,
    job_context,
    tiny_settings,
    upload_dataset,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def nothing(*_: Any) -> None:
    """No progress to tell."""


def discs(first: int, num_per_class: int = 4) -> SplitImages:
    """Discs of two classes with the seeds from ``first`` on."""
    class_ids = tuple(each for each in CLASSES[:2] for _ in range(num_per_class))
    seeds = list(range(first, first + num_per_class)) * 2
    images = [cell_image(c, s, IMAGE_SIZE_PX) for c, s in zip(class_ids, seeds, strict=True)]
    return SplitImages(np.stack(images), class_ids, ("",) * len(images))


def fit(models_dir: Path, base: str, **changes: Any) -> dict[str, bytes]:
    """An adapter of ``discs(0)``."""
    spec = {"rank": 4, "alpha": 4.0, "num_steps": 3, "batch_size": 4, "learning_rate": 1e-2}
    members = discs(0)
    settings = AdapterSettings.from_spec({**spec, **changes})
    parts = (members.images, members.class_ids, resolve_base(base, models_dir), settings)
    return train_adapter(*parts, nothing, MemoryCheckpoints()).files


def untrained(models_dir: Path, up: float = 0.0) -> dict[str, bytes]:
    """An adapter whose matrices B all hold ``up``."""
    pipeline = load_pipeline(resolve_base("tiny", models_dir))
    for name, parameter in lora.add_lora(pipeline, lora.LoraSpec(4, 4.0), 0).items():
        if ".lora_B." in name:
            parameter.data.fill_(up)
    return {f"shared/{lora.WEIGHTS_FILE}": lora.lora_file(pipeline)}


def audit(models_dir: Path, files: dict[str, bytes], base: str = "tiny", **rest: Any) -> Any:
    rest.setdefault("progress", nothing)
    members, others = rest.pop("splits", (discs(0), discs(100)))
    return audit_adapter(resolve_base(base, models_dir), files, members, others, **rest)


@pytest.fixture
def memorized(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[SplitImages], dict[str, bytes]]:
    """Let adapters denoise anything to the nearest given image, the base nothing."""

    def adapter_of(images: SplitImages) -> dict[str, bytes]:
        pipeline = load_pipeline(resolve_base("tiny", models_dir))
        known = encode_images(pipeline, images.images, images.class_ids, nothing, 1).mean[:, 0]

        def predict(
            pipeline: Any, noisy: torch.Tensor, timesteps: torch.Tensor, prompts: list[str]
        ) -> torch.Tensor:
            if not getattr(pipeline.unet, "peft_config", None):
                return torch.zeros_like(noisy)
            alpha = pipeline.scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
            away = torch.cdist(noisy.flatten(1), alpha[0].sqrt().item() * known.flatten(1))
            clean = known[away.argmin(1)]
            noise = (noisy - alpha.sqrt() * clean) / (1 - alpha).sqrt()
            kind = pipeline.scheduler.config.prediction_type
            return target_and_weight(kind, clean, noise, alpha, 0.0)[0]

        monkeypatch.setattr(membership_inference, "predict", predict)
        return untrained(models_dir)

    return adapter_of


def test_members_of_an_adapter_that_memorized_are_found(
    models_dir: Path, memorized: Callable[[SplitImages], dict[str, bytes]]
) -> None:
    found = audit(models_dir, memorized(discs(0)))
    assert found["auc"] > 0.95 and found["tpr_at_1_fpr"] > 0.75, "noise hides a member or two"
    assert (found["num_members"], found["num_non_members"]) == (8, 8)
    assert audit(models_dir, memorized(discs(100)))["auc"] < 0.05, "the others are known"
    some = SplitImages(discs(0).images[[0, 4]], CLASSES[:2], ("", ""))
    found = audit(models_dir, memorized(some))
    assert found["low"] <= found["auc"] < 1, "two of eight"
    assert found["tpr_at_5_fpr"] >= 0.25, "and those two stand out"
    assert found == audit(models_dir, memorized(some)), "the same every time"
    neither = audit(models_dir, memorized(discs(50)), splits=(discs(200, 40), discs(300, 40)))
    assert neither["low"] <= 0.5 <= neither["high"]


def test_an_adapter_that_changes_nothing_tells_nothing(models_dir: Path) -> None:
    found = audit(models_dir, untrained(models_dir))
    assert (found["auc"], found["low"], found["high"]) == (0.5, 0.5, 0.5)
    assert found["tpr_at_5_fpr"] == found["tpr_at_1_fpr"] == 0


@pytest.mark.parametrize("base", ["tiny", "tiny-xl"])
def test_each_class_is_judged_with_its_own_adapter(models_dir: Path, base: str) -> None:
    files = fit(models_dir, base, per_class=True)
    first, second = (f"{each}/{lora.WEIGHTS_FILE}" for each in CLASSES[:2])
    own = audit(models_dir, files, base)
    assert 0 <= own["auc"] <= 1
    exchanged = audit(models_dir, {first: files[second], second: files[first]}, base)
    assert exchanged != own


def test_too_few_images_and_losses_that_are_no_numbers_are_told(models_dir: Path) -> None:
    alone = SplitImages(discs(0).images[:1], CLASSES[:1], ("",))
    found = audit(models_dir, {}, splits=(discs(0), alone))
    assert found["auc"] is None and "fewer than two" in found["reason"]
    not_finite = audit(models_dir, untrained(models_dir, float("nan")))
    assert not_finite["auc"] is None and not_finite["reason"] == "a loss is not finite"


def test_a_cancel_ends_it_within_a_batch(models_dir: Path) -> None:
    seen = list[tuple[str, int, int]]()

    def progress(phase: str, step: int, total: int, metrics: dict[str, float]) -> None:
        seen.append((phase, step, total))
        if phase == PHASE_AUDIT and step == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        audit(models_dir, {}, progress=progress)
    assert seen[-1] == (PHASE_AUDIT, 2, 5)


def test_figures_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(1)
    members, others = rng.normal(1, 1, 80), rng.normal(0, 1, 90)
    found = attack_figures(members, others, 0)
    pairs = np.mean([m > o for m in members for o in others])
    assert found["auc"] == pytest.approx(pairs, abs=1e-4)
    assert found["low"] < found["auc"] < found["high"] < found["low"] + 0.2
    at_5 = np.sort(others)[-5]  # four of 90 others lie above it
    assert found["tpr_at_5_fpr"] == pytest.approx(np.mean(members >= np.nextafter(at_5, 9)), 0.01)
    assert found["tpr_at_1_fpr"] <= found["tpr_at_5_fpr"]
    # Standard error of an AUC of 0.5 with n members and n others: sqrt((2n + 1) / 12) / n.
    same = attack_figures(rng.normal(0, 1, 96), rng.normal(0, 1, 96), 0)
    assert same["high"] - same["low"] == pytest.approx(2 * 1.96 * (193 / 12) ** 0.5 / 96, rel=0.1)
    apart = attack_figures(np.arange(5) + 9.0, np.arange(5.0), 0)
    assert (apart["auc"], apart["low"], apart["tpr_at_1_fpr"]) == (1.0, 1.0, 1.0)


def test_both_sides_have_as_many_images_of_each_class() -> None:
    def images(**counts: int) -> dict[str, list[str]]:
        return {each: [""] * count for each, count in counts.items()}

    assert audit_counts(images(a=16, b=4, c=3), images(a=200, b=2)) == {"a": 16, "b": 2}
    many = audit_counts(images(a=100, b=100, c=4), images(a=300, b=300, c=300))
    assert many == {"a": 46, "b": 46, "c": 4} and sum(many.values()) == MAX_IMAGES
    assert audit_counts({}, {}) == {}
    classes = {f"c{number}": [""] for number in range(200)}
    assert sum(audit_counts(classes, classes).values()) == MAX_IMAGES


def test_a_fitted_adapter_carries_its_figure_and_the_hashes_of_its_images(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path)
    store = ArtifactStore(settings.store_uri)
    dataset = upload_dataset(store, settings)
    asked = {"dataset": dataset, "base": "tiny", "settings": {"num_steps": 2, "rank": 2}}
    spec = fit_adapter.validate(asked, store, TENANT, settings)
    adapter = fit_adapter.run(spec, job_context(store, settings))
    manifest = store.get_manifest(TENANT, "adapters", adapter)
    found = manifest["body"]["privacy"]["membership_inference"]
    assert found["num_members"] == found["num_non_members"] == 18
    assert 0 <= found["low"] <= found["auc"] <= found["high"] <= 1
    assert manifest["metrics"]["membership_auc"] == found["auc"]
    hashes = NearDuplicateHashes.from_json(
        store.read(TENANT, "adapters", adapter, NEAR_DUPLICATE_HASHES)
    )
    size = resolve_base("tiny", settings.models_dir).image_size_px
    trained = load_images(store, TENANT, dataset.split("/")[1], "train", size, settings).images
    assert len(trained) == 18 and hashes.to_json() == NearDuplicateHashes.of(trained).to_json()
    assert all(hashes.find(np.rot90(image)) for image in trained)
