"""Synthetic images as a training set keeps them: an **ImageSet**, written round by round.

A round is a few images of every class, drawn by one request with a seed of its own and kept as
one tar file. What an interrupted run has kept, the next run reads back.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from services.common.errors import AlreadyExists, DataLoss, NotFound
from services.common.images.seeds import attempt_of
from services.common.resource_names import IMAGE_SETS, build
from services.common.store.artifacts import ArtifactStore
from services.common.store.code_version import code_version

log = logging.getLogger(__name__)

#: Images of each class in one round: one batch of the generator at its default size.
ROUND_PER_CLASS = 16
#: What a generator's manifest says of one request, and so differs between the rounds.
_OF_ONE_REQUEST = ("class_counts", "seed")
_METADATA = "metadata.jsonl"
_GENERATOR = "generator.json"


@dataclass(frozen=True)
class RoundImage:
    """One synthetic image of a round, as the generator sent it; ``data`` is the encoded file."""

    index: int
    class_id: str
    image_seed: int
    data: bytes
    manifest_digest: str


@dataclass(frozen=True)
class SyntheticPlan:
    """Which images a training set has.

    Attributes:
        adapter: ``adapters/{adapter}``.
        adapter_digest: SHA-256 (hex) of the adapter's manifest.
        class_ids: In the order of the classifier's logits.
        num_per_class: Images of each class.
        seed: Seed of the whole set.
        sampler: Sampler settings as the request gave them.
    """

    adapter: str
    adapter_digest: str
    class_ids: tuple[str, ...]
    num_per_class: int
    seed: int
    sampler: Mapping[str, Any] = field(default_factory=dict)

    def rounds(self) -> list[tuple[int, int]]:
        """Seed and images per class of each round."""
        counts = [
            min(ROUND_PER_CLASS, self.num_per_class - start)
            for start in range(0, self.num_per_class, ROUND_PER_CLASS)
        ]
        return [(self._round_seed(number), count) for number, count in enumerate(counts)]

    def _round_seed(self, number: int) -> int:
        digest = hashlib.sha256(f"{self.seed}:{number}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of everything that decides about the images."""
        content = {
            "adapter": self.adapter,
            "adapter_digest": self.adapter_digest,
            "class_ids": list(self.class_ids),
            "rounds": self.rounds(),
            "sampler": {k: v for k, v in self.sampler.items() if v not in (None, "")},
            "code_version": code_version(),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def image_set_id(self) -> str:
        """The same for the same images, so that a second classifier finds them made."""
        return f"s{self.digest[:24]}"

    @property
    def num_images(self) -> int:
        """Images of all classes."""
        return self.num_per_class * len(self.class_ids)


class KeptRounds:
    """The ImageSet behind a pool: read where it is committed, else written round by round."""

    def __init__(self, plan: SyntheticPlan, store: ArtifactStore, tenant: str) -> None:
        self._plan, self._store, self._tenant = plan, store, tenant
        self._committed = store.exists(tenant, IMAGE_SETS, plan.image_set_id)
        self._draft = store.new_draft(tenant, IMAGE_SETS, plan.image_set_id)
        self._generator: dict[str, Any] = {}

    def read(self, number: int) -> list[RoundImage] | None:
        """A round that was kept, now or by an earlier run; None if it was not."""
        path = _round_path(number)
        if self._committed:
            data = self._store.read(self._tenant, IMAGE_SETS, self._plan.image_set_id, path)
            return list(read_round(data))
        if not self._draft.exists(path):
            return None
        images = list(read_round(self._draft.read(path)))
        if not self._generator:
            self._generator = json.loads(self._draft.read(_GENERATOR))
        return images

    def write(
        self, number: int, images: list[RoundImage], manifest: Mapping[str, Any]
    ) -> list[RoundImage]:
        """Keeps a round; ``manifest`` is the generator's, of the request for it.

        Raises:
            DataLoss: If the generator changed its model between the rounds.
        """
        generator = {key: value for key, value in manifest.items() if key not in _OF_ONE_REQUEST}
        if not self._generator:
            self._generator = generator
            self._draft.write(_GENERATOR, json.dumps(generator).encode())
        if generator != self._generator:
            self._draft.discard()
            raise DataLoss("the generator changed while it drew this image set",
                           "start the job again")  # fmt: skip
        self._draft.write(_round_path(number), pack_round(images))
        return images

    def commit(self) -> None:
        """Makes the ImageSet exist, if it does not yet."""
        if self._committed:
            return
        plan = self._plan
        manifest = {
            "parents": [plan.adapter],
            "base": self._generator.get("base", ""),
            "base_revision": self._generator.get("base_revision", ""),
            "settings": dict(plan.sampler),
            "seed": plan.seed,
            "code_version": code_version(),
            "metrics": {},
            "digests": [],
            "body": {
                "class_ids": list(plan.class_ids),
                "num_per_class": plan.num_per_class,
                "num_images": plan.num_images,
                "plan_digest": plan.digest,
                "generator": self._generator,
            },
        }
        try:
            self._draft.commit(manifest)
        except AlreadyExists:
            # Another run drew the same set on other hardware, whose last bits differ.
            log.warning("image set %s was made by another run meanwhile", plan.image_set_id)


def _round_path(number: int) -> str:
    return f"rounds/{number:05d}.tar"


def pack_round(images: list[RoundImage]) -> bytes:
    """A tar of ``<class>/<index>.png`` files and their metadata; the same bytes every time."""
    buffer = io.BytesIO()
    lines = []
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for image in images:
            path = f"{image.class_id}/{image.index:05d}.png"
            lines.append({
                "file_name": path,
                "index": image.index,
                "class_id": image.class_id,
                "image_seed": image.image_seed,
                "manifest_digest": image.manifest_digest,
            })  # fmt: skip
            _add(tar, path, image.data)
        _add(tar, _METADATA, "".join(json.dumps(line) + "\n" for line in lines).encode())
    return buffer.getvalue()


def read_round(data: bytes) -> Iterator[RoundImage]:
    """The images that ``pack_round`` packed, in order."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        metadata = tar.extractfile(_METADATA)
        assert metadata is not None
        for line in metadata.read().splitlines():
            fields = json.loads(line)
            member = tar.extractfile(fields.pop("file_name"))
            assert member is not None
            yield RoundImage(data=member.read(), **fields)


def read_image_set(
    store: ArtifactStore, tenant: str, image_set_id: str, max_per_class: int
) -> dict[str, list[bytes]]:
    """The first encoded images of each class of a committed ImageSet; raises NotFound."""
    manifest = store.get_manifest(tenant, IMAGE_SETS, image_set_id)
    found: dict[str, list[bytes]] = {c: [] for c in manifest["body"]["class_ids"]}
    for path in sorted(p for p in manifest["files"] if p.startswith("rounds/")):
        if all(len(images) >= max_per_class for images in found.values()):
            break
        for image in read_round(store.read(tenant, IMAGE_SETS, image_set_id, path)):
            if len(found[image.class_id]) < max_per_class:
                found[image.class_id].append(image.data)
    if not any(found.values()):
        raise NotFound(build(IMAGE_SETS, image_set_id), "it holds no images")
    return found


def count_withheld(plan: SyntheticPlan, store: ArtifactStore, tenant: str) -> int:
    """How many near-duplicates of training images the generator withheld while it drew an ImageSet.

    Each image's seed says which attempt it was.

    Raises:
        NotFound: If there is no such ImageSet.
    """
    total = 0
    for number, (seed, _) in enumerate(plan.rounds()):
        data = store.read(tenant, IMAGE_SETS, plan.image_set_id, _round_path(number))
        for image in read_round(data):
            total += attempt_of(image.image_seed, image.class_id, seed, image.index) or 0
    return total


def _add(tar: tarfile.TarFile, path: str, data: bytes) -> None:
    info = tarfile.TarInfo(path)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
