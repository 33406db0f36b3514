"""CLIP bases: their folders, and the names by which open_clip loads them.

A base is a folder below the models folder. The folder holds either an open_clip model
(``open_clip_config.json`` and its weights) or, for a model kept elsewhere, only a
``manifest.json`` with its location::

    {"name": "clip-vit-b-32", "kind": "clip_base", "location": "ViT-B-32/laion2b_s34b_b79k",
     "image_size_px": 224}

``location`` is an open_clip model and tag, an ``hf-hub:owner/name`` or a folder. A request can
name only these, so no client makes a server read a path or download a model.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.common.errors import FailedPrecondition
from services.common.models.folders import check_known, read_manifest
from services.common.store.file_digests import file_digest

CONFIG_FILE = "open_clip_config.json"
FIELD = "settings.clip_base"


@dataclass(frozen=True)
class ClipBase:
    """A CLIP base.

    Attributes:
        name: Folder name below the models folder.
        model_name, pretrained: What open_clip's factory takes.
        revision: SHA-256 (hex) of config and weights; of the location where they lie elsewhere.
        manifest: Content of ``manifest.json``; ``digests`` lists the real images it has seen.
        image_size_px: Size of its input, pixels; 0 if not known without loading it.
    """

    name: str
    model_name: str
    pretrained: str | None
    revision: str
    manifest: dict[str, Any]
    image_size_px: int


def list_clip_bases(models_dir: Path) -> list[str]:
    """Names of the CLIP bases below ``models_dir``, sorted."""
    if not models_dir.is_dir():
        return []
    return sorted(
        folder.name
        for folder in models_dir.iterdir()
        if (folder / CONFIG_FILE).is_file() or read_manifest(folder).get("kind") == "clip_base"
    )


def resolve_clip_base(name: str, models_dir: Path, field: str = FIELD) -> ClipBase:
    """Finds the base called ``name``; reads its files but loads no model.

    Raises:
        InvalidArgument: If there is none; lists the known ones.
        FailedPrecondition: If its manifest does not say where the model lies.
    """
    check_known("CLIP base", name, list_clip_bases(models_dir), field)
    folder = models_dir.resolve() / name
    manifest = read_manifest(folder)
    size = int(manifest.get("image_size_px", 0))
    location = manifest.get("location", "")
    if location and Path(location).is_dir():
        folder = Path(location)
    elif location:
        model_name, slash, tag = location.partition("/")
        revision = hashlib.sha256(f"{location}@{manifest.get('revision', '')}".encode()).hexdigest()
        if location.startswith("hf-hub:"):
            return ClipBase(name, location, None, revision, manifest, size)
        if slash and tag:
            return ClipBase(name, model_name, tag, revision, manifest, size)
    if not (folder / CONFIG_FILE).is_file():
        problem = "its manifest names no folder, hub id or open_clip model/tag"
        raise FailedPrecondition(f"CLIP base {name}", problem, "correct its manifest.json")
    vision = json.loads((folder / CONFIG_FILE).read_text())["model_cfg"]["vision_cfg"]
    size = int(vision.get("image_size", 224)) if isinstance(vision, dict) else size
    return ClipBase(name, f"local-dir:{folder}", None, _revision(folder), manifest, size)


def _revision(folder: Path) -> str:
    total = hashlib.sha256()
    weights = [p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".pt")]
    for path in sorted([folder / CONFIG_FILE, *weights]):
        total.update(f"{path.name}\0{file_digest(path)}\n".encode())
    return total.hexdigest()
