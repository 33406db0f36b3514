"""Receives real cell images and locks their split.

An upload is spooled outside the store and written only when all of it was seen to be good. A cut
stream, a bad file or a server that dies leaves nothing half-written.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cytosynth.cell_classes import is_class_id
from cytosynth.image_folder.problems import MAX_FILE_NAME
from cytosynth.labels_table import MAX_PATIENT_ID, known_patient
from services.common import resource_names
from services.common.errors import AlreadyExists, InvalidArgument, ResourceExhausted
from services.common.images.codec import (
    decode_image,
    is_marked_synthetic,
    perceptual_hash,
    sha256_hex,
)
from services.common.resource_names import DATASETS
from services.common.store.artifacts import ArtifactStore
from services.trainer.config import TrainerSettings
from services.trainer.datasets.center_crop import crop_of_files, crop_sample
from services.trainer.datasets.manifest import DatasetManifest, dataset_manifest
from services.trainer.datasets.reading import image_path
from services.trainer.datasets.splitting import ImageRecord, Split, SplitSettings, split_images

MAX_DISPLAY_NAME = 200
MAX_KEY = 128
#: File names named in one notice, at most.
MAX_NAMED = 5

_commit_locks: dict[str, threading.Lock] = defaultdict(threading.Lock)


@dataclass(frozen=True)
class DatasetHeader:
    """What an upload or import says about the dataset as a whole."""

    display_name: str = ""
    split: SplitSettings = field(default_factory=SplitSettings)
    center_crop: float = 0.0
    idempotency_key: str = ""

    def validate(self, path: str) -> None:
        """Refuses bad values, naming the field below ``path``.

        Raises:
            InvalidArgument: On a text that is too long, a bad crop or a bad split.
        """
        for name, text, limit in (
            ("display_name", self.display_name, MAX_DISPLAY_NAME),
            ("idempotency_key", self.idempotency_key, MAX_KEY),
        ):
            if len(text) > limit:
                raise InvalidArgument(
                    f"{path}.{name}", f"has {len(text)} characters", f"send at most {limit}"
                )
        if not 0.0 <= self.center_crop <= 1.0:
            raise InvalidArgument(
                f"{path}.center_crop",
                f"is {self.center_crop}",
                "send more than 0 and at most 1, or 0 to have it estimated",
            )
        self.split.validate(f"{path}.split")


@dataclass
class _Received:
    record: ImageRecord
    offset: int
    num_bytes: int
    width: int
    height: int
    dropped: str = ""


class DatasetUpload:
    """A dataset being received; a context manager. Nothing is kept without ``commit``."""

    def __init__(
        self,
        store: ArtifactStore,
        tenant: str,
        header: DatasetHeader,
        settings: TrainerSettings,
        path: str = "header",
        notices: Sequence[str] = (),
    ) -> None:
        """Starts an upload; ``notices`` are put before those of the upload itself.

        Raises:
            InvalidArgument: If the header is bad; ``path`` is its request field.
        """
        header.validate(path)
        self._store, self._tenant, self._settings = store, tenant, settings
        self._header, self._path = header, path
        self._spool = tempfile.TemporaryFile(prefix="cytosynth-upload-")  # noqa: SIM115
        self._first_notices = tuple(notices)
        self._received: dict[str, _Received] = {}
        self._merged: list[str] = []
        self._fresh_id = resource_names.new_id(DATASETS)
        self.num_images = 0

    def __enter__(self) -> DatasetUpload:
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.close()

    def add(self, class_id: str, file_name: str, patient_id: str, data: bytes) -> None:
        """Checks one image and spools its original bytes.

        A patient id that only says "unknown" (``NA``, ``none``, ``-``) counts as no patient.

        Raises:
            InvalidArgument: Naming the file, if class, name or bytes are not as they must be.
            ResourceExhausted: If the dataset is over its limits.
        """
        self.num_images += 1
        patient_id = known_patient(patient_id)
        shown = f"image {self.num_images} ({file_name[:120]!r})"
        if not is_class_id(class_id):
            raise InvalidArgument(
                "image.class_id",
                f"{shown}: is {class_id[:80]!r}",
                "send a lower-case letter, then a-z, 0-9 and _, at most 63 characters",
            )
        for name, text, limit in (
            ("file_name", file_name, MAX_FILE_NAME),
            ("patient_id", patient_id, MAX_PATIENT_ID),
        ):
            if len(text) > limit:
                problem = f"{shown}: has {len(text)} characters"
                raise InvalidArgument(f"image.{name}", problem, f"send at most {limit}")
        limits = self._settings
        if self.num_images > limits.max_dataset_images:
            problem = f"the dataset has more than {limits.max_dataset_images} images"
            raise ResourceExhausted(problem, "send fewer")
        if self._spool.tell() + len(data) > limits.max_dataset_bytes:
            problem = f"the dataset has more than {limits.max_dataset_bytes} bytes"
            raise ResourceExhausted(problem, "send fewer or smaller images")
        digest = sha256_hex(data)
        known = self._received.get(digest)
        if known is not None:
            self._add_duplicate(known, class_id, file_name, patient_id)
            return
        try:
            array = decode_image(data, "image.data", limits.image_limits)
        except InvalidArgument as error:
            raise InvalidArgument("image.data", f"{shown}: {error.problem}", error.remedy) from None
        if is_marked_synthetic(data):
            problem = f"{shown}: is marked as generated by a trained model"
            remedy = "send real images only: a classifier is tested on them"
            raise InvalidArgument("image.data", problem, remedy)
        record = ImageRecord(digest, class_id, file_name, patient_id, perceptual_hash(array))
        height, width = array.shape[:2]
        self._received[digest] = _Received(record, self._spool.tell(), len(data), width, height)
        self._spool.write(data)

    def commit(self, num_images: int) -> dict[str, Any]:
        """Splits the images and stores the dataset.

        Args:
            num_images: Number of images that the client sent.

        Returns:
            The manifest; that of the earlier dataset if the idempotency key was seen before.

        Raises:
            InvalidArgument: If the count is wrong or no class can be split.
            AlreadyExists: If the idempotency key made another dataset.
        """
        if num_images != self.num_images:
            raise InvalidArgument(
                "commit.num_images",
                f"is {num_images}, but {self.num_images} images arrived",
                "send the whole upload again",
            )
        kept = [each for each in self._received.values() if not each.dropped]
        if not kept:
            raise InvalidArgument("image", "there are no images", "send at least two per class")
        records = [each.record for each in kept]
        split = split_images(records, self._header.split, f"{self._path}.split")
        with _commit_locks[f"{self._tenant}/{self._dataset_id()}"]:
            return self._commit(kept, split)

    def _commit(self, kept: list[_Received], split: Split) -> dict[str, Any]:
        dataset_id, content = self._dataset_id(), self._content_digest(kept)
        if self._store.exists(self._tenant, DATASETS, dataset_id):
            manifest = self._store.get_manifest(self._tenant, DATASETS, dataset_id)
            if manifest["body"]["content_digest"] != content:
                raise AlreadyExists(
                    resource_names.build(DATASETS, dataset_id),
                    f"{self._path}.idempotency_key was used for other images or another split; "
                    "send a fresh key",
                )
            return manifest
        draft = self._store.new_draft(self._tenant, DATASETS, dataset_id)
        draft.discard()  # left by a server that died here
        try:
            for each in kept:
                draft.write(image_path(each.record.sha256), self._bytes(each))
            draft.commit(self._manifest(kept, split, content))
        except BaseException:
            draft.discard()
            raise
        return self._store.get_manifest(self._tenant, DATASETS, dataset_id)

    def _manifest(self, kept: list[_Received], split: Split, content: str) -> DatasetManifest:
        return dataset_manifest(
            display_name=self._header.display_name,
            settings=self._header.split,
            split=split,
            center_crop=self._header.center_crop or self._estimate_crop(split),
            images={
                each.record.sha256: {
                    "class_id": each.record.class_id,
                    "file_name": each.record.file_name,
                    "patient_id": each.record.patient_id,
                    "phash": each.record.phash,
                    "width": each.width,
                    "height": each.height,
                }
                for each in kept
            },
            notices=[*self._first_notices, *self._notices()],
            origin={"content_digest": content},
        )

    def _add_duplicate(
        self, known: _Received, class_id: str, file_name: str, patient_id: str
    ) -> None:
        first = known.record
        if class_id != first.class_id:
            known.dropped = f"classes {first.class_id} and {class_id}"
        elif patient_id != first.patient_id:
            known.dropped = f"patients {first.patient_id!r} and {patient_id!r}"
        else:
            self._merged.append(f"{file_name} is {first.file_name}")

    def _notices(self) -> list[str]:
        notices = []
        if self._merged:
            named = ", ".join(self._merged[:MAX_NAMED])
            more = ", …" if len(self._merged) > MAX_NAMED else ""
            notices.append(f"{len(self._merged)} exact duplicates merged: {named}{more}")
        for each in self._received.values():
            if each.dropped:
                notices.append(f"{each.record.file_name} dropped: the same file in {each.dropped}")
        return notices

    def _dataset_id(self) -> str:
        """The same id for the same key and tenant, as retries need."""
        if not self._header.idempotency_key:
            return self._fresh_id
        text = f"{self._tenant}\n{self._header.idempotency_key}"
        return "k" + hashlib.sha256(text.encode()).hexdigest()[:20]

    def _content_digest(self, kept: list[_Received]) -> str:
        images = sorted(
            (each.record.sha256, each.record.class_id, each.record.patient_id) for each in kept
        )
        content = {
            "images": images,
            "split": asdict(self._header.split),
            "center_crop": self._header.center_crop,
            "display_name": self._header.display_name,
        }
        return sha256_hex(json.dumps(content, sort_keys=True).encode())

    def _estimate_crop(self, split: Split) -> float:
        files = (self._bytes(self._received[digest]) for digest in crop_sample(split.train))
        return crop_of_files(files, self._settings.image_limits)

    def _bytes(self, received: _Received) -> bytes:
        self._spool.seek(received.offset)
        return self._spool.read(received.num_bytes)
