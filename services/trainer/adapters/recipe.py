"""Hyperparameters of adapter training: presets, and the check of a request's settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from services.common.errors import InvalidArgument, check_one_of
from services.common.models.lora import ATTENTION, CONVOLUTIONS, PROJECTIONS, LoraSpec
from services.common.seeds import MAX_SEED

_MOST_STEPS, _IMAGES_OF_MOST_STEPS = 300, 160

#: What a request may set, with the limits that the contract states: (least, most, what to send).
_LIMITS: dict[str, tuple[float, float, str]] = {
    "rank": (1, 256, "1 to 256"),
    "num_steps": (1, 1_000_000, "1 to 1000000"),
    "batch_size": (1, 1024, "1 to 1024"),
    "seed": (0, MAX_SEED, "0 to 2^63 - 1"),
}


@dataclass(frozen=True)
class AdapterSettings:
    """Hyperparameters of one adapter, every value resolved.

    Attributes:
        preset: Name of the preset it started from.
        rank: Rank of the LoRA matrices.
        alpha: LoRA alpha; the update is scaled by alpha / rank.
        num_steps: Optimizer steps per adapter; 0: by the number of images (``for_images``).
        batch_size: Images per step.
        learning_rate: Peak learning rate of AdamW.
        per_class: One adapter per class instead of one for all.
        seed: Seed of every random value.
        warmup_steps: Steps of linear warm-up before the cosine decay.
        weight_decay: Weight decay of AdamW.
        caption_dropout: Share of images trained with the empty prompt, for guidance.
        min_snr_gamma: Cap of the loss weight at low noise (Hang et al. 2023); 0: no weighting,
            so that high noise, where the stain is decided, counts in full.
        max_gradient_norm: Gradients are clipped to this norm.
        adapt_convolutions: LoRA on convolutions and projections too, not on attention alone.
        num_views: Views of each image, at most: eight orientations, the others zoomed, shifted
            and rotated by any angle too.
        num_prior_images: Images of each class that the base generates, to train on beside the
            real ones (``prior_images.py``); none of classes that it does not know.
        prior_share: Share of prior images in a minibatch, for classes that have any.
    """

    preset: str = "cpu"
    rank: int = 16
    alpha: float = 16.0
    num_steps: int = 0
    batch_size: int = 16
    learning_rate: float = 2e-3
    per_class: bool = False
    seed: int = 0
    warmup_steps: int = 20
    weight_decay: float = 1e-2
    caption_dropout: float = 0.08
    min_snr_gamma: float = 0.0
    max_gradient_norm: float = 1.0
    adapt_convolutions: bool = True
    num_views: int = 64
    num_prior_images: int = 32
    prior_share: float = 0.5

    @property
    def lora(self) -> LoraSpec:
        """The LoRA layers that these hyperparameters ask for."""
        targets: tuple[str, ...] = ATTENTION
        if self.adapt_convolutions:
            targets += CONVOLUTIONS + PROJECTIONS
        return LoraSpec(rank=self.rank, alpha=self.alpha, unet_targets=targets)

    def for_images(self, num_images: int) -> AdapterSettings:
        """Fills in open steps by the number of training images.

        ``_MOST_STEPS`` for ``_IMAGES_OF_MOST_STEPS`` images or more, and with the square root of
        the number below: an image that is seen more often is memorized (membership inference,
        docs/lab-notebook.md).
        """
        if self.num_steps:
            return self
        share = min(1.0, math.sqrt(num_images / _IMAGES_OF_MOST_STEPS))
        return replace(self, num_steps=max(1, round(_MOST_STEPS * share)))

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then cosine to zero."""
        warmup = min(self.warmup_steps, self.num_steps // 2)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        share = (step - warmup) / max(1, self.num_steps - warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * share))

    def to_dict(self) -> dict[str, Any]:
        """JSON form, for manifests; ``from_spec`` reads it back."""
        return asdict(self)

    @staticmethod
    def from_spec(spec: Mapping[str, Any], path: str = "settings") -> AdapterSettings:
        """A preset, overridden by what ``spec`` sets.

        Args:
            spec: Field name to value; missing or None: the preset's.
            path: Request field of the settings, for errors.

        Raises:
            InvalidArgument: Naming the field whose value is not allowed.
        """
        preset = spec.get("preset") or "cpu"
        check_one_of(f"{path}.preset", preset, PRESETS)
        asked = {key: value for key, value in spec.items() if value is not None}
        settings = replace(PRESETS[preset], **{**asked, "preset": preset})
        for name, (least, most, remedy) in _LIMITS.items():
            value = asked.get(name, most)
            if not least <= value <= most:
                raise InvalidArgument(f"{path}.{name}", f"is {value}", f"send {remedy}")
        if not (settings.alpha > 0 and math.isfinite(settings.alpha)):
            problem = f"is {settings.alpha}"
            raise InvalidArgument(f"{path}.alpha", problem, "send a finite number above 0")
        if not 0 < settings.learning_rate <= 1:
            problem = f"is {settings.learning_rate}"
            raise InvalidArgument(f"{path}.learning_rate", problem, "send above 0, at most 1")
        return settings


#: "paper" is 300 epochs of 16 shots in batches of 8, per class, as published.
PRESETS = {
    "cpu": AdapterSettings(),
    "paper": AdapterSettings(
        preset="paper",
        num_steps=600,
        batch_size=8,
        learning_rate=1e-4,
        per_class=True,
        warmup_steps=100,
        caption_dropout=0.0,
        adapt_convolutions=False,
        num_views=8,
        num_prior_images=0,
    ),
}
