"""Workload of the GPU benchmark: a base of random weights, adapters, requests.

Speed does not depend on the weights, so the architecture is built here and nothing is downloaded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.generator.in_process import InProcess
from services.common.errors import DomainError
from services.common.models.bespoke_solvers import BESPOKE_SOLVER_FILE
from services.common.models.diffusion_bases import TINY_DECODER, folder_revision, resolve_base
from services.common.models.lora import WEIGHTS_FILE, LoraSpec, add_lora, lora_file
from services.generator.engine.denoiser import Denoiser
from services.generator.plan import SynthesisPlan, SyntheticImage
from services.generator.presets import SamplerSettings, preset_of

BASE, CLASS_ID = "sd21", "myeloblast"
NUM_ADAPTERS, LORA_RANK = 10, 16
LORA_B_STD = 0.02
"""Standard deviation of the adapters' B matrices; images must differ."""


@dataclass(frozen=True)
class Workload:
    """The model, and how much is sampled with it.

    Attributes:
        unet, vae, text: Configurations of the parts, where diffusers' defaults do not do.
        tiny_decoder: The same of the small decoder; TAESD's where empty.
        num_tokens: Length of a prompt.
        dtype: Arithmetic, as torch calls it.
        num_images: By preset; a multiple of ten.
        num_slots: UNet evaluations per step of the engine.
        batch_sizes: Batch sizes of the UNet alone.
        repeats: Repeats of each timed call; the median counts.
        full_size: Whether a share of an H100's peak means anything and compiling is worth minutes.
    """

    unet: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, Any]
    tiny_decoder: dict[str, Any]
    num_tokens: int
    dtype: str
    num_images: dict[str, int]
    num_slots: int
    batch_sizes: tuple[int, ...]
    repeats: int
    full_size: bool


