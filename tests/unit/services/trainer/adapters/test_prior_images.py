"""The base's cells in the training images' colours, against an adapter's forgetting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from services.common.errors import Cancelled
from services.common.models.diffusion_bases import load_pipeline, resolve_base
from services.trainer.adapters import training
from services.trainer.adapters.prior_images import generate_prior_images, known_classes
from services.trainer.adapters.recipe import AdapterSettings
from services.trainer.augmentation.stain_transfer import cell_stains_of, stains_of
from services.trainer.compute.training_run import NoCheckpoints
from tests.support.fakes import IMAGE_SIZE_PX

CPU = torch.device("cpu")


def quiet(*_: Any) -> None: ...


def stained(level: tuple[int, int, int], num: int = 2) -> np.ndarray:
    """Images of two colours, in blocks."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 2, (num, IMAGE_SIZE_PX // 4, IMAGE_SIZE_PX // 4, 1)) * 40
    blocks = blocks + np.array(level)
    return blocks.repeat(4, 1).repeat(4, 2).astype(np.uint8)


def test_wider_class_is_asked_for_by_those_that_the_base_knows() -> None:
    known = ("neutrophil_band", "neutrophil_segmented", "monocyte")
    found = known_classes(["neutrophil", "monocyte", "unicorn", "monocyte"], known)
    assert found == {
        "monocyte": ("monocyte",),
        "neutrophil": ("neutrophil_segmented", "neutrophil_band"),
    }
    assert known_classes(["monocyte"], None) == {}, "a general base does not know cells"


def test_they_have_the_colours_of_the_training_images_and_are_not_alike(models_dir: Path) -> None:
    pipeline = load_pipeline(resolve_base("tiny", models_dir))
    scheduler = pipeline.scheduler
    names = {"basophil": ("basophil",), "neutrophil": ("lymphocyte", "monocyte")}
    real, of_real = stained((200, 150, 90)), ["basophil", "neutrophil"]
    images, class_ids = generate_prior_images(pipeline, names, 10, real, of_real, 4, quiet)
    assert pipeline.scheduler is scheduler, "training needs the base's own"
    assert images.shape == (20, *real.shape[1:])
    assert class_ids == ["basophil"] * 10 + ["neutrophil"] * 10
    means, wanted = stains_of(images, CPU).mean, stains_of(real, CPU).mean.mean(0)
    assert (means.median(0).values - wanted).abs().max() < 0.1
    assert len(np.unique(images.reshape(20, -1), axis=0)) == 20
    again, _ = generate_prior_images(pipeline, names, 10, real, of_real, 4, quiet)
    assert np.array_equal(images, again)
    others, _ = generate_prior_images(pipeline, names, 10, real, of_real, 5, quiet)
    assert not np.array_equal(images, others)


def test_they_have_the_stain_of_their_class_on_the_background_of_any(models_dir: Path) -> None:
    pipeline = load_pipeline(resolve_base("tiny", models_dir))
    real = np.empty((2, IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3), np.uint8)
    real[0], real[1] = (250, 235, 215), (215, 235, 250)  # each class on a background of its own
    middle = slice(IMAGE_SIZE_PX // 4, -IMAGE_SIZE_PX // 4)
    real[0, middle, middle], real[1, middle, middle] = (200, 60, 60), (60, 60, 200)
    of_real = ["eosinophil", "basophil"]
    names = {each: (each,) for each in of_real}
    images, class_ids = generate_prior_images(pipeline, names, 12, real, of_real, 1, quiet)
    generated = cell_stains_of(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
    dyes = generated.stained.diagonal(dim1=1, dim2=2)
    of_red = torch.tensor([each == "eosinophil" for each in class_ids])
    assert dyes[of_red, 0].mean() < dyes[of_red, 2].mean(), "red absorbs blue"
    assert dyes[~of_red, 0].mean() > dyes[~of_red, 2].mean()
    for rows in (of_red, ~of_red):
        yellow = generated.background[rows, 0] < generated.background[rows, 2]
        assert 0 < int(yellow.sum()) < 12, "either class lies on both backgrounds"


def test_generation_can_be_stopped(models_dir: Path) -> None:
    pipeline = load_pipeline(resolve_base("tiny", models_dir))
    scheduler = pipeline.scheduler

    def stop(phase: str, step: int, total: int, metrics: dict[str, float]) -> None:
        assert (phase, total) == ("generating cells with the base", 40)
        if step:
            raise Cancelled()

    with pytest.raises(Cancelled):
        names, real = {"basophil": ("basophil",)}, stained((9, 9, 9))
        generate_prior_images(pipeline, names, 40, real, ["basophil", "monocyte"], 0, stop)
    assert pipeline.scheduler is scheduler


@pytest.mark.parametrize(("share", "num_images", "expected"), [(0.5, 8, 0.5), (0.5, 0, 0.0)])
def test_share_of_a_batch_comes_from_the_base(
    models_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    share: float,
    num_images: int,
    expected: float,
) -> None:
    """Base images for the class that the base knows, not the other."""
    seen: list[tuple[str, int]] = []
    sample = training.EncodedImages.sample

    def spy(self: Any, class_id: str, rng: Any) -> Any:
        seen.append((class_id, self.mean.shape[1]))
        return sample(self, class_id, rng)

    monkeypatch.setattr(training.EncodedImages, "sample", spy)
    monkeypatch.setattr(training, "known_classes", lambda *_: {"basophil": ("basophil",)})
    settings = AdapterSettings(
        rank=2, num_steps=20, batch_size=16, num_prior_images=num_images, prior_share=share,
        num_views=64,
    )  # fmt: skip
    images = np.concatenate([stained((200, 150, 90)), stained((90, 150, 200))])
    class_ids = ["basophil"] * 2 + ["unicorn"] * 2
    base = resolve_base("tiny", models_dir)
    fitted = training.train_adapter(images, class_ids, base, settings, quiet, NoCheckpoints())
    assert fitted.metrics["num_prior_images"] == num_images
    of_base = [views == 4 for class_id, views in seen if class_id == "basophil"]
    assert len(of_base) == 160
    assert np.mean(of_base) == pytest.approx(expected, abs=0.12)
    assert all(views == 64 for class_id, views in seen if class_id == "unicorn")
