"""Base diffusion models: their folders, revisions and loading.

A base is a folder below the models folder. The folder holds a diffusers pipeline
(``model_index.json`` and its parts). For a model kept elsewhere, the folder holds only a
``manifest.json`` whose ``location`` is a folder or hub id and whose ``revision`` pins it::

    {"name": "sd21-base", "kind": "diffusion_base", "image_size_px": 512,
     "location": "owner/stable-diffusion-2-1-base", "revision": "<commit>"}

A request can name only these, so no client makes a server read a path or download a model.

A base may have a second, smaller decoder (diffusers AutoencoderTiny, as TAESD is one): a folder
``vae_tiny`` beside its parts, or in ``manifest.json``
``"tiny_decoder": {"location": "owner/taesd", "revision": "<commit>"}``. A base may also name a
distillation LoRA (``distilled_loras.py``) and hold a solver of its own (``bespoke_solvers.py``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.common.errors import FailedPrecondition
from services.common.models.bespoke_solvers import BespokeSolver, read_bespoke_solver
from services.common.models.construction_lock import builds_models
from services.common.models.distilled_loras import (
    DistillationLora,
    merge_distillation_lora,
    read_distillation_lora,
)
from services.common.models.folders import check_known, read_manifest
from services.common.models.pipelines import decodes_in_float32, text_encoders
from services.common.store.file_digests import file_digest

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderTiny

    from services.common.models.pipelines import Pipeline

PIPELINE_CLASSES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
_PARTS = (
    "model_index.json",
    "scheduler",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
    "unet",
    "vae",
)
TINY_DECODER = "vae_tiny"


@dataclass(frozen=True)
class TinyDecoder:
    """Location of a base's second decoder, and the revision of its files.

    The base's revision leaves this decoder out: what was trained on the base still fits.
    """

    location: str
    revision: str


@dataclass(frozen=True)
class Base:
    """One base model.

    Attributes:
        name: Folder name below the models folder.
        location: Folder or hub id that diffusers loads.
        revision: Digest of the files (a folder) or pinned hub revision.
        manifest: Content of ``manifest.json``; empty where there is none.
        tiny_decoder: Second decoder, if there is one.
        distillation_lora: LoRA with which the UNet needs fewer steps, if there is one.
        bespoke_solver: Few steps fitted to the base, if there are any.
    """

    name: str
    location: str
    revision: str
    manifest: dict[str, Any] = field(default_factory=dict, hash=False)
    tiny_decoder: TinyDecoder | None = None
    distillation_lora: DistillationLora | None = None
    bespoke_solver: BespokeSolver | None = None

    @property
    def class_ids(self) -> tuple[str, ...] | None:
        """Classes that the base was trained on; None if not stated."""
        listed = self.manifest.get("class_ids")
        return tuple(listed) if listed else None

    @property
    def image_size_px(self) -> int:
        """Size of its images, pixels; 0 if unknown without loading the model."""
        if "image_size_px" in self.manifest:
            return int(self.manifest["image_size_px"])
        folder = Path(self.location)
        try:
            unet = json.loads((folder / "unet" / "config.json").read_text())
            vae = json.loads((folder / "vae" / "config.json").read_text())
            return int(unet["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)
        except (OSError, KeyError, TypeError, ValueError):
            return 0


def list_bases(models_dir: Path) -> list[str]:
    """Names of the bases below ``models_dir``, sorted."""
    if not models_dir.is_dir():
        return []
    return sorted(folder.name for folder in models_dir.iterdir() if _is_base(folder))


def resolve_base(name: str, models_dir: Path, field: str = "base") -> Base:
    """Finds the base called ``name``.

    Raises:
        InvalidArgument: If there is none; lists the known ones.
        FailedPrecondition: If its manifest is unreadable or pins no revision.
    """
    check_known("base model", name, list_bases(models_dir), field)
    folder = models_dir.resolve() / name
    manifest = _checked_manifest(folder)
    if "location" in manifest:
        location, revision = _pinned(folder, manifest, "")
    else:
        location, revision = str(folder), folder_revision(folder)
    return Base(
        name,
        location,
        revision,
        manifest,
        _tiny_decoder(folder, manifest),
        read_distillation_lora(folder, manifest),
        read_bespoke_solver(folder, revision),
    )


def _tiny_decoder(folder: Path, manifest: dict[str, Any]) -> TinyDecoder | None:
    if "tiny_decoder" in manifest:
        return TinyDecoder(*_pinned(folder, manifest["tiny_decoder"], "tiny_decoder."))
    if (folder / TINY_DECODER / "config.json").is_file():
        return TinyDecoder(str(folder / TINY_DECODER), folder_revision(folder, (TINY_DECODER,)))
    return None


def _pinned(folder: Path, entry: Any, prefix: str) -> tuple[str, str]:
    if not isinstance(entry, dict) or not entry.get("location"):
        remedy = f'add "{prefix}location" to its manifest.json'
        raise FailedPrecondition(folder.name, f"its manifest names no {prefix}location", remedy)
    if not entry.get("revision"):
        problem = f"its manifest names a {prefix}location but pins no revision"
        raise FailedPrecondition(
            folder.name, problem, f'add "{prefix}revision" to its manifest.json'
        )
    return str(entry["location"]), str(entry["revision"])


def folder_revision(folder: Path, parts: Sequence[str] = _PARTS) -> str:
    """SHA-256 (hex) over paths and contents of the pipeline's files."""
    files = [
        path
        for part in parts
        for path in ([folder / part] if (folder / part).is_file() else (folder / part).rglob("*"))
        if path.is_file()
    ]
    total = hashlib.sha256()
    for path in sorted(files):
        total.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        total.update(file_digest(path).encode())
    return total.hexdigest()


