"""Tiny random bases of classifiers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch


def write_tiny_clip(
    models_dir: Path,
    name: str = "tiny-clip",
    seed: int = 0,
    digests: Sequence[str] = (),
    phashes: Sequence[str] = (),
) -> Path:
    """Write a random two-layer open_clip ViT (32 px) as a CLIP base."""
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
    """Write a ResNet base folder: a random ResNet-18 without its last layer."""
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
