"""Outlines of nuclei as signed-distance functions in nucleus units.

The overall radius of a nucleus is about 1. A signed distance is negative inside. Every
``sample_*`` function samples a shape and returns a function of two coordinate arrays of equal
shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Outline = Callable[[np.ndarray, np.ndarray], np.ndarray]
Sampler = Callable[[np.random.Generator, int], Outline]
Point = Sequence[float] | np.ndarray


def ellipse(x: np.ndarray, y: np.ndarray, a: float, b: float) -> np.ndarray:
    """Approximate signed distance to the axis-aligned ellipse with half-axes ``a`` and ``b``."""
    scaled = np.sqrt((x / a) ** 2 + (y / b) ** 2) + 1e-6
    slope = np.sqrt((x / a**2) ** 2 + (y / b**2) ** 2) + 1e-6
    return scaled * (scaled - 1.0) / slope


def capsule(x: np.ndarray, y: np.ndarray, start: Point, end: Point, radius: float) -> np.ndarray:
    """Signed distance to the segment ``start``-``end`` thickened by ``radius``."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    px, py = x - start[0], y - start[1]
    along = np.clip((px * dx + py * dy) / (dx * dx + dy * dy + 1e-9), 0.0, 1.0)
    return np.hypot(px - along * dx, py - along * dy) - radius


def blend(first: np.ndarray, second: np.ndarray, width: float) -> np.ndarray:
    """Union of two signed distances with a fillet of ``width``."""
    overlap = np.maximum(width - np.abs(first - second), 0.0) / width
    return np.minimum(first, second) - overlap * overlap * (width * 0.25)


def carve(body: np.ndarray, tool: np.ndarray, width: float) -> np.ndarray:
    """``body`` minus ``tool`` with a rounded lip of ``width``."""
    return -blend(-body, tool, width)


