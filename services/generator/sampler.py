"""Draws a batch of images from a diffusion pipeline, every image from its own seed alone.

A batch always has the same shape: image *i* of a request sits in slot ``i % batch_size``
and empty slots are padded.  The kernels that run, and the place of an image in them, are
then the same whoever its batch-mates are, so its bits are too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)

from services.common.bases import (
    PromptEmbeddings,
    decode_latents,
    decodes_in_float32,
    image_size,
)
from services.common.errors import Cancelled, FailedPrecondition
from services.generator.synthesize import SamplerSettings

if TYPE_CHECKING:
    from services.common.bases import Pipeline

COSINE_LAMBDA_MIN = -5.1


@dataclass(frozen=True)
class Slot:
    """One image to draw.

    Attributes:
        image_seed: 64-bit seed of its starting noise.
        prompt: Embedding of its class, ``tokens`` (T, C) and ``pooled`` (P,) or None.
    """

    image_seed: int
    prompt: PromptEmbeddings


def build_scheduler(name: str, base_config: dict[str, Any]) -> SchedulerMixin:
    """The ODE solver called ``name`` on the noise schedule of a base.

    All three are deterministic: the starting noise is the only chance in an image.

    Args:
        name: "dpmpp_2m" (Lu et al. 2022), "ddim" (Song et al. 2021) or "unipc" (Zhao et al. 2023).
        base_config: The base's own scheduler configuration.
    """
    options: dict[str, Any] = {}
    cosine = base_config.get("beta_schedule") == "squaredcos_cap_v2"
    if cosine:
        options["timestep_spacing"] = "trailing"
    if name == "dpmpp_2m":
        # On a cosine schedule the first log-SNRs diverge; diffusers advises to clip them.
        options |= {"lambda_min_clipped": COSINE_LAMBDA_MIN} if cosine else {}
        options |= {"algorithm_type": "dpmsolver++", "solver_order": 2}
        options |= {"solver_type": "midpoint", "final_sigmas_type": "zero"}
        return DPMSolverMultistepScheduler.from_config(base_config, **options)
    if name == "unipc":
        options |= {"solver_order": 2, "solver_type": "bh2", "final_sigmas_type": "zero"}
        return UniPCMultistepScheduler.from_config(base_config, **options)
    if name == "ddim":
        return DDIMScheduler.from_config(base_config, clip_sample=False, **options)
    raise ValueError(f"unknown scheduler {name!r}")


def starting_noise(image_seed: int, shape: Sequence[int]) -> torch.Tensor:
    """Standard normal float32 noise of ``shape`` from a 64-bit seed.

    Philox rather than torch's generator, which keeps 32 bits of a seed: of 75,000 images
    two would then start from the same noise with a chance of one half.
    """
    rng = np.random.Generator(np.random.Philox(key=image_seed))
    return torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32))


class Sampler:
    """Draws fixed-shape batches with one pipeline, whatever adapter is active in it."""

    def __init__(self, pipeline: Pipeline, batch_size: int, dtype: torch.dtype) -> None:
        """Take over ``pipeline`` (which moves to channels-last).

        Args:
            pipeline: From :func:`services.common.bases.load_pipeline`.
            batch_size: Slots of every batch.
            dtype: Arithmetic; other than float32 runs under autocast.
        """
        self.pipeline, self.batch_size, self.dtype = pipeline, batch_size, dtype
        pipeline.unet.to(memory_format=torch.channels_last)
        pipeline.vae.to(memory_format=torch.channels_last)
        self.device = pipeline.unet.device
        side = int(pipeline.unet.config.sample_size)
        self._latent_shape = (int(pipeline.unet.config.in_channels), side, side)

    @torch.inference_mode()
    def draw(
        self,
        slots: Sequence[Slot | None],
        unconditional: PromptEmbeddings,
        settings: SamplerSettings,
        stopped: Callable[[], bool] = lambda: False,
    ) -> list[np.ndarray | None]:
        """Draw the images of one batch.

        Args:
            slots: At most ``batch_size``; None leaves a slot empty.
            unconditional: Embedding of the empty prompt, shaped as in :class:`Slot`.
            settings: Steps, guidance and scheduler.
            stopped: Asked before every step; True ends the work.

        Returns:
            Per slot a uint8 image (H, W, 3), or None for an empty slot.

        Raises:
            Cancelled: If ``stopped`` said so.
            FailedPrecondition: If the model gave NaN or infinity.
        """
        filled = [slot for slot in slots if slot is not None]
        if not filled or len(slots) > self.batch_size:
            raise ValueError(f"{len(filled)} images in {len(slots)} of {self.batch_size} slots")
        padded = [slots[i] if i < len(slots) else None for i in range(self.batch_size)]
        batch = [slot or filled[0] for slot in padded]
        latents = self._denoise(batch, unconditional, settings, stopped)
        with nullcontext() if decodes_in_float32(self.pipeline) else self._arithmetic():
            pixels = decode_latents(self.pipeline, latents)
        if not torch.isfinite(pixels).all():
            problem = "gave values that are not finite"
            raise FailedPrecondition("sampler", problem, "use another scheduler or num_steps")
        images = ((pixels.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        arrays = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return [
            arrays[i] if slot is not None else None for i, slot in enumerate(padded[: len(slots)])
        ]

    def _denoise(
        self,
        batch: Sequence[Slot],
        unconditional: PromptEmbeddings,
        settings: SamplerSettings,
        stopped: Callable[[], bool],
    ) -> torch.Tensor:
        """Latents (B, C, h, w) of a full batch, from noise to image."""
        guided = settings.guidance_scale != 1.0
        conditions = self._conditions([slot.prompt for slot in batch], unconditional, guided)
        noise = torch.stack([starting_noise(s.image_seed, self._latent_shape) for s in batch])
        scheduler = build_scheduler(settings.scheduler, dict(self.pipeline.scheduler.config))
        scheduler.set_timesteps(settings.num_steps, device=self.device)
        latents = noise.to(self.device) * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            if stopped():
                raise Cancelled()
            inputs = scheduler.scale_model_input(latents, timestep)
            inputs = torch.cat([inputs, inputs]) if guided else inputs
            inputs = inputs.contiguous(memory_format=torch.channels_last)
            with self._arithmetic():
                output = self.pipeline.unet(inputs, timestep, **conditions).sample.float()
            if guided:
                without, with_prompt = output.chunk(2)
                output = without + settings.guidance_scale * (with_prompt - without)
            latents = scheduler.step(output, timestep, latents, return_dict=False)[0]
        return latents

    def _conditions(
        self, prompts: Sequence[PromptEmbeddings], unconditional: PromptEmbeddings, guided: bool
    ) -> dict[str, Any]:
        """UNet arguments for B prompts, after B unconditional ones where guided."""
        rows = ([unconditional] * len(prompts) if guided else []) + list(prompts)
        conditions: dict[str, Any] = {
            "encoder_hidden_states": torch.stack([row.tokens for row in rows])
        }
        if unconditional.pooled is not None:
            side = image_size(self.pipeline)
            sizes = torch.tensor([[side, side, 0, 0, side, side]], device=self.device)
            conditions["added_cond_kwargs"] = {
                "text_embeds": torch.stack([row.pooled for row in rows if row.pooled is not None]),
                "time_ids": sizes.expand(len(rows), -1).to(unconditional.pooled.dtype),
            }
        return conditions

    def _arithmetic(self) -> AbstractContextManager[Any]:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)
