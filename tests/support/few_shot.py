"""A few-shot dataset of coloured discs, and job surroundings without a database."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cytosynth.client.settings import SynthesisSettings
from services.common.images.codec import encode_image, sha256_hex
from services.common.store.artifacts import ArtifactStore
from services.trainer.config import TrainerSettings
from services.trainer.datasets.splitting import SplitSettings
from services.trainer.datasets.upload import DatasetHeader, DatasetUpload
from services.trainer.jobs.context import JobContext
from tests.support import fakes

TENANT = "lab"
CLASSES = ("eosinophil", "lymphocyte", "monocyte")
_COLORS = {"eosinophil": (220, 90, 60), "lymphocyte": (80, 60, 190), "monocyte": (60, 150, 90)}


def cell_image(class_id: str, seed: int, size: int = 40) -> np.ndarray:
    """A noisy disc in the class's colour on a pale field.

    The array is uint8 (size, size, 3).
    """
    rng = np.random.default_rng([seed, *class_id.encode()])
    y, x = np.mgrid[:size, :size]
    centre = size / 2 + rng.uniform(-3, 3, 2)
    inside = np.hypot(y - centre[0], x - centre[1]) < size * rng.uniform(0.22, 0.3)
    image = np.full((size, size, 3), 225.0)
    image[inside] = _COLORS.get(class_id, (120, 120, 120))
    grain = np.ones((-(-size // 5),) * 2 + (1,))
    blobs = np.kron(rng.normal(0, 40, (5, 5, 3)), grain)[:size, :size]
    return (image + blobs + rng.normal(0, 6, image.shape)).clip(0, 255).astype(np.uint8)


def settings_for(root: Path, **extra: Any) -> TrainerSettings:
    """Trainer settings whose folders lie below ``root``."""
    return TrainerSettings(
        store_uri=f"file://{root}/store",
        database_url=f"sqlite:///{root}/jobs.db",
        models_dir=root / "models",
        device="cpu",
        default_clip="tiny-clip",
        **extra,
    )


def upload_dataset(store: ArtifactStore, settings: TrainerSettings, seed: int = 0) -> str:
    """Upload three classes of 14 images and one of one image.

    The split has 6 shots of each of the three.

    Returns:
        The dataset's name.
    """
    split = SplitSettings(shots=6, seed=seed)
    header = DatasetHeader(display_name="Discs", split=split, center_crop=0.9)
    with DatasetUpload(store, TENANT, header, settings) as upload:
        for class_id in CLASSES:
            for number in range(14):
                data = encode_image(cell_image(class_id, 1000 * seed + number))
                upload.add(class_id, f"{class_id}/{number:04d}.png", "", data)
        upload.add("basophil", "basophil/0000.png", "", encode_image(cell_image("basophil", 0)))
        return str(upload.commit(3 * 14 + 1)["name"])


def store_adapter(
    store: ArtifactStore, digests: list[str], base: str = "tiny", id: str = "adapter-1"
) -> str:
    """Store an adapter's manifest without weights, which only the generator reads.

    Returns:
        The adapter's name.
    """
    draft = store.new_draft(TENANT, "adapters", id)
    draft.write("note", b"no weights")
    body = {"layout": "shared", "class_ids": list(CLASSES)}
    draft.commit({"parents": [], "base": base, "base_revision": "r", "digests": digests,
                  "seed": 0, "settings": {}, "metrics": {}, "body": body})  # fmt: skip
    return draft.name


@dataclass
class MemoryCheckpoints:
    """Checkpoints in memory; ``every`` is how many askings lie between two."""

    every: int = 10**9
    state: dict[str, Any] | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    num_asked: int = 0

    def due(self) -> bool:
        self.num_asked += 1
        return self.num_asked % self.every == 0

    def load(self) -> tuple[dict[str, Any], dict[str, bytes]] | None:
        return None if self.state is None else (self.state, self.files)

    def save(self, state: dict[str, Any], files: dict[str, bytes]) -> None:
        self.state, self.files = state, dict(files)


def job_context(
    store: ArtifactStore,
    settings: TrainerSettings,
    job_id: str = "job-1",
    progress: Callable[[str, int, int, dict[str, float]], None] = lambda *_: None,
    checkpoints: Any = None,
) -> JobContext:
    """A context as the job runner gives it."""
    return JobContext(job_id, TENANT, store, settings, progress, checkpoints or MemoryCheckpoints())


@dataclass(frozen=True)
class DrawnImage:
    """What the generator's client gives."""

    index: int
    class_id: str
    image_seed: int
    data: bytes
    manifest_digest: str
    manifest: dict[str, Any]