@builds_models
def load_pipeline(
    base: Base,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    distillation_lora: DistillationLora | None = None,
) -> Pipeline:
    """Loads a base for inference: no safety checker, safetensors only, gradients off.

    Args:
        base: The base, from :func:`resolve_base`.
        device: torch device.
        dtype: Type of the weights; None is float32.
        distillation_lora: LoRA to merge into the UNet.

    Raises:
        FailedPrecondition: If the base is no Stable Diffusion pipeline or does not load.
    """
    import diffusers
    import torch
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    remote: dict[str, Any] = {} if Path(base.location).is_dir() else {"revision": base.revision}
    try:
        index = diffusers.DiffusionPipeline.load_config(base.location, **remote)
        kind = index.get("_class_name")
        if kind not in PIPELINE_CLASSES:
            raise ValueError(f"it is a {kind}, not one of {', '.join(PIPELINE_CLASSES)}")
        if kind == "StableDiffusionPipeline":
            remote |= {"safety_checker": None, "requires_safety_checker": False}
        loader = getattr(diffusers, kind)
        # diffusers warns of an AutoencoderDC beside a Stable Diffusion UNet, which works.
        verbosity = diffusers_logging.get_verbosity()
        diffusers_logging.set_verbosity_error()
        try:
            pipeline = loader.from_pretrained(
                base.location,
                dtype=dtype or torch.float32,
                use_safetensors=True,
                **remote,
            )
        finally:
            diffusers_logging.set_verbosity(verbosity)
    except (OSError, ValueError) as error:
        # The reason may hold a path: it goes to the log with the cause, not to the client.
        remedy = "check the model's folder or hub id on the server"
        raise FailedPrecondition(f"base {base.name}", "does not load", remedy) from error
    pipeline.set_progress_bar_config(disable=True)
    if distillation_lora is not None:
        merge_distillation_lora(pipeline, distillation_lora, base.name)
    for model in (pipeline.unet, pipeline.vae, *text_encoders(pipeline)):
        model.requires_grad_(False)
        model.eval()
    pipeline.to(device)
    if decodes_in_float32(pipeline):
        pipeline.vae.to(torch.float32)
    return pipeline


@builds_models
def load_tiny_decoder(
    base: Base, device: str = "cpu", dtype: torch.dtype | None = None
) -> AutoencoderTiny | None:
    """Loads the base's second decoder, if it has one; arguments as ``load_pipeline``.

    Raises:
        FailedPrecondition: If the decoder does not load.
    """
    import torch
    from diffusers import AutoencoderTiny

    tiny = base.tiny_decoder
    if tiny is None:
        return None
    remote = {} if Path(tiny.location).is_dir() else {"revision": tiny.revision}
    try:
        model = AutoencoderTiny.from_pretrained(
            tiny.location, torch_dtype=dtype or torch.float32, use_safetensors=True, **remote
        )
    except (OSError, ValueError) as error:
        problem, remedy = "does not load", "check its folder or hub id on the server"
        raise FailedPrecondition(f"tiny decoder of {base.name}", problem, remedy) from error
    return model.requires_grad_(False).eval().to(device)


def _is_base(folder: Path) -> bool:
    if folder.name.startswith("."):
        return False
    if (folder / "model_index.json").is_file():
        return True
    content = read_manifest(folder)
    return content.get("kind") == "diffusion_base" and "location" in content


def _checked_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        problem = "its manifest.json is not a readable JSON object"
        raise FailedPrecondition(folder.name, problem, "repair the model's folder") from error
