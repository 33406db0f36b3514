"""From which noise a synthetic image starts: its seed, and which attempt at the image it was."""

from __future__ import annotations

import hashlib
import json

MAX_ATTEMPTS = 8
"""Draws of one image, at most, while they come out as near-duplicates of training images."""


def image_seed(class_id: str, request_seed: int, index: int, attempt: int = 0) -> int:
    """64-bit seed of the noise that one image starts from.

    It hangs on neither adapter nor sampler: an adapter that was fitted again draws the same cells
    again, and a preset draws what another one draws, more or less well.

    Args:
        class_id: Class of the image.
        request_seed: Seed of the whole request.
        index: Its place in the request.
        attempt: How often it has come out as a near-duplicate of a training image.
    """
    parts = [class_id, request_seed, index, *([attempt] if attempt else [])]
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def attempt_of(seed: int, class_id: str, request_seed: int, index: int) -> int | None:
    """The attempt that has this seed, 0 for the first; None if none has."""
    for attempt in range(MAX_ATTEMPTS):
        if image_seed(class_id, request_seed, index, attempt) == seed:
            return attempt
    return None
