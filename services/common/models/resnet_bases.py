"""ResNet bases: weights trained on other images, from which a classifier starts.

A base is a folder below the models folder: ``model.safetensors`` (a torchvision ResNet's tensors
without its last layer) and ``manifest.json``. For weights kept elsewhere, there is only a manifest
with their location::

    {"name": "resnet-50-imagenet", "kind": "resnet_base", "architecture": "resnet50",
     "location": "torchvision/IMAGENET1K_V2"}

``location`` is a folder that holds ``model.safetensors``, or ``torchvision/`` and the name of one
of torchvision's weights. A request can name only these, so no client makes a server read a path
or download a model. Without torch: the trainer's front checks requests with it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.common.errors import FailedPrecondition, InvalidArgument
from services.common.models.folders import check_known, read_manifest
from services.common.store.file_digests import file_digest

KIND = "resnet_base"
WEIGHTS_FILE = "model.safetensors"
HEAD_PREFIX = "net.fc."
"""Prefix of the last layer's tensors, which every classifier has of its own."""
TORCHVISION = "torchvision/"
FIELD = "settings.resnet_base"


@dataclass(frozen=True)
class ResNetBase:
    """A ResNet base.

    Attributes:
        name: Folder name below the models folder.
        architecture: Which ResNet, for example "resnet18".
        weights: File of the weights, or ``torchvision/`` and a name.
        revision: SHA-256 (hex) of the weights; of the location where they lie elsewhere.
        manifest: Content of ``manifest.json``; ``digests`` lists the real images it has seen.
    """

    name: str
    architecture: str
    weights: str
    revision: str
    manifest: dict[str, Any]


def list_resnet_bases(models_dir: Path) -> list[str]:
    """Names of the ResNet bases below ``models_dir``, sorted."""
    if not models_dir.is_dir():
        return []
    folders = models_dir.iterdir()
    return sorted(folder.name for folder in folders if read_manifest(folder).get("kind") == KIND)


def resolve_resnet_base(
    name: str, architecture: str, models_dir: Path, field: str = FIELD
) -> ResNetBase:
    """Finds the base called ``name``; reads its files but loads no model.

    Args:
        name: Name in the request.
        architecture: Architecture of the classifier that starts from the base.
        models_dir: Folder of the embedded models.
        field: Request field, for errors.

    Raises:
        InvalidArgument: If there is none (lists the known ones), or its architecture is another.
        FailedPrecondition: If its manifest does not say where the weights lie.
    """
    check_known("ResNet base", name, list_resnet_bases(models_dir), field)
    folder = models_dir.resolve() / name
    manifest = read_manifest(folder)
    own = str(manifest.get("architecture", ""))
    if own != architecture:
        problem = f"{name} is a {own or 'ResNet of no stated architecture'}, not a {architecture}"
        raise InvalidArgument(field, problem, f"ask for {own}, or name a base of {architecture}")
    location = str(manifest.get("location", ""))
    if location.startswith(TORCHVISION):
        revision = hashlib.sha256(f"{own} {location}".encode()).hexdigest()
        return ResNetBase(name, own, location, revision, manifest)
    path = (Path(location) if location else folder) / WEIGHTS_FILE
    if not path.is_file():
        problem = f"there is no {WEIGHTS_FILE} in its folder, nor where its manifest points"
        raise FailedPrecondition(f"ResNet base {name}", problem, "correct its manifest.json")
    return ResNetBase(name, own, str(path), file_digest(path), manifest)
