"""Seeds of images never change, and each belongs to one attempt."""

from __future__ import annotations

import hashlib

from services.common.images.seeds import MAX_ATTEMPTS, attempt_of, image_seed


def test_seed_of_the_first_attempt_stays_the_same() -> None:
    digest = hashlib.sha256(b'["basophil",7,3]').digest()
    assert image_seed("basophil", 7, 3) == int.from_bytes(digest[:8], "big")


def test_attempt_is_found_by_its_seed() -> None:
    seeds = [image_seed("basophil", 7, 3, attempt) for attempt in range(MAX_ATTEMPTS)]
    assert len(set(seeds)) == MAX_ATTEMPTS
    assert [attempt_of(seed, "basophil", 7, 3) for seed in seeds] == list(range(MAX_ATTEMPTS))
    assert attempt_of(seeds[1], "basophil", 7, 4) is None
