"""Training images of the embedded models: phantoms and Barcelona images.

Every real image is chosen by its SHA-256. Which images a base has seen can therefore be recomputed
from the images alone, and the model's manifest lists the digests.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from cytosynth.cell_classes import class_phrase, class_prompt
from cytosynth.image_files.decoding import decode_rgb
from cytosynth.phantoms import CELL_TYPES, render_phantom, sample_laboratory

SIZE_PX = 64
REAL_SHARE = 6
"""Tenths of the real images that a base may see; the other four stay unseen for checks."""
REAL_CENTER_CROP = 0.62
"""Size of the centre square kept of a Barcelona photograph, as a share of its 360 px."""


@dataclass
class Corpus:
    """Training images with their classes.

    images: uint8 (N, SIZE_PX, SIZE_PX, 3); class_ids: N strings; is_real: bool (N,);
    digests: SHA-256 (hex) of the file bytes of every real image.
    """

    images: np.ndarray
    class_ids: np.ndarray
    is_real: np.ndarray
    digests: list[str] = field(default_factory=list)

    def prompts(self) -> list[str]:
        """A prompt per image.

        Beside real images, the prompt of a phantom says so, and the plain prompt means the look of
        a real smear.
        """
        any_real = bool(self.is_real.any())
        return [
            class_prompt(c) + (" phantom" if any_real and not real else "")
            for c, real in zip(self.class_ids, self.is_real, strict=True)
        ]

    def sampling_weights(self) -> np.ndarray:
        """Probability of each image (N,), balanced by class and source."""
        weights = np.zeros(len(self.class_ids))
        sources = [m for m in (self.is_real, ~self.is_real) if m.any()]
        for mask in sources:
            ids, counts = np.unique(self.class_ids[mask], return_counts=True)
            per_class = dict(zip(ids, counts, strict=True))
            weights[mask] = [1 / (len(ids) * per_class[c]) for c in self.class_ids[mask]]
        return weights / len(sources)


def _phantom(task: tuple[str, int]) -> np.ndarray:
    class_id, seed = task
    laboratory = sample_laboratory(np.random.default_rng(seed))
    return render_phantom(class_id, laboratory, seed, size_px=SIZE_PX).image


def phantom_corpus(per_class: int, cache: Path, seed: int = 0, workers: int = 2) -> Corpus:
    """Phantoms of every class, each from another laboratory; kept in ``cache``."""
    kept = cache / f"phantoms-{per_class}-{seed}.npz"
    if kept.exists():
        loaded = np.load(kept)
        ids = loaded["class_ids"]
        return Corpus(loaded["images"], ids, np.zeros(len(ids), bool))
    tasks = [
        (class_id, seed * 1_000_000_007 + 100_003 * k + i)
        for k, class_id in enumerate(sorted(CELL_TYPES))
        for i in range(per_class)
    ]
    with ProcessPoolExecutor(workers) as pool:
        images = np.stack(list(pool.map(_phantom, tasks, chunksize=64)))
    ids = np.array([c for c, _ in tasks])
    cache.mkdir(parents=True, exist_ok=True)
    np.savez(kept, images=images, class_ids=ids)
    return Corpus(images, ids, np.zeros(len(ids), bool))


def may_be_seen(digest: str) -> bool:
    """Whether bases may train on an image with this SHA-256 (hex)."""
    return int(digest[:8], 16) % 10 < REAL_SHARE


def _real(path: Path) -> tuple[np.ndarray, str]:
    data = path.read_bytes()
    image = Image.fromarray(decode_rgb(data, path.name))
    size = round(min(image.size) * REAL_CENTER_CROP)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    square = image.crop((left, top, left + size, top + size))
    return np.asarray(square.resize((SIZE_PX, SIZE_PX), Image.Resampling.LANCZOS)), hashlib.sha256(
        data
    ).hexdigest()


def _image_paths(folder: Path) -> list[Path]:
    paths = sorted(p for p in folder.glob("*/*") if p.suffix.lower() in {".jpg", ".png"})
    if not paths:
        raise FileNotFoundError(f"{folder} holds no <class>/<image>.jpg: give the data folder")
    return paths


def seen_images(folder: Path) -> list[Path]:
    """Paths of the images of ``folder`` that a base may see."""
    return [
        p for p in _image_paths(folder) if may_be_seen(hashlib.sha256(p.read_bytes()).hexdigest())
    ]


def real_corpus(folder: Path, seen: bool = True) -> Corpus:
    """Barcelona images that bases may see, or, with ``seen=False``, the others."""
    paths = _image_paths(folder)
    with ProcessPoolExecutor(2) as pool:
        loaded = list(pool.map(_real, paths, chunksize=64))
    kept = [
        (p.parent.name, im, d)
        for p, (im, d) in zip(paths, loaded, strict=True)
        if may_be_seen(d) == seen
    ]
    return Corpus(
        np.stack([im for _, im, _ in kept]),
        np.array([c for c, _, _ in kept]),
        np.ones(len(kept), bool),
        [d for _, _, d in kept],
    )


def join(a: Corpus, b: Corpus) -> Corpus:
    """Both corpora, one after the other."""
    return Corpus(
        np.concatenate([a.images, b.images]),
        np.concatenate([a.class_ids, b.class_ids]),
        np.concatenate([a.is_real, b.is_real]),
        a.digests + b.digests,
    )


def prompt_phrases() -> list[str]:
    """Every phrase of a prompt, from which the tokenizer's vocabulary is built."""
    prompts = {class_prompt(c) + " phantom" for c in CELL_TYPES}
    return sorted(prompts | {class_phrase(c) for c in CELL_TYPES})