_KL = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
# The configurations of stabilityai/stable-diffusion-2-1-base, whose `attention_head_dim` counts
# heads; its vocabulary of 49,408 pieces is not needed.
FULL = Workload(
    unet={"sample_size": 64, "block_out_channels": (320, 640, 1280, 1280)}
    | {"attention_head_dim": (5, 10, 20, 20), "cross_attention_dim": 1024}
    | {"use_linear_projection": True},
    vae=_KL | {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2},
    text={"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23}
    | {"num_attention_heads": 16, "hidden_act": "gelu", "projection_dim": 512},
    tiny_decoder={},
    num_tokens=77,
    dtype="bfloat16",
    num_images={"paper": 80, "balanced": 160, "fast": 480, "draft": 480},
    num_slots=32,
    batch_sizes=(16, 32, 64),
    repeats=10,
    full_size=True,
)
TINY = Workload(
    unet={"sample_size": 8, "block_out_channels": (16,) * 4, "layers_per_block": 1}
    | {"attention_head_dim": (2,) * 4, "cross_attention_dim": 16, "norm_num_groups": 4}
    | {"use_linear_projection": True},
    vae=_KL | {"block_out_channels": (8,) * 4, "layers_per_block": 1, "norm_num_groups": 4},
    text={"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    | {"num_attention_heads": 2, "projection_dim": 16},
    tiny_decoder={"decoder_block_out_channels": (8,) * 4, "num_decoder_blocks": (1, 1, 1, 0)},
    num_tokens=40,
    dtype="float32",
    num_images={"paper": 10, "balanced": 10, "fast": 20, "draft": 20},
    num_slots=16,
    batch_sizes=(2,),
    repeats=2,
    full_size=False,
)


class Setup:
    """A device, a folder with one random base, and its adapters.

    Attributes:
        folder: Where all files go.
        workload: What is built.
        device: "cuda" or "cpu".
        adapter_files: Weights of ten adapters, as safetensors; none before ``add_adapters``.
    """

    def __init__(self, folder: Path, workload: Workload, device: str) -> None:
        self.folder, self.workload, self.device = folder, workload, device
        self.adapter_files: list[bytes] = []

    @property
    def base_folder(self) -> Path:
        """Folder of the base."""
        return self.folder / "models" / BASE

    def save_base(self) -> StableDiffusionPipeline:
        """Build the base in the workload's dtype and write it."""
        torch.manual_seed(0)
        pipeline = build_pipeline(self.workload, self.device)
        pipeline.to(dtype=getattr(torch, self.workload.dtype))
        pipeline.save_pretrained(self.base_folder, safe_serialization=True)
        tiny = AutoencoderTiny(**self.workload.tiny_decoder)
        tiny.save_pretrained(self.base_folder / TINY_DECODER, safe_serialization=True)
        self._save_solver()
        return pipeline

    def _save_solver(self) -> None:
        """Write a solver of four steps, two guided; any numbers do."""
        solver = {
            "base_revision": folder_revision(self.base_folder),
            "guidance_scale": 2.0,
            "timesteps": [999.0, 750.0, 500.0, 250.0],
            "starts": [0.9, 0.8, 0.7, 0.6],
            "outputs": [[-0.1] * (k + 1) for k in range(4)],
            "guidances": [[-0.1] * min(k + 1, 2) for k in range(4)],
        }
        (self.base_folder / BESPOKE_SOLVER_FILE).write_text(json.dumps(solver))

    def add_adapters(self, pipeline: StableDiffusionPipeline) -> None:
        """Make ten random adapters; ``pipeline`` keeps the last."""
        parameters = add_lora(pipeline, LoraSpec(LORA_RANK, LORA_RANK), seed=0)
        for _ in range(NUM_ADAPTERS):
            for name, parameter in parameters.items():
                if ".lora_B." in name:
                    torch.nn.init.normal_(parameter, std=LORA_B_STD)
            self.adapter_files.append(lora_file(pipeline))

    def new_generator(self, compiled: bool) -> InProcess:
        """A generator with the adapters in its store, nothing loaded."""
        values = {"NUM_SLOTS": self.workload.num_slots, "DTYPE": self.workload.dtype}
        values |= {"COMPILE": compiled, "DEVICE": self.device, "ADAPTER_MEMORY_MB": 1024}
        names = {f"CYTOSYNTH_GENERATOR_{name}": str(value) for name, value in values.items()}
        with mock.patch.dict(os.environ, names):
            uri = f"file://{self.folder}/store-{'compiled' if compiled else 'eager'}"
            generator = InProcess(uri, self.folder / "models")
        revision = resolve_base(BASE, generator.settings.models_dir).revision
        for i, data in enumerate(self.adapter_files):
            draft = generator.store.new_draft("local", "adapters", f"bench{i}")
            draft.write(f"shared/{WEIGHTS_FILE}", data)
            body = {"layout": "shared", "class_ids": [CLASS_ID]}
            draft.commit({"base": BASE, "base_revision": revision, "body": body})
        return generator


def build_pipeline(workload: Workload, device: str) -> StableDiffusionPipeline:
    """Random float32 weights, made on ``device``, where that is quick."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    pieces = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    length = workload.num_tokens
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=length)
    marks = {f"{m}_token_id": getattr(tokenizer, f"{m}_token_id") for m in ("bos", "eos", "pad")}
    text = {"vocab_size": len(pieces), "max_position_embeddings": length, **workload.text, **marks}
    with torch.device(device):
        unet = UNet2DConditionModel(**workload.unet)
        size = unet.config.sample_size * 8
        vae = AutoencoderKL(**workload.vae, latent_channels=4, sample_size=size)
        text_encoder = CLIPTextModel(CLIPTextConfig(**text))
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=PNDMScheduler(**schedule, skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def preset_on_base(generator: InProcess, preset: str) -> SamplerSettings:
    """The preset's settings on the base."""
    return preset_of(preset, resolve_base(BASE, generator.settings.models_dir))


def make_request(
    generator: InProcess,
    preset: str,
    num_images: int,
    adapter: int,
    seed: int = 0,
    interactive: bool = False,
) -> SynthesisPlan:
    """Images of one adapter; interactive: ahead of bulk work."""
    counts = {CLASS_ID: num_images}
    plan = generator.plan(counts, preset_on_base(generator, preset), BASE, f"bench{adapter}", seed)
    return replace(plan, interactive=interactive)


def generate(generator: InProcess, plans: Sequence[SynthesisPlan]) -> list[SyntheticImage]:
    """The images of all plans at once.

    Raises:
        BaseException: What broke the engine, if it did; the request itself hears only that it
            has stopped.
    """
    try:
        return generator.generate(plans)
    except DomainError as error:
        causes = [engine.broken for engine in generator.renderer.engines if engine.broken]
        raise (causes[0] if causes else error) from error


def idle_denoiser(generator: InProcess) -> Denoiser:
    """The denoiser of the one engine, which must be idle."""
    [engine] = generator.renderer.engines
    return engine.denoiser