def _rotated(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    cos, sin = np.cos(angle), np.sin(angle)
    return cos * x + sin * y, -sin * x + cos * y


def sample_round(rng: np.random.Generator, _lobes: int) -> Outline:
    """Nearly circular."""
    b = rng.uniform(0.90, 1.0)
    return lambda x, y: ellipse(x, y, 1.0, b)


def sample_oval(rng: np.random.Generator, _lobes: int) -> Outline:
    """Clearly longer than wide."""
    b = rng.uniform(0.70, 0.86)
    return lambda x, y: ellipse(x, y, 1.0, b)


def _indented(rng: np.random.Generator, b: float, depth: float, bite: float) -> Outline:
    offset = rng.uniform(-0.15, 0.15)
    centre_y = b - depth + bite

    def outline(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        body = ellipse(x, y, 1.0, b)
        return carve(body, np.hypot(x - offset, y - centre_y) - bite, 0.22)

    return outline


def sample_indented(rng: np.random.Generator, _lobes: int) -> Outline:
    """Round with one shallow notch."""
    return _indented(rng, rng.uniform(0.80, 0.95), rng.uniform(0.18, 0.36), rng.uniform(0.25, 0.6))


def sample_kidney(rng: np.random.Generator, _lobes: int) -> Outline:
    """Bean indented by 1/5 to 1/3 of its short axis."""
    b = rng.uniform(0.62, 0.78)
    return _indented(rng, b, rng.uniform(0.42, 0.72) * b, rng.uniform(0.38, 0.75))


def sample_band(rng: np.random.Generator, _lobes: int) -> Outline:
    """Horseshoe of uniform width.

    Some samples are opened to a C or twisted to an S.
    """
    span = rng.uniform(0.85, 1.6) * np.pi
    thickness = rng.uniform(0.30, 0.40)
    angles = np.linspace(-span / 2, span / 2, 9)
    stretch = rng.uniform(0.75, 1.05)
    points = np.stack([np.cos(angles), np.sin(angles) * stretch], axis=1) * 0.72
    if rng.random() < 0.15:  # S or Z shape: flip the curvature of one half
        points[:4, 0] = 2 * points[4, 0] - points[:4, 0]
    points -= (points.max(axis=0) + points.min(axis=0)) / 2
    radii = thickness * (1 + 0.07 * rng.standard_normal(8))

    def outline(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        sd = capsule(x, y, points[0], points[1], radii[0])
        for i in range(1, 8):
            sd = blend(sd, capsule(x, y, points[i], points[i + 1], radii[i]), 0.10)
        return sd

    return outline


def sample_segmented(rng: np.random.Generator, lobes: int) -> Outline:
    """``lobes`` ovals on a winding chain, neighbours joined by thin threads."""
    sizes = rng.uniform(0.82, 1.18, lobes) * 0.42
    heading = 0.0
    turn_sign = 1.0
    centres = [np.zeros(2)]
    for i in range(1, lobes):
        step = (sizes[i - 1] + sizes[i]) * rng.uniform(1.0, 1.16)
        centres.append(centres[-1] + step * np.array([np.cos(heading), np.sin(heading)]))
        turn_sign = turn_sign if rng.random() < 0.75 else -turn_sign
        heading += turn_sign * rng.uniform(0.7, 1.5)
    points = np.array(centres)
    points -= (points.max(axis=0) + points.min(axis=0)) / 2
    angles = rng.uniform(0, np.pi, lobes)
    squash = rng.uniform(0.74, 1.0, lobes)
    thread = rng.uniform(0.05, 0.12, lobes)

    def outline(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        sd = np.full(np.broadcast(x, y).shape, 9.0, dtype=np.float32)
        for i in range(lobes):
            px, py = _rotated(x - points[i, 0], y - points[i, 1], angles[i])
            lobe = ellipse(px, py, sizes[i] * 1.08, sizes[i] * squash[i])
            sd = blend(sd, lobe, 0.05)
        for i in range(lobes - 1):
            sd = blend(sd, capsule(x, y, points[i], points[i + 1], thread[i]), 0.08)
        return sd

    return outline


def sample_bilobed(rng: np.random.Generator, _lobes: int) -> Outline:
    """Two equal lobes with a short neck."""
    gap = rng.uniform(0.46, 0.60)
    radius = rng.uniform(0.48, 0.56)
    tilt = rng.uniform(-0.5, 0.5)

    def outline(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        left = ellipse(*_rotated(x + gap, y, tilt), radius * 0.9, radius * 1.1)
        right = ellipse(*_rotated(x - gap, y, -tilt), radius * 0.9, radius * 1.1)
        return blend(left, right, 0.25)

    return outline


def sample_butterfly(rng: np.random.Generator, _lobes: int) -> Outline:
    """Two big touching wings, deeply cleft on one or both sides."""
    gap = rng.uniform(0.40, 0.50)
    radius = rng.uniform(0.54, 0.62)
    tilt = rng.uniform(0.1, 0.5)
    ratio = rng.uniform(0.82, 1.0)

    def outline(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        left = ellipse(*_rotated(x + gap, y, tilt), radius * 0.82, radius * 1.2)
        right = ellipse(*_rotated(x - gap, y, -tilt), radius * 0.82 * ratio, radius * 1.2 * ratio)
        return blend(left, right, 0.12)

    return outline


def sample_lobulated(rng: np.random.Generator, _lobes: int) -> Outline:
    """Cloverleaf of three broad overlapping lobes."""
    angles = rng.uniform(0, 2 * np.pi) + np.arange(3) * 2.1 + rng.uniform(-0.3, 0.3, 3)
    radii = rng.uniform(0.46, 0.60, 3)

    def outline(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        sd = np.hypot(x, y) - 0.4
        for angle, radius in zip(angles, radii, strict=True):
            sd = blend(
                sd, np.hypot(x - 0.48 * np.cos(angle), y - 0.48 * np.sin(angle)) - radius, 0.12
            )
        return sd

    return outline


def sample_folded(rng: np.random.Generator, _lobes: int) -> Outline:
    """Irregular contour with one deep and one or two shallow folds."""
    b = rng.uniform(0.74, 0.95)
    count = int(rng.integers(1, 4))
    angles = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.uniform(1.3, 2.6, count))
    depths = np.concatenate([rng.uniform(0.20, 0.50, 1), rng.uniform(0.04, 0.12, count - 1)])
    bites = rng.uniform(0.25, 0.60, count)

    def outline(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        sd = ellipse(x, y, 1.0, b)
        for angle, depth, bite in zip(angles, depths, bites, strict=True):
            reach = np.hypot(np.cos(angle), b * np.sin(angle)) - depth + bite
            notch = ellipse(
                *_rotated(x - reach * np.cos(angle), y - reach * np.sin(angle), angle),
                bite * 1.5,
                bite,
            )
            sd = carve(sd, notch, 0.25)
        return sd

    return outline


def sample_smear(rng: np.random.Generator, _lobes: int) -> Outline:
    """Shapeless smear, drawn out to one side."""
    b = rng.uniform(0.6, 0.95)
    tail = rng.uniform(0.3, 0.8)
    width = rng.uniform(0.25, 0.5)
    return lambda x, y: blend(
        ellipse(x, y, 0.9, b * 0.9), capsule(x, y, (0.3, 0.0), (0.8 + tail, 0.2), width), 0.5
    )


NUCLEUS_KINDS: dict[str, tuple[Sampler, int]] = {
    "round": (sample_round, 1),
    "oval": (sample_oval, 1),
    "indented": (sample_indented, 1),
    "kidney": (sample_kidney, 1),
    "folded": (sample_folded, 1),
    "band": (sample_band, 1),
    "segmented": (sample_segmented, 3),
    "bilobed": (sample_bilobed, 2),
    "butterfly": (sample_butterfly, 2),
    "lobulated": (sample_lobulated, 3),
    "smear": (sample_smear, 1),
}
"""Outline kind to (sampler, number of lobes it has unless told otherwise)."""