class FakeGenerator:
    """Generates discs for ``SyntheticPool``; counts what it was asked and can break."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.requests: list[tuple[dict[str, int], int]] = []
        self.num_drawn = 0
        self.fail_after = fail_after
        self.manifest: dict[str, Any] = {"base": "tiny", "base_revision": "r1"}

    def __call__(self, class_counts: dict[str, int], seed: int) -> Iterator[DrawnImage]:
        self.requests.append((dict(class_counts), seed))
        # As the real one: what a request asked for is part of its manifest.
        counts = [{"class_id": c, "num_images": n} for c, n in class_counts.items()]
        manifest = {**self.manifest, "seed": seed, "class_counts": counts}
        digest = sha256_hex(json.dumps(manifest).encode())
        index = 0
        for class_id, count in class_counts.items():
            for _ in range(count):
                if self.fail_after is not None and self.num_drawn >= self.fail_after:
                    raise ConnectionError("the generator is gone")
                image = cell_image(class_id, seed % 2**31 + index)
                data = encode_image(image)
                yield DrawnImage(index, class_id, seed + index, data, digest, manifest)
                self.num_drawn += 1
                index += 1


def serve_images(
    monkeypatch: pytest.MonkeyPatch, fake: Callable[[dict[str, int], int], Iterator[DrawnImage]]
) -> None:
    """Let the trainer's client of the generator receive images of ``fake``."""
    import cytosynth.client

    class Client:
        def __init__(self, address: str, tenant: str, bypass_proxy: bool) -> None:
            assert tenant == TENANT
            assert bypass_proxy

        def synthesize(
            self, class_counts: dict[str, int], wanted: SynthesisSettings
        ) -> Iterator[DrawnImage]:
            assert wanted.adapter.startswith("adapters/")
            return fake(class_counts, wanted.seed)

    monkeypatch.setattr(cytosynth.client, "GeneratorClient", Client)


def tiny_settings(root: Path) -> TrainerSettings:
    """Settings with a tiny base and a tiny CLIP base below ``root``."""
    fakes.write_tiny_clip(root / "models")
    fakes.write_tiny_base(root / "models")
    return settings_for(root)


def digest_of(class_id: str, seed: int) -> str:
    """SHA-256 (hex) of the stored file of a disc."""
    return sha256_hex(encode_image(cell_image(class_id, seed)))


def store_random_classifier(store: ArtifactStore, id: str, seed: int = 0) -> str:
    """A ResNet-18 with random weights as a committed classifier; gives the name."""
    import torch

    from services.common.models.classifier_config import ClassifierConfig
    from services.common.models.classifiers import build_model, save_model

    config = ClassifierConfig("resnet18", CLASSES, 32)
    torch.manual_seed(seed)
    draft = store.new_draft(TENANT, "classifiers", id)
    for path, data in save_model(build_model(config, Path("unused"))).items():
        draft.write(path, data)
    body = {
        "dataset": "datasets/none",
        "architecture": "resnet18",
        "class_ids": list(CLASSES),
        "center_crop": 0.9,
        "config": config.to_dict(),
        "synthetic": None,
        "image_set": "",
    }
    draft.commit({"parents": [], "base": "", "base_revision": "", "digests": [], "seed": seed,
                  "settings": {}, "metrics": {"macro_f1": 0.5}, "body": body})  # fmt: skip
    return draft.name
