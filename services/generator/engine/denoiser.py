"""Denoises a batch with a timestep, adapter and prompt per row.

An image in flight has a *solver state*: the latents that its solver keeps (``solver.py``).  A step
takes one row per evaluation of the UNet, two for a guided image (Ho and Salimans 2022).

Every image gets the same bits whoever its batch-mates are and wherever its rows lie.  Kernels
do not promise that, so it is proven on this machine, with these weights, before the first
image: batches in other orders must give equal bits. Smaller batches, which cost less when
there is little to do, are used in float32 only, and only those that give equal bits too.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from services.common.errors import FailedPrecondition
from services.common.models.pipelines import decode_latents, decodes_in_float32, image_size
from services.generator.engine.batched_lora import BatchedLora
from services.generator.engine.group_norm import replace_group_norms
from services.generator.engine.row_tables import EMPTY, place_rows, send
from services.generator.engine.solver import NUM_COLUMNS, STATE_SIZE

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny

    from services.common.models.pipelines import Pipeline

_logger = logging.getLogger(__name__)
_MIN_ROWS = 4
_MAX_KERNELS = 64
"""Batch sizes times sets of LoRA layers that may be compiled."""
_PROOF_SEED = 2**64 - 1


@dataclass(frozen=True)
class Condition:
    """Table entries of a row's adapter and prompt."""

    adapter: int
    prompt: int


@dataclass(frozen=True)
class Advance:
    """One step of one image.

    Attributes:
        state: Index of its solver state, 0 to num_states - 1.
        timestep: Input of the UNet.
        matrix: The solver's step, float32 (STATE_SIZE, NUM_COLUMNS).
        condition: For the row with the prompt.
        unconditional: For the row without; None for a step without guidance.
        guidance_scale: Weight of the difference between the two.
    """

    state: int
    timestep: float
    matrix: np.ndarray
    condition: Condition
    unconditional: Condition | None = None
    guidance_scale: float = 1.0


def starting_noise(image_seed: int, shape: Sequence[int]) -> torch.Tensor:
    """Standard normal float32 noise of ``shape`` from a 64-bit seed.

    Philox rather than torch's generator, which keeps 32 bits of a seed: of 75,000 images
    two would then start from the same noise with a chance of one half.
    """
    rng = np.random.Generator(np.random.Philox(key=image_seed))
    return torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32))


class DecodedImages:
    """Images on their way from the device to the host."""

    def __init__(self, pixels: torch.Tensor, finite: torch.Tensor) -> None:
        """Start the copy.

        Args:
            pixels: uint8 (N, H, W, 3).
            finite: bool (N,), whether the model gave numbers.
        """
        self._arrived: torch.cuda.Event | None = None
        self._pixels, self._finite = pixels, finite
        if pixels.is_cuda:
            self._pixels, self._finite = (_start_copy(tensor) for tensor in (pixels, finite))
            self._arrived = torch.cuda.Event(blocking=True)
            self._arrived.record()

    def ready(self) -> bool:
        """Whether ``wait`` would not wait."""
        return self._arrived is None or self._arrived.query()

    def wait(self) -> list[np.ndarray | None]:
        """Arrays, uint8 (H, W, 3); None for images with NaN or infinity."""
        if self._arrived is not None:
            self._arrived.synchronize()
        pairs = zip(self._pixels.numpy(), self._finite.tolist(), strict=True)
        return [image if ok else None for image, ok in pairs]


