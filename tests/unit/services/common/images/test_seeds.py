"""Seeds of images: the first attempt's is what it always was, and a seed tells its attempt."""

from __future__ import annotations

import hashlib

from services.common.images.seeds import MAX_ATTEMPTS, attempt_of, image_seed


def test_the_first_attempt_starts_from_the_noise_of_old() -> None:
    digest = hashlib.sha256(b'["basophil",7,3]').digest()
    assert image_seed("basophil", 7, 3) == int.from_bytes(digest[:8], "big")


def test_a_seed_tells_its_attempt() -> None:
    seeds = [image_seed("basophil", 7, 3, attempt) for attempt in range(MAX_ATTEMPTS)]
    assert len(set(seeds)) == MAX_ATTEMPTS
    assert [attempt_of(seed, "basophil", 7, 3) for seed in seeds] == list(range(MAX_ATTEMPTS))
    assert attempt_of(seeds[1], "basophil", 7, 4) is None
