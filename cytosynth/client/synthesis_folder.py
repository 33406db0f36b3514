"""Synthetic cells as an ImageFolder tree that survives interruption.

Layout: ``<folder>/<class>/<index>.png``, one line per image in ``metadata.jsonl``, and
``synthesis.json`` with the request and the manifest. An image file is complete before its line is
written; lines are in order of index. After a kill at any moment the lines say what is done, and
the same call continues there, without gap or duplicate.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from cytosynth.client.atomic_files import write_whole
from cytosynth.client.errors import CytosynthError, FieldViolation, invalid_argument
from cytosynth.client.generator import GeneratorClient, SyntheticImage
from cytosynth.client.settings import SynthesisSettings
from cytosynth.file_lock import lock

METADATA_FILE = "metadata.jsonl"
REQUEST_FILE = "synthesis.json"

# Older folders leave out what was not asked for.
_DEFAULTS = (("seed", 0), ("image_format", "png"))

OnImage = Callable[[int, int], None]
"""Called with images done and images in all."""


@dataclass(frozen=True)
class SynthesisFolder:
    """What a folder now holds; ``num_resumed`` images of it were there before."""

    folder: Path
    num_images: int
    num_resumed: int
    manifest_digest: str


@dataclass(frozen=True)
class _Request:
    """What the images of a folder depend on."""

    class_counts: dict[str, int]
    settings: SynthesisSettings

    def to_dict(self) -> dict[str, Any]:
        """Content of ``synthesis.json``: settings and sampler settings in one level."""
        settings = asdict(self.settings)
        sampler = settings.pop("sampler")
        return {"class_counts": list(self.class_counts.items()), **settings, **sampler}


def synthesize_to_folder(
    client: GeneratorClient,
    folder: str | Path,
    class_counts: Mapping[str, int],
    settings: SynthesisSettings,
    max_failures: int | None = None,
    on_progress: OnImage | None = None,
) -> SynthesisFolder:
    """Fill ``folder``; the same request again completes what is missing.

    Args:
        client: Where to ask.
        folder: Made if it is missing.
        class_counts: Images per class.
        settings: As ``GeneratorClient.synthesize`` takes them.
        max_failures: As ``GeneratorClient.synthesize`` takes it.
        on_progress: Called after every image.

    Raises:
        CytosynthError: As ``synthesize``; or the folder holds something else, is in use, or
            cannot be written.
    """
    root = Path(folder)
    request = _Request(dict(class_counts), settings)
    try:
        _check_is_ours(root)
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root / METADATA_FILE) as metadata:
            try:
                return _fill(client, root, metadata, request, max_failures, on_progress)
            finally:
                _remove_if_empty(root)
    except OSError as error:
        raise CytosynthError(
            "FAILED_PRECONDITION",
            f"{error.filename or root}: {error.strerror}",
            remedy="free or choose another folder and run the same again",
        ) from None


def _fill(
    client: GeneratorClient,
    root: Path,
    metadata: IO[bytes],
    request: _Request,
    max_failures: int | None,
    on_progress: OnImage | None,
) -> SynthesisFolder:
    total = sum(request.class_counts.values())
    manifest_digest = _same_request(root, request.to_dict())
    num_done = num_resumed = _keep_complete(root, metadata) if manifest_digest else 0
    if num_done < total or total <= 0:
        for image in client.synthesize(
            request.class_counts,
            request.settings,
            first_index=num_done,
            max_failures=max_failures,
        ):
            if not manifest_digest:
                manifest_digest = image.manifest_digest
                _write_request(root, request.to_dict(), image)
            _check_same_model(image, manifest_digest)
            _keep(root, metadata, image)
            num_done += 1
            if on_progress:
                on_progress(num_done, total)
    os.fsync(metadata.fileno())
    return SynthesisFolder(root, num_done, num_resumed, manifest_digest)


def _check_is_ours(root: Path) -> None:
    if not root.exists():
        return
    if not root.is_dir():
        raise invalid_argument("folder", f"{root} is not a folder", "choose another")
    names = {entry.name for entry in root.iterdir()}
    begun = METADATA_FILE in names and (root / METADATA_FILE).stat().st_size == 0
    if names and not begun and not {METADATA_FILE, REQUEST_FILE} <= names:
        raise invalid_argument(
            "folder", f"{root} holds other files ({min(names)})", "choose an empty folder"
        )


def _same_request(root: Path, wanted: dict[str, Any]) -> str:
    """The manifest digest in the folder; raises if its request was another."""
    path = root / REQUEST_FILE
    if not path.exists():
        return ""
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        request, digest = _images_of(there["request"]), str(there["manifest_digest"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CytosynthError(
            "DATA_LOSS", f"{path} is damaged", remedy="choose another folder"
        ) from None
    now = _images_of(json.loads(json.dumps(wanted)))
    if request != now:
        differing = [
            FieldViolation(name, f"was {request.get(name)!r}, is {now.get(name)!r}")
            for name in sorted(set(request) | set(now))
            if request.get(name) != now.get(name)
        ]
        changes = ", ".join(f"{item.field} {item.description}" for item in differing)
        raise CytosynthError(
            "FAILED_PRECONDITION",
            f"{root} holds another synthesis: {changes}",
            field_violations=differing,
            remedy="choose another --out, or give the settings of that synthesis",
        )
    return digest


def _images_of(request: dict[str, Any]) -> dict[str, Any]:
    """Fields that the images depend on and that are not defaults."""
    return {
        key: value
        for key, value in request.items()
        if key not in ("priority", "max_failures")
        and value not in (None, "")
        and (key, value) not in _DEFAULTS
    }


def _write_request(root: Path, wanted: dict[str, Any], image: SyntheticImage) -> None:
    body = {
        "request": wanted,
        "manifest_digest": image.manifest_digest,
        "manifest": dict(image.manifest),
        "notice": "Synthetic images. Research use only; not a medical device.",
    }
    write_whole(root / REQUEST_FILE, json.dumps(body, indent=2, default=str).encode() + b"\n")


def _keep_complete(root: Path, metadata: IO[bytes]) -> int:
    """Truncate the table to lines with intact files; returns their number."""
    metadata.seek(0)
    num_done = num_bytes = 0
    for line in metadata:
        if not _is_intact(root, line, num_done):
            break
        num_done += 1
        num_bytes += len(line)
    metadata.truncate(num_bytes)
    metadata.seek(num_bytes)
    for leftover in root.glob("**/.partial-*"):
        leftover.unlink(missing_ok=True)
    return num_done


def _is_intact(root: Path, line: bytes, index: int) -> bool:
    try:
        entry = json.loads(line)
        data = (root / entry["file_name"]).read_bytes()
        return bool(
            line.endswith(b"\n")
            and entry["index"] == index
            and hashlib.sha256(data).hexdigest() == entry["sha256"]
        )
    except (ValueError, KeyError, TypeError, OSError):
        return False


def _check_same_model(image: SyntheticImage, manifest_digest: str) -> None:
    if image.manifest_digest != manifest_digest:
        raise CytosynthError(
            "FAILED_PRECONDITION",
            "the model or its settings changed since this folder was begun",
            remedy="choose another folder",
        )


def _keep(root: Path, metadata: IO[bytes], image: SyntheticImage) -> None:
    suffix = "jpg" if image.image_format == "jpeg" else image.image_format
    file_name = f"{image.class_id}/{image.index:06d}.{suffix}"
    write_whole(root / file_name, image.data)
    entry = {
        "file_name": file_name,
        "class": image.class_id,
        "index": image.index,
        "image_seed": image.image_seed,
        "manifest_digest": image.manifest_digest,
        "sha256": hashlib.sha256(image.data).hexdigest(),
    }
    metadata.write(json.dumps(entry).encode() + b"\n")
    metadata.flush()


def _remove_if_empty(root: Path) -> None:
    """Remove a folder that a refused request left empty."""
    names = [entry.name for entry in root.iterdir()]
    if names == [METADATA_FILE] and (root / METADATA_FILE).stat().st_size == 0:
        (root / METADATA_FILE).unlink()
        root.rmdir()


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    with path.open("a+b") as file:
        if not lock(file, wait=False):
            raise CytosynthError(
                "FAILED_PRECONDITION",
                f"another process is writing to {path.parent}",
                remedy="wait for it or choose another folder",
            )
        yield file
