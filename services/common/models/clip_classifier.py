"""CLIP as a classifier: LoRA on both towers, class prompts as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from cytosynth.cell_classes import class_prompt
from services.common.errors import FailedPrecondition, InvalidArgument
from services.common.models.classifier_config import ClassifierConfig
from services.common.models.clip_bases import FIELD, ClipBase, resolve_clip_base
from services.common.models.image_classifier import ImageClassifier


class _SplitAttention(nn.Module):
    """``nn.MultiheadAttention`` with q, k, v and out as Linear layers for LoRA.

    Weights and result are the same. The fused module keeps q, k and v in one parameter and never
    calls its ``out_proj`` as a module.
    """

    def __init__(self, fused: nn.MultiheadAttention) -> None:
        super().__init__()
        if fused.in_proj_weight is None:
            raise ValueError("attention over keys of another width is not split")
        self.num_heads, self.batch_first = fused.num_heads, fused.batch_first
        biases: Any = (None,) * 3 if fused.in_proj_bias is None else fused.in_proj_bias.chunk(3)
        self.q_proj, self.k_proj, self.v_proj = (
            _linear(weight, bias)
            for weight, bias in zip(fused.in_proj_weight.chunk(3), biases, strict=True)
        )
        self.out_proj = _linear(fused.out_proj.weight, fused.out_proj.bias)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        need_weights: bool = False,
        attn_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, None]:
        """Output of ``nn.MultiheadAttention``, without the attention weights."""
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        batch, length, width = query.shape
        q, k, v = (
            proj(x).view(batch, x.shape[1], self.num_heads, -1).transpose(1, 2)
            for proj, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        if attn_mask is not None:
            attn_mask = attn_mask.to(q.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        out = self.out_proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return (out if self.batch_first else out.transpose(0, 1)), None


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer


def split_attention(model: nn.Module) -> None:
    """Replaces every self-attention of ``model`` by separate Linear layers."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.MultiheadAttention) and child.in_proj_weight is not None:
                setattr(module, name, _SplitAttention(child))


def lora_targets(model: nn.Module, mlp: bool) -> list[str]:
    """Names of the layers that carry LoRA.

    LoRA wraps the attention, and with ``mlp`` every other Linear and convolution of both towers.
    Exceptions are the patch embedding, and attention pooling, which reads raw weights.
    """
    names = []
    for name, module in model.named_modules():
        if "attnpool" in name or not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        if isinstance(module, nn.Conv2d) and (
            module.groups > 1 or (module.kernel_size == module.stride and module.stride[0] > 1)
        ):
            continue
        if mlp or ".attn." in name:
            names.append(name)
    return names


def load_clip(base: ClipBase, image_size: int | None = None) -> Any:
    """Loads both towers of a CLIP base on the CPU.

    Args:
        base: Base to load.
        image_size: Size of its input, pixels; None for the base's own.

    Raises:
        FailedPrecondition: If the base does not load.
    """
    import open_clip  # takes seconds to import

    try:
        return open_clip.create_model(
            base.model_name,
            pretrained=base.pretrained,
            force_image_size=image_size,
            weights_only=True,
        )
    except (OSError, RuntimeError, ValueError) as error:
        # The reason may hold a path: it goes to the log with the cause, not to the client.
        remedy = "check its folder or open_clip id on the server"
        raise FailedPrecondition(f"CLIP base {base.name}", "does not load", remedy) from error


class ClipClassifier(ImageClassifier):
    """Cosine similarity of image and class prompts, times CLIP's logit scale."""

    def __init__(self, config: ClassifierConfig, models_dir: Path) -> None:
        super().__init__()
        import open_clip  # takes seconds to import
        from peft import LoraConfig, inject_adapter_in_model

        base = resolve_clip_base(config.clip_base, models_dir)
        if config.clip_revision and config.clip_revision != base.revision:
            raise FailedPrecondition(
                f"CLIP base {config.clip_base}",
                "its weights are not those that this classifier was trained on",
                "restore them or train the classifier again",
            )
        self.config = config
        clip = load_clip(base, config.image_size)
        prompts = [class_prompt(class_id) for class_id in config.class_ids]
        tokens = open_clip.get_tokenizer(base.model_name)(prompts)
        self.register_buffer("tokens", tokens, persistent=False)
        self._mean, self._std = clip.visual.image_mean, clip.visual.image_std
        clip.requires_grad_(False)
        split_attention(clip)
        targets = lora_targets(clip, config.lora_mlp)
        if not targets:
            raise InvalidArgument(FIELD, "has no layer that LoRA can wrap", "name another base")
        lora = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=targets)
        self.clip = inject_adapter_in_model(lora, clip)
        self.clip.logit_scale.requires_grad_(True)
        self._text_features: torch.Tensor | None = None

    def train(self, mode: bool = True) -> ClipClassifier:
        """Sets the mode and drops the text features, which training changes."""
        self._text_features = None
        super().train(mode)
        return self

    def _encode_text(self) -> torch.Tensor:
        return F.normalize(self.clip.encode_text(self.tokens).float(), dim=-1)

    def features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        x = self.normalize(images_BCHW, self._mean, self._std)
        return F.normalize(self.clip.encode_image(x).float(), dim=-1)

    def head(self, features_BD: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            text_features = self._encode_text()
        else:
            if self._text_features is None:
                self._text_features = self._encode_text()
            text_features = self._text_features
        return self.clip.logit_scale.exp().clamp(max=100.0) * features_BD @ text_features.T

    def fold(self) -> None:
        from peft.tuners.lora import LoraLayer

        for module in self.clip.modules():
            if isinstance(module, LoraLayer):
                module.merge()
        self._text_features = None

    def learned_state(self) -> dict[str, torch.Tensor]:
        trained = {n for n, p in self.named_parameters() if p.requires_grad}
        statistics = {
            f"{name}.{buffer}"
            for name, module in self.named_modules()
            if isinstance(module, nn.BatchNorm2d)
            for buffer in ("running_mean", "running_var", "num_batches_tracked")
        }
        return {k: v for k, v in self.state_dict().items() if k in trained | statistics}

    def load_learned_state(self, tensors: dict[str, torch.Tensor]) -> None:
        super().load_learned_state(tensors)
        self._text_features = None
