"""Makes a dataset from an ImageFolder tree (``<class>/<image>``) that the server can read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from cytosynth.labels_table import LABELS_FILE, PATIENT_COLUMN, LabelsError, read_labels
from services.common.errors import InvalidArgument, PermissionDenied, Unavailable
from services.common.store.artifacts import ArtifactStore
from services.trainer.config import TrainerSettings
from services.trainer.datasets.upload import DatasetHeader, DatasetUpload

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
MAX_LABELS_BYTES = 100_000_000


def import_folder(
    store: ArtifactStore,
    tenant: str,
    uri: str,
    header: DatasetHeader,
    settings: TrainerSettings,
) -> dict[str, Any]:
    """Imports every image below ``uri``; files with other endings are passed over.

    Patient ids are taken from ``labels.csv``, if it is there: the columns ``file`` (relative to
    ``uri``) and, where patients are known, ``patient_id``.

    Returns:
        The dataset's manifest.

    Raises:
        InvalidArgument: If the URI is malformed, there are no images, or one of them is bad, or
            the table.
        PermissionDenied: If the URI lies outside what ``import_uri_prefixes`` allows.
    """
    header.validate("header")
    allowed = _allowed_prefix(uri, tenant, settings)
    try:
        fs, root = fsspec.url_to_fs(uri, use_listings_cache=False)
        _check_no_way_out(fs, root, fsspec.url_to_fs(allowed)[1])
        paths = sorted(_image_paths(fs, root))
    except (ValueError, ImportError):
        raise InvalidArgument("uri", "is of a kind that this server cannot read", _REMEDY) from None
    except OSError:
        paths = []
    if not paths:
        raise InvalidArgument("uri", "there are no images at <uri>/<class>/<image>", _REMEDY)
    patients = _patients(fs, root)
    with DatasetUpload(store, tenant, header, settings) as upload:
        for path in paths:
            class_id, file = PurePosixPath(path).parts[-2:]
            name = f"{class_id}/{file}"
            upload.add(class_id, name, patients.get(name, ""), _read(fs, path, settings))
        return upload.commit(upload.num_images)


_NOT_ALLOWED = (
    "uri: the server may not read this folder; put the images where its operator allows it "
    "(CYTOSYNTH_IMPORT_URI_PREFIXES), or upload them"
)
_REMEDY = "name a folder with one folder of images per class, or upload the images"


def _allowed_prefix(uri: str, tenant: str, settings: TrainerSettings) -> str:
    """The allowed URI that ``uri`` lies in; raises where there is none."""
    if "://" not in uri or "::" in uri or "\\" in uri or "\0" in uri or len(uri) > 2000:
        raise InvalidArgument("uri", "is not a plain URI", "send for example s3://bucket/cells")
    if any(part in (".", "..") for part in uri.split("/")):
        raise InvalidArgument("uri", "has a relative part", "send the folder's full URI")
    for prefix in settings.import_uri_prefixes:
        filled = prefix.replace("{store_uri}", settings.store_uri.rstrip("/"))
        allowed = filled.replace("{tenant}", tenant).rstrip("/")
        if uri.rstrip("/") == allowed or uri.startswith(allowed + "/"):
            return allowed
    raise PermissionDenied(_NOT_ALLOWED)


def _check_no_way_out(fs: AbstractFileSystem, root: str, allowed: str) -> None:
    """Refuses a folder that is reached through a link to outside of what is allowed."""
    if isinstance(fs, LocalFileSystem):
        real, limit = os.path.realpath(root), os.path.realpath(allowed)
        if real != limit and not real.startswith(limit + os.sep):
            raise PermissionDenied(_NOT_ALLOWED)


def _image_paths(fs: AbstractFileSystem, root: str) -> Iterator[str]:
    """Paths of the images; links are neither files nor directories to fsspec and passed over."""
    for folder in fs.ls(root, detail=True):
        name = PurePosixPath(folder["name"]).name
        if folder["type"] != "directory" or name.startswith("."):
            continue
        for entry in fs.ls(folder["name"], detail=True):
            file = PurePosixPath(entry["name"]).name
            if (
                entry["type"] == "file"
                and not file.startswith(".")
                and file.lower().endswith(IMAGE_ENDINGS)
            ):
                yield entry["name"]


def _read(fs: AbstractFileSystem, path: str, settings: TrainerSettings) -> bytes:
    """A file's bytes, no more than one over the limit."""
    with fs.open(path, "rb") as file:
        data: bytes = file.read(settings.max_image_bytes + 1)
    return data


def _patients(fs: AbstractFileSystem, root: str) -> dict[str, str]:
    """Patient id by ``<class>/<file>``, from ``labels.csv`` if it is there.

    A table that cannot be read is refused: without its patients, those who train would test.
    """
    try:
        with fs.open(f"{root.rstrip('/')}/{LABELS_FILE}", "rb") as file:
            data = file.read(MAX_LABELS_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError:
        raise Unavailable(f"{LABELS_FILE} cannot be read") from None
    if len(data) > MAX_LABELS_BYTES:
        problem = f"has more than {MAX_LABELS_BYTES} bytes"
        raise InvalidArgument(LABELS_FILE, problem, "keep the columns file and patient_id alone")
    try:
        rows = read_labels(data.decode("utf-8-sig"), ("file",))
    except UnicodeDecodeError:
        raise InvalidArgument(LABELS_FILE, "is not UTF-8", "save it as CSV in UTF-8") from None
    except LabelsError as error:
        raise InvalidArgument(LABELS_FILE, error.problem, error.remedy) from None
    return {row["file"]: row.get(PATIENT_COLUMN, "").strip() for _, row in rows}
