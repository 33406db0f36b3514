"""Tiny random models of the real classes, so that tests drive the real code in milliseconds."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
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
from services.common.models.bespoke_solvers import BESPOKE_SOLVER_FILE, BespokeSolver
from services.common.models.diffusion_bases import TINY_DECODER, folder_revision

IMAGE_SIZE_PX = 32
TEXT_WIDTH = 16
NUM_TOKENS = 16


def tiny_tokenizer() -> CLIPTokenizer:
    """A byte-pair vocabulary of letters and of the words in the class prompts."""
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
    # Fresh conv_out weights are near zero in effect; larger ones make classes tell apart.
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


def write_tiny_decoder(folder: Path, seed: int = 0) -> Path:
    """Give the base in ``folder`` a random second decoder; returns the decoder's folder."""
    torch.manual_seed(seed)
    model = AutoencoderTiny(
        latent_channels=16,
        encoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_decoder_blocks=(1, 1, 1, 0),
    )
    with torch.no_grad():
        list(model.decoder.parameters())[-2].mul_(8)  # else all is grey
    model.save_pretrained(folder / TINY_DECODER, safe_serialization=True)
    return folder / TINY_DECODER


def random_lora(folder: Path, seed: int, rank: int = 4, scale: float = 0.5) -> dict[str, bytes]:
    """A random LoRA on UNet attention and text encoder in diffusers' standard file.

    Args:
        folder: A base written by :func:`write_tiny_base`.
        seed: Other seeds give other adapters.
        rank: LoRA rank.
        scale: Standard deviation of the B matrices (0 is an adapter that does nothing).

    Returns:
        ``{"pytorch_lora_weights.safetensors": bytes}``
    """
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    generator = torch.Generator().manual_seed(seed)
    states = []
    for model, targets in (
        (pipeline.unet, ["to_q", "to_k", "to_v", "to_out.0"]),
        (pipeline.text_encoder, ["q_proj", "k_proj", "v_proj", "out_proj"]),
    ):
        model.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets))
        state = get_peft_model_state_dict(model)
        for value in state.values():
            value.copy_(torch.randn(value.shape, generator=generator) * scale)
        states.append(convert_state_dict_to_diffusers(state))
    with tempfile.TemporaryDirectory() as out:
        StableDiffusionPipeline.save_lora_weights(
            out, unet_lora_layers=states[0], text_encoder_lora_layers=states[1]
        )
        file = Path(out) / "pytorch_lora_weights.safetensors"
        return {file.name: file.read_bytes()}


def write_distillation_lora(folder: Path, num_steps: int = 2, seed: int = 9) -> Path:
    """Give the base in ``folder`` a random distillation LoRA beside it; returns the LoRA file."""
    beside = folder.parent / f"{folder.name}-distilled"
    beside.mkdir(exist_ok=True)
    [(name, data)] = random_lora(folder, seed, scale=0.3).items()
    (beside / name).write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = {"location": f"../{beside.name}", "num_steps": num_steps}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"accelerator": entry}))
    return beside / name


def bespoke_solver(num_steps: int = 3, num_guided: int = 2, seed: int = 0) -> BespokeSolver:
    """Random coefficients that lead a random model somewhere."""
    rng = np.random.default_rng(seed)

    def weights(num: int) -> tuple[float, ...]:
        return tuple(rng.uniform(-1, 1, num).round(4).tolist())

    return BespokeSolver(
        revision="",
        guidance_scale=2.0,
        timesteps=tuple(np.linspace(999, 111.5, num_steps).round(1).tolist()),
        starts=weights(num_steps),
        outputs=tuple(weights(k + 1) for k in range(num_steps)),
        guidances=tuple(weights(min(k + 1, num_guided)) for k in range(num_steps)),
    )


def write_bespoke_solver(folder: Path, solver: BespokeSolver) -> Path:
    """Put ``solver`` into the base in ``folder``; returns its file."""
    content = asdict(solver) | {"base_revision": folder_revision(folder)}
    path = folder / BESPOKE_SOLVER_FILE
    path.write_text(json.dumps(content))
    return path


def load_lora(
    pipeline: StableDiffusionPipeline | StableDiffusionXLPipeline,
    data: bytes,
    adapter_name: str | None = None,
    unet_only: bool = False,
) -> None:
    """Put a LoRA file on a pipeline by diffusers' and peft's own means."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pytorch_lora_weights.safetensors"
        file.write_bytes(data)
        if unet_only:
            pipeline.unet.load_lora_adapter(
                folder, weight_name=file.name, prefix="unet", adapter_name=adapter_name
            )
        else:
            pipeline.load_lora_weights(folder, weight_name=file.name, adapter_name=adapter_name)


def write_tiny_clip(
    models_dir: Path,
    name: str = "tiny-clip",
    seed: int = 0,
    digests: Sequence[str] = (),
    phashes: Sequence[str] = (),
) -> Path:
    """Write a random open_clip ViT (32 px, two layers a tower) as a CLIP base folder."""
    import open_clip
    from safetensors.torch import save_file

    config = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 32,
            "head_width": 16,
            "patch_size": 8,
        },
        "text_cfg": {
            "context_length": 24,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 2,
        },
    }
    folder = models_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
    )
    torch.manual_seed(seed)
    state = open_clip.CLIP(**config).state_dict()
    save_file(
        {key: value.contiguous() for key, value in state.items()},
        folder / "open_clip_model.safetensors",
    )
    manifest = {"name": name, "kind": "clip_base", "digests": list(digests)}
    manifest["phashes"] = list(phashes)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def write_tiny_resnet(
    models_dir: Path,
    name: str = "tiny-resnet",
    digests: Sequence[str] = (),
    phashes: Sequence[str] = (),
) -> Path:
    """Write a random ResNet-18 without its last layer as a ResNet base folder."""
    from safetensors.torch import save_file

    from services.common.models.classifier_config import ClassifierConfig
    from services.common.models.classifiers import build_model
    from services.common.models.resnet_bases import HEAD_PREFIX

    torch.manual_seed(0)
    state = build_model(ClassifierConfig("resnet18", ("a", "b"), 32), models_dir).state_dict()
    folder = models_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    body = {k: v.contiguous() for k, v in state.items() if not k.startswith(HEAD_PREFIX)}
    save_file(body, folder / "model.safetensors")
    manifest = {"name": name, "kind": "resnet_base", "architecture": "resnet18"}
    seen = {"digests": list(digests), "phashes": list(phashes)}
    (folder / "manifest.json").write_text(json.dumps({**manifest, **seen}))
    return folder
