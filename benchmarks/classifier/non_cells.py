"""Pictures without a white blood cell, synthetic or cut from smears.

All are uint8 (N, S, S, 3) at the scale at which a classifier sees cells.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

KINDS = ("red_cells", "debris", "blank", "text", "noise_photographs")
_TEXT = "WBC slide 4711 Barcelona MGG x100 BAS EOS LYT 0.5 um patient label"


def non_cells(
    smears: list[np.ndarray], size: int, per_kind: int, crop: float, seed: int
) -> dict[str, np.ndarray]:
    """Pictures by kind.

    Args:
        smears: Whole pictures with a cell in the middle and red cells around, uint8 (H, W, 3).
        size: Size of the pictures, pixels.
        per_kind: Most pictures of a kind.
        crop: Share of a smear's shorter side that a classifier keeps.
        seed: Decides about everything.
    """
    rng = np.random.default_rng(seed)
    grounds = [background_color(smear) for smear in smears[:50]]

    def ground() -> np.ndarray:
        return grounds[rng.integers(len(grounds))]

    made = {
        "debris": [debris(size, ground(), rng) for _ in range(per_kind)],
        "blank": [blank(size, ground(), rng) for _ in range(per_kind)],
        "text": [text(size, ground(), rng) for _ in range(per_kind)],
        "noise_photographs": [noise(size, rng) for _ in range(per_kind)],
    }
    corners = [corner(smear, size, crop, rng) for smear in smears]
    made["red_cells"] = [each for each in corners if each is not None][:per_kind]
    return {kind: np.stack(made[kind]) for kind in KINDS}


def corner(
    smear: np.ndarray, size: int, crop: float, rng: np.random.Generator
) -> np.ndarray | None:
    """Red cells and ground from a mirrored corner; None with a nucleus."""
    half = round(min(smear.shape[:2]) * crop / 2)
    flipped = smear[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
    part = flipped[:half, :half].astype(float)
    # Nuclei are violet: much less green than blue.
    if ((part[..., 2] - part[..., 1] > 60) & (part[..., 1] < 130)).mean() > 0.01:
        return None
    tile = np.concatenate([part, part[:, ::-1]], axis=1)
    tile = np.concatenate([tile, tile[::-1]], axis=0).astype(np.uint8)
    return np.asarray(Image.fromarray(tile).resize((size, size), Image.Resampling.LANCZOS))


def background_color(smear: np.ndarray) -> np.ndarray:
    """Colour (3,) of the bright ground of a smear."""
    pixels = smear.reshape(-1, 3)
    bright = pixels.mean(axis=1)
    return np.median(pixels[bright >= np.quantile(bright, 0.8)], axis=0)


def blank(size: int, ground: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The ground alone, with uneven light and the grain of a camera."""
    light = ndimage.gaussian_filter(rng.normal(0, 1, (size, size)), size / 4)
    light *= rng.uniform(0, 8) / max(light.std(), 1e-6)
    grain = rng.normal(0, rng.uniform(0.5, 4), (size, size, 3))
    return (ground + light[..., None] + grain).clip(0, 255).astype(np.uint8)


def debris(size: int, ground: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Stain precipitate, platelets and fibres on the ground."""
    picture = blank(size, ground, rng).astype(float)
    y, x = np.mgrid[:size, :size].astype(float)
    for _ in range(rng.integers(1, 12)):
        at = rng.uniform(0, size, 2)
        kind = rng.integers(3)
        if kind == 0:  # precipitate: small and dark
            near = np.hypot(y - at[0], x - at[1]) < rng.uniform(0.6, 2.5)
            color = rng.uniform(20, 90, 3)
        elif kind == 1:  # a platelet: pale violet, ragged
            ragged = ndimage.gaussian_filter(rng.normal(0, 1, (size, size)), 1.5)
            near = np.hypot(y - at[0], x - at[1]) + 4 * ragged < rng.uniform(2, 6)
            color = np.array([165, 120, 185]) + rng.normal(0, 15, 3)
        else:  # a fibre
            angle, bend = rng.uniform(0, np.pi), rng.normal(0, 0.01)
            along = (x - at[1]) * np.cos(angle) + (y - at[0]) * np.sin(angle)
            across = -(x - at[1]) * np.sin(angle) + (y - at[0]) * np.cos(angle)
            near = np.abs(across - bend * along**2) < rng.uniform(0.5, 1.8)
            color = rng.uniform(60, 170, 3)
        soft = ndimage.gaussian_filter(near.astype(float), rng.uniform(0.3, 1))[..., None]
        picture = picture * (1 - soft) + color * soft
    return picture.clip(0, 255).astype(np.uint8)


def text(size: int, ground: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Words on paper, a screen or the ground."""
    papers = [np.array([255, 255, 255]), np.array([12, 12, 12]), ground]
    paper = papers[rng.integers(3)]
    ink = (0, 0, 0) if paper.mean() > 128 else (255, 255, 255)
    picture = Image.new("RGB", (size, size), tuple(int(v) for v in paper))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(int(rng.integers(8, 26)))
    words = _TEXT.split()
    for row in range(int(rng.integers(1, 6))):
        line = " ".join(rng.choice(words, 3))
        pen.text((int(rng.integers(-8, 4)), int(rng.integers(0, 12)) + 14 * row), line, ink, font)
    return np.asarray(picture)


def noise(size: int, rng: np.random.Generator) -> np.ndarray:
    """A photograph of noise, its spectrum from white to a landscape's."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = 1 / size
    spectrum = frequency ** -rng.uniform(0, 2)
    planes = [
        np.fft.irfft2(np.fft.rfft2(rng.normal(0, 1, (size, size))) * spectrum, (size, size))
        for _ in range(3)
    ]
    picture = np.stack(planes, axis=2)
    mixed = picture @ (np.eye(3) + rng.uniform(0, 1, (3, 3)))
    mixed = mixed / mixed.std() * rng.uniform(25, 70) + rng.uniform(80, 190, 3)
    return mixed.clip(0, 255).astype(np.uint8)
