"""Configuration of a classifier, the JSON beside its weights; imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

RESNETS = ("resnet18", "resnet34", "resnet50")
ARCHITECTURES = (*RESNETS, "clip")


@dataclass(frozen=True)
class ClassifierConfig:
    """Configuration that rebuilds a classifier around its weights.

    Attributes:
        architecture: One of ``ARCHITECTURES``.
        class_ids: Classes in the order of the logits.
        image_size: Size of the square input, pixels.
        clip_base: Name of the CLIP base; empty for a ResNet.
        clip_revision: SHA-256 (hex) of the base's weights, so that a LoRA fits no other base.
        lora_rank, lora_alpha: LoRA (Hu et al. 2021) on both CLIP towers.
        lora_mlp: Whether the MLPs carry LoRA in addition to the attention.
    """

    architecture: str
    class_ids: tuple[str, ...]
    image_size: int
    clip_base: str = ""
    clip_revision: str = ""
    lora_rank: int = 16
    lora_alpha: float = 16.0
    lora_mlp: bool = True

    def to_dict(self) -> dict[str, Any]:
        """JSON form; ``from_dict`` reads it back."""
        return {**asdict(self), "class_ids": list(self.class_ids)}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> ClassifierConfig:
        """The config that ``to_dict`` wrote."""
        return ClassifierConfig(**{**data, "class_ids": tuple(data["class_ids"])})
