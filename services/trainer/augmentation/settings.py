"""Settings of the augmentation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AugmentSettings:
    """Strengths of the augmentation; 0 switches a part off.

    Attributes:
        scale: Zoom by up to ``exp(±scale)``.
        translate: Shift by up to this share of the size.
        brightness, contrast, saturation: Gain of up to ``1 ± value``.
        stain: HED jitter; each stain's density times ``1 ± stain``, plus ``± stain / 10``.
        sharpness: From blurred (``-sharpness``) to sharpened (``+sharpness``).
        resample_share: Share of images that are rotated by any angle, scaled and shifted; the
            others get one of the eight orientations, which leaves their pixels sharp.
        mix: Share of batches that are mixed by MixUp or CutMix.
        stain_transfer: Share of images that take the colours of a real training image of any
            class.
    """

    scale: float = 0.15
    translate: float = 0.08
    brightness: float = 0.15
    contrast: float = 0.2
    saturation: float = 0.2
    stain: float = 0.1
    sharpness: float = 0.5
    resample_share: float = 0.75
    mix: float = 0.0
    stain_transfer: float = 0.5
