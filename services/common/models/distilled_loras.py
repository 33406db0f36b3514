"""Distillation LoRAs: few steps and no guidance for a base's UNet.

Hyper-SD (Ren et al., arXiv 2404.13686) is one. A base names its own in ``manifest.json`` by the
key ``accelerator``, as a folder beside its own or on a hub::

    "accelerator": {"location": "../cyto-small-accelerator", "num_steps": 4}
    "accelerator": {"location": "ByteDance/Hyper-SD", "revision": "<commit>", "num_steps": 4,
                    "weight_name": "Hyper-SD15-4steps-lora.safetensors"}

The LoRA has to suit DDIM with trailing timesteps and without guidance. Adapters fitted on the base
are applied on top of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.common.errors import FailedPrecondition
from services.common.store.file_digests import file_digest

if TYPE_CHECKING:
    from services.common.models.pipelines import Pipeline

WEIGHTS_FILE = "pytorch_lora_weights.safetensors"
MAX_NUM_STEPS = 50


@dataclass(frozen=True)
class DistillationLora:
    """Location of a base's distillation LoRA, and its number of steps.

    The base's revision leaves this LoRA out: what was trained on the base still fits.

    Attributes:
        location: Folder or hub id.
        weight_name: File at the location.
        revision: SHA-256 of the file (a folder) or pinned hub revision.
        num_steps: DDIM steps that the LoRA is made for.
    """

    location: str
    weight_name: str
    revision: str
    num_steps: int


def read_distillation_lora(base_folder: Path, manifest: dict[str, Any]) -> DistillationLora | None:
    """Reads the distillation LoRA that a base's manifest names, if any.

    Raises:
        FailedPrecondition: If its entry is incomplete or its file is not there.
    """
    entry = manifest.get("accelerator")
    if entry is None:
        return None
    if not isinstance(entry, dict) or not entry.get("location"):
        raise _wrong(base_folder, "names no accelerator.location", "location")
    num_steps, location = entry.get("num_steps"), str(entry["location"])
    if type(num_steps) is not int or not 1 <= num_steps <= MAX_NUM_STEPS:
        problem = f"names no accelerator.num_steps of 1 to {MAX_NUM_STEPS}"
        raise _wrong(base_folder, problem, "num_steps")
    weight_name = str(entry.get("weight_name") or WEIGHTS_FILE)
    folder = (base_folder / location).resolve()  # an absolute location stays what it is
    if folder.is_dir():
        try:
            revision = file_digest(folder / weight_name)
        except OSError as error:
            problem = "has a distillation LoRA whose file is not there"
            raise _wrong(base_folder, problem, "weight_name") from error
        return DistillationLora(str(folder), weight_name, revision, num_steps)
    if location.startswith((".", "/")):
        problem = f"its manifest names a distillation LoRA at {location}, where there is none"
        remedy = 'put it there, or remove "accelerator" from its manifest.json'
        raise FailedPrecondition(base_folder.name, problem, remedy)
    if not entry.get("revision"):
        raise _wrong(base_folder, "names a distillation LoRA but pins no revision", "revision")
    return DistillationLora(location, weight_name, str(entry["revision"]), num_steps)


def merge_distillation_lora(pipeline: Pipeline, lora: DistillationLora, base_name: str) -> None:
    """Adds a distillation LoRA's weights permanently to the pipeline's UNet.

    Raises:
        FailedPrecondition: If the LoRA does not load or does not fit.
    """
    from safetensors import SafetensorError

    unet = pipeline.unet
    local = Path(lora.location).is_dir()
    remote = {} if local else {"revision": lora.revision}
    try:
        state, alphas, metadata = pipeline.lora_state_dict(
            lora.location,
            weight_name=lora.weight_name,
            use_safetensors=True,
            return_lora_metadata=True,
            unet_config=unet.config,
            **remote,
        )
        if not any(name.startswith("unet.") for name in state):
            raise ValueError("it holds no LoRA of a UNet")  # diffusers would only warn
        pipeline.load_lora_into_unet(state, alphas, unet, metadata=metadata or None)
        unet.fuse_lora()
        unet.unload_lora()
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        # The reason may hold a path: it goes to the log with the cause, not to the client.
        problem, remedy = "does not load", "check its folder or hub id on the server"
        raise FailedPrecondition(f"distillation LoRA of {base_name}", problem, remedy) from error
    unet.requires_grad_(False)


def _wrong(base_folder: Path, problem: str, key: str) -> FailedPrecondition:
    remedy = f'add "accelerator.{key}" to its manifest.json'
    return FailedPrecondition(base_folder.name, f"its manifest {problem}", remedy)
