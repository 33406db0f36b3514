"""Tiny random diffusion bases of diffusers' own classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from cytosynth.cell_classes import CELL_CLASSES, class_prompt

IMAGE_SIZE_PX = 32
TEXT_WIDTH = 16
NUM_TOKENS = 16


def tiny_tokenizer() -> CLIPTokenizer:
    """A byte-pair vocabulary of letters and the words of class prompts."""
    letters = [chr(c) for c in range(ord("!"), ord("~") + 1)]
    vocab = {token: i for i, token in enumerate([*letters, *(f"{c}</w>" for c in letters)])}
    merges: dict[tuple[str, str], None] = {}
    words = {word for class_id in CELL_CLASSES for word in class_prompt(class_id).split()}
    for word in sorted(words):
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        merged = pieces[0]
        for piece in pieces[1:]:
            merges[merged, piece] = None
            merged += piece
            vocab.setdefault(merged, len(vocab))
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocab[special] = len(vocab)
    return CLIPTokenizer(vocab=vocab, merges=list(merges), model_max_length=NUM_TOKENS)


def tiny_text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    """One layer, 16 wide."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=NUM_TOKENS,
        projection_dim=TEXT_WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def tiny_autoencoder() -> AutoencoderKL:
    """(3, 32, 32) pixels to (16, 4, 4) latents."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8,) * 4,
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        sample_size=IMAGE_SIZE_PX,
        scaling_factor=0.5,
        force_upcast=False,
    )


def tiny_unet(cross_attention_dim: int = TEXT_WIDTH, **extra: object) -> UNet2DConditionModel:
    """Two levels of 16 channels with cross-attention."""
    return UNet2DConditionModel(
        sample_size=IMAGE_SIZE_PX // 8,
        in_channels=16,
        out_channels=16,
        block_out_channels=(16, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=cross_attention_dim,
        attention_head_dim=8,
        norm_num_groups=4,
        **extra,
    )


def tiny_scheduler() -> DPMSolverMultistepScheduler:
    """The cosine, v-prediction schedule of the small bases."""
    return DPMSolverMultistepScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", steps_offset=1
    )


def write_tiny_base(
    models_dir: Path,
    name: str = "tiny",
    seed: int = 0,
    class_ids: Sequence[str] | None = None,
    digests: Sequence[str] = (),
) -> Path:
    """Write a random StableDiffusionPipeline as a base folder; returns the folder."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    pipeline = StableDiffusionPipeline(
        vae=tiny_autoencoder(),
        text_encoder=CLIPTextModel(tiny_text_config(tokenizer)),
        tokenizer=tokenizer,
        unet=tiny_unet(),
        scheduler=tiny_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _write(pipeline, models_dir / name, class_ids, digests)


def write_tiny_xl_base(models_dir: Path, name: str = "tiny-xl", seed: int = 0) -> Path:
    """Write a random StableDiffusionXLPipeline (two text encoders) as a base folder."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    config = tiny_text_config(tokenizer)
    time_ids_width = 6 * 8
    unet = tiny_unet(
        cross_attention_dim=2 * TEXT_WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=TEXT_WIDTH + time_ids_width,
    )
    pipeline = StableDiffusionXLPipeline(
        vae=tiny_autoencoder(),
        text_encoder=CLIPTextModel(config),
        text_encoder_2=CLIPTextModelWithProjection(config),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=tiny_scheduler(),
        add_watermarker=False,
    )
    return _write(pipeline, models_dir / name, None, ())


def _write(
    pipeline: StableDiffusionPipeline | StableDiffusionXLPipeline,
    folder: Path,
    class_ids: Sequence[str] | None,
    digests: Sequence[str],
) -> Path:
    # Fresh conv_out weights are near zero in effect; larger ones tell classes apart.
    with torch.no_grad():
        pipeline.unet.conv_out.weight.mul_(4)
    pipeline.save_pretrained(folder, safe_serialization=True)
    manifest: dict[str, object] = {
        "name": folder.name,
        "kind": "diffusion_base",
        "digests": list(digests),
        "phashes": [],
    }
    if class_ids is not None:
        manifest["class_ids"] = list(class_ids)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
