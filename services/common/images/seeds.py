"""Seeds of the noise that synthetic images start from."""

from __future__ import annotations

import hashlib
import json

MAX_ATTEMPTS = 8
"""Most attempts at one image, while each is a near-duplicate of a training image."""


def image_seed(class_id: str, request_seed: int, index: int, attempt: int = 0) -> int:
    """64-bit seed of the noise that one image starts from.

    The seed depends on neither adapter nor sampler. So an adapter that was fitted again generates
    the same cells, and every preset generates the same cells, more or less well.

    Args:
        class_id: Class of the image.
        request_seed: Seed of the whole request.
        index: Index of the image in the request.
        attempt: Earlier attempts, each a near-duplicate of a training image.
    """
    parts = [class_id, request_seed, index, *([attempt] if attempt else [])]
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def attempt_of(seed: int, class_id: str, request_seed: int, index: int) -> int | None:
    """Attempt with this seed, counted from 0; None if there is none."""
    for attempt in range(MAX_ATTEMPTS):
        if image_seed(class_id, request_seed, index, attempt) == seed:
            return attempt
    return None