class Denoiser:
    """Evaluates the UNet for all images in flight, and decodes them.

    Use from one thread.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        batch_rows: int,
        num_states: int,
        dtype: torch.dtype,
        compiled: bool = False,
        decode_batch_size: int = 4,
        tiny_decoder: AutoencoderTiny | None = None,
    ) -> None:
        """Take over ``pipeline``, whose UNet and decoder become ``dtype`` and channels-last.

        Args:
            pipeline: From ``diffusion_bases.load_pipeline``, without adapters.
            batch_rows: Rows of the largest batch.
            num_states: Images that can be in flight.
            dtype: Arithmetic of UNet and decoder; solvers keep float32.
            compiled: Use ``torch.compile``.
            decode_batch_size: Images decoded at a time.
            tiny_decoder: The base's second decoder, if it has one.
        """
        self.pipeline, self.dtype, self.batch_rows = pipeline, dtype, batch_rows
        self.device = pipeline.unet.device
        unet = pipeline.unet.to(dtype=dtype, memory_format=torch.channels_last)
        vae = pipeline.vae.to(memory_format=torch.channels_last)
        if not decodes_in_float32(pipeline):
            vae.to(dtype=dtype)
        self._tiny_decoder = tiny_decoder
        if tiny_decoder is not None:
            tiny_decoder.to(dtype=dtype, memory_format=torch.channels_last)
        if self.device.type == "cpu" and not compiled:
            for model in (unet, vae.decoder):
                replace_group_norms(model)
        self.lora = BatchedLora(unet, batch_rows, pipeline.tokenizer.model_max_length)
        self.lora.fixed_kernels = compiled
        self._unet = torch.compile(unet, dynamic=False) if compiled else unet
        self._compiled = compiled
        self.decode_batch_size = decode_batch_size
        latent_size = int(unet.config.sample_size)
        self._latent_shape = (int(unet.config.in_channels), latent_size, latent_size)
        self._states = torch.zeros(
            num_states + 1, STATE_SIZE, *self._latent_shape, device=self.device
        )
        self._spare = num_states  # what rows that pad a batch read
        self._exact_rows = [batch_rows]
        self._proven_structure = -1
        self._step_done: torch.cuda.Event | None = None
        size = image_size(pipeline)
        self._time_ids = torch.tensor([[size, size, 0, 0, size, size]]).to(self.device, dtype)

    @property
    def exact_batch_rows(self) -> list[int]:
        """Batch sizes that give equal bits, ascending; the last is ``batch_rows``."""
        return list(self._exact_rows)

    @torch.inference_mode()
    def prove(self) -> None:
        """Find which batch sizes give equal bits, after each new LoRA layer.

        Raises:
            FailedPrecondition: If bits depend on an image's place in a batch.
        """
        if self._proven_structure == self.lora.structure:
            return
        self._proven_structure = self.lora.structure
        if self._compiled:
            # Beyond its limit (8) torch would run uncompiled, silently and with other bits.
            # Here, not once at import: it holds for one thread only.
            torch._dynamo.config.recompile_limit = _MAX_KERNELS
            torch._dynamo.config.fail_on_recompile_limit_hit = True
        n = self.batch_rows
        noise = starting_noise(_PROOF_SEED, (n, *self._latent_shape)).to(self.device)
        timesteps = torch.linspace(0, 999, n, device=self.device)
        loaded = [list(islice(cycle(t.filled), n)) for t in (self.lora.adapters, self.lora.prompts)]
        shuffled = np.random.default_rng(0).permutation(n)
        order = np.empty(n, np.int64)
        order[shuffled] = np.roll(shuffled, 1)  # one cycle: no row keeps its place

        def evaluate(places: np.ndarray) -> torch.Tensor:
            self.lora.select(*([entries[i] for i in places] for entries in loaded))
            at = torch.from_numpy(places).to(self.device)
            return self._evaluate(noise[at], timesteps[at])

        whole = evaluate(np.arange(n))
        if not _equal(evaluate(order), whole[torch.from_numpy(order).to(self.device)]):
            problem = "gives other bits to an image in another place of its batch"
            remedy = (
                "set CYTOSYNTH_GENERATOR_DTYPE to float32, or another CYTOSYNTH_GENERATOR_NUM_SLOTS"
            )
            raise FailedPrecondition("this machine", problem, remedy)
        self._exact_rows = [n]
        # In 16 bits rounding hides another order of summation from all but one comparison in a
        # hundred: only float32 shows reliably whether a smaller batch computes the same.
        size = n // 2 if self.dtype == torch.float32 else 0
        while size >= _MIN_ROWS:
            starts = range(0, n - size + 1, size)
            parts = [np.arange(start, start + size) for start in starts]
            if all(torch.equal(evaluate(part), whole[part[0] : part[-1] + 1]) for part in parts):
                self._exact_rows.insert(0, size)
            size //= 2
        _logger.info("batches of %s rows give equal bits", self._exact_rows)

    @torch.inference_mode()
    def begin(self, state: int, image_seed: int, noise_scale: float) -> None:
        """Fill solver state ``state`` with the starting noise of a seed."""
        noise = starting_noise(image_seed, self._latent_shape) * noise_scale
        self._states[state].zero_()  # 0 times a NaN that another image left would be NaN
        self._states[state, 0].copy_(send(noise, self.device))

    @torch.inference_mode()
    def step(self, advances: Sequence[Advance]) -> int:
        """Advance images, whose rows fit into one batch, by one step.

        Returns:
            Rows that were evaluated, padding included.
        """
        rows = [(a.condition, a.state, a.timestep) for a in advances]
        rows += [(a.unconditional, a.state, a.timestep) for a in advances if a.unconditional]
        size = next(n for n in self._exact_rows if n >= len(rows))
        lora = self.lora
        keys = [(c.adapter, c.prompt) for c, _, _ in rows if c is not None]
        current = list(zip(lora.adapters.used.tolist(), lora.prompts.used.tolist(), strict=True))
        places = place_rows(keys, current, size)
        adapters = [max(EMPTY, entry) for entry, _ in current[:size]]
        prompts = [max(EMPTY, entry) for _, entry in current[:size]]
        states = np.full(size, self._spare, np.int64)
        timesteps = np.zeros(size, np.float32)
        for place, (adapter, prompt), (_, state, timestep) in zip(places, keys, rows, strict=True):
            adapters[place], prompts[place] = adapter, prompt
            states[place], timesteps[place] = state, timestep
        lora.select(adapters, prompts)
        latents = self._states[:, 0].index_select(0, self._send(states))
        output = self._evaluate(latents, self._send(timesteps)).float()
        self._solve(advances, places, output)
        self._keep_pace()
        return size

    def _keep_pace(self) -> None:
        """Keep the host one step ahead at most: cancels act in time."""
        if self.device.type != "cuda":
            return
        before, self._step_done = self._step_done, torch.cuda.Event(blocking=True)
        self._step_done.record()
        if before is not None:
            before.synchronize()

    def _solve(
        self, advances: Sequence[Advance], places: Sequence[int], output: torch.Tensor
    ) -> None:
        conditional, second = list(places[: len(advances)]), iter(places[len(advances) :])
        unconditional = [
            next(second) if a.unconditional else place
            for a, place in zip(advances, conditional, strict=True)
        ]
        index = self._send(
            np.array([conditional, unconditional, [a.state for a in advances]], np.int64)
        )
        column = (-1, 1, 1, 1)
        scale = self._send(np.array([a.guidance_scale for a in advances], np.float32)).view(column)
        with_prompt, without = output.index_select(0, index[0]), output.index_select(0, index[1])
        guidance = with_prompt - without
        guided = without + scale * guidance
        matrices = self._send(np.stack([a.matrix for a in advances]))[..., None, None, None]
        before = self._states.index_select(0, index[2])
        known = torch.cat([before, guided[:, None], guidance[:, None]], 1)
        after = matrices[:, :, 0] * known[:, :1]
        for i in range(1, NUM_COLUMNS):
            after = after + matrices[:, :, i] * known[:, i : i + 1]
        self._states.index_copy_(0, index[2], after)

    @torch.inference_mode()
    def decode(self, states: Sequence[int], tiny: bool = False) -> DecodedImages:
        """Decode finished images, whose states may be overwritten from now on."""
        pixels, finite = [], []
        for start in range(0, len(states), self.decode_batch_size):
            chosen = list(states[start : start + self.decode_batch_size])
            padded = np.array(chosen + [self._spare] * (self.decode_batch_size - len(chosen)))
            latents = self._states[:, 0].index_select(0, self._send(padded))
            decoded = self._decode_pixels(latents, tiny)[: len(chosen)]
            finite.append(torch.isfinite(decoded).flatten(1).all(1))
            scaled = ((decoded.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
            pixels.append(scaled.permute(0, 2, 3, 1).contiguous())
        return DecodedImages(torch.cat(pixels), torch.cat(finite))

    def _decode_pixels(self, latents: torch.Tensor, tiny: bool) -> torch.Tensor:
        last = {"memory_format": torch.channels_last}
        if tiny:
            assert self._tiny_decoder is not None
            narrow = latents.to(self.dtype).contiguous(**last)
            pixels: torch.Tensor = self._tiny_decoder.decode(narrow).sample
            return pixels
        return decode_latents(self.pipeline, latents.to(self.pipeline.vae.dtype).contiguous(**last))

    def _evaluate(self, latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """UNet output (N, C, h, w) for the first N rows."""
        n = len(latents)
        conditions = self.lora.conditions(n)
        inputs: dict[str, Any] = {"encoder_hidden_states": conditions["tokens"]}
        if "pooled" in conditions:
            inputs["added_cond_kwargs"] = {
                "text_embeds": conditions["pooled"],
                "time_ids": self._time_ids.expand(n, -1),
            }
        sample = latents.to(self.dtype).contiguous(memory_format=torch.channels_last)
        output: torch.Tensor = self._unet(sample, timesteps, **inputs).sample
        return output

    def _send(self, array: np.ndarray) -> torch.Tensor:
        return send(torch.from_numpy(array), self.device)


def _start_copy(tensor: torch.Tensor) -> torch.Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether all is equal; NaN, as of a bad adapter, equals NaN."""
    return bool(((a == b) | (a.isnan() & b.isnan())).all())
