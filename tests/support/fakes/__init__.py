"""Tiny random models of the real classes, for fast tests."""

from tests.support.fakes.base_extras import (
    bespoke_solver,
    load_lora,
    random_lora,
    write_bespoke_solver,
    write_distillation_lora,
    write_tiny_decoder,
)
from tests.support.fakes.classifier_bases import write_tiny_clip, write_tiny_resnet
from tests.support.fakes.diffusion_bases import (
    IMAGE_SIZE_PX,
    NUM_TOKENS,
    TEXT_WIDTH,
    tiny_autoencoder,
    tiny_scheduler,
    tiny_text_config,
    tiny_tokenizer,
    tiny_unet,
    write_tiny_base,
    write_tiny_xl_base,
)

__all__ = [
    "IMAGE_SIZE_PX",
    "NUM_TOKENS",
    "TEXT_WIDTH",
    "bespoke_solver",
    "load_lora",
    "random_lora",
    "tiny_autoencoder",
    "tiny_scheduler",
    "tiny_text_config",
    "tiny_tokenizer",
    "tiny_unet",
    "write_bespoke_solver",
    "write_distillation_lora",
    "write_tiny_base",
    "write_tiny_clip",
    "write_tiny_decoder",
    "write_tiny_resnet",
    "write_tiny_xl_base",
]
