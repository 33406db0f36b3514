"""Makes a dataset from an ImageFolder tree that the server can read.

Images are ``<class>/…/<image>``.
"""

from __future__ import annotations

import os
import shlex
from pathlib import PurePosixPath
from typing import Any, Literal

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from cytosynth.image_folder.problems import ImageFolderError
from cytosynth.image_folder.reader import FolderImage, ImageFolder, read_image_folder
from cytosynth.image_folder.walk import Entry
from services.common.errors import InvalidArgument, PermissionDenied
from services.common.store.artifacts import ArtifactStore
from services.trainer.config import TrainerSettings
from services.trainer.datasets.refusals import Refusals
from services.trainer.datasets.upload import DatasetHeader, DatasetUpload

_ENTRY_KINDS: dict[str, Literal["file", "folder"]] = {"file": "file", "directory": "folder"}


def import_folder(
    store: ArtifactStore,
    tenant: str,
    uri: str,
    header: DatasetHeader,
    settings: TrainerSettings,
) -> dict[str, Any]:
    """Makes a dataset of images below ``uri``, read as an upload is.

    Returns:
        The dataset's manifest; what was left out is among its notices.

    Raises:
        InvalidArgument: If the URI is malformed, there are no images, or the folders, the table
            or images cannot be used.
        PermissionDenied: If the URI lies outside what ``import_uri_prefixes`` allows.
    """
    header.validate("header")
    allowed = _allowed_prefix(uri, tenant, settings)
    try:
        fs, root = fsspec.url_to_fs(uri, use_listings_cache=False)
        _check_no_way_out(fs, root, fsspec.url_to_fs(allowed)[1])
        files = _FsspecFiles(fs, root, uri)
        folder = _read(files)
    except (ValueError, ImportError):
        raise InvalidArgument("uri", "is of a kind that this server cannot read", _REMEDY) from None
    with DatasetUpload(store, tenant, header, settings, notices=folder.notices) as upload:
        refusals = Refusals()
        for image in folder.images:
            with refusals.collecting():
                _add(upload, files, image, settings)
        refusals.raise_any()
        return upload.commit(upload.num_images)


_NOT_ALLOWED = (
    "uri: the server may not read this folder; put the images where its operator allows it "
    "(CYTOSYNTH_IMPORT_URI_PREFIXES), or upload them"
)
_REMEDY = "name a folder with one folder of images per class, or `cytosynth upload` the images"


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
    """Refuses a folder reached by a link out of the allowed one."""
    if isinstance(fs, LocalFileSystem):
        real, limit = os.path.realpath(root), os.path.realpath(allowed)
        if real != limit and not real.startswith(limit + os.sep):
            raise PermissionDenied(_NOT_ALLOWED)


class _FsspecFiles:
    """Lists and reads below ``root``; no link is followed."""

    def __init__(self, fs: AbstractFileSystem, root: str, uri: str) -> None:
        self._fs, self._root, self._uri = fs, root.rstrip("/"), uri.rstrip("/")

    def entries(self, path: str) -> list[Entry]:
        """What lies in a folder; raises OSError."""
        folder = self._path(path)
        return [
            # Local links are neither "file" nor "directory" to fsspec.
            Entry(
                PurePosixPath(each["name"]).name,
                _ENTRY_KINDS.get(each["type"], "link"),
                each.get("size") or 0,
            )
            for each in self._fs.ls(folder, detail=True)
            if each["name"].strip("/") != folder.strip("/")  # how object stores mark a folder
        ]

    def read(self, path: str, most_bytes: int) -> bytes:
        """The first bytes of a file; raises OSError."""
        with self._fs.open(self._path(path), "rb") as file:
            data: bytes = file.read(most_bytes)
        return data

    def shown(self, path: str) -> str:
        """The URI of the path."""
        return f"{self._uri}/{path}".rstrip("/")

    def command(self, path: str) -> str:
        """The command that imports a folder of the tree."""
        return f"cytosynth import {shlex.quote(self.shown(path))}"

    def exists(self) -> bool:
        """Whether the root is a folder."""
        try:
            return bool(self._fs.isdir(self._root or "/"))
        except OSError:
            return False

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}".rstrip("/")


def _read(files: _FsspecFiles) -> ImageFolder:
    """The folder's images; raises InvalidArgument."""
    if not files.exists():
        raise InvalidArgument("uri", "there are no images at <uri>/<class>/<image>", _REMEDY)
    try:
        return read_image_folder(files)
    except ImageFolderError as error:
        found = [InvalidArgument(each.name, each.text, error.remedy) for each in error.problems]
        raise InvalidArgument.joined(found, error.num_problems) from None


def _add(
    upload: DatasetUpload, files: _FsspecFiles, image: FolderImage, settings: TrainerSettings
) -> None:
    try:
        data = files.read(image.path, settings.max_image_bytes + 1)
    except OSError:
        problem = f"{image.file_name!r} cannot be read"
        raise InvalidArgument("image.data", problem, "let the server read it") from None
    upload.add(image.class_id, image.file_name, image.patient_id, data)
