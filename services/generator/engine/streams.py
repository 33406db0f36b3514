"""Image tasks, their sampling program, streams of tasks, images in flight."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from services.common.errors import DomainError
from services.generator.engine.adapter_cache import Weights
from services.generator.engine.denoiser import Advance, Condition
from services.generator.engine.solver import Solver


@dataclass(frozen=True)
class SamplingProgram:
    """Sampling settings of a stream, ready for the denoiser.

    Attributes:
        solver: Timesteps and matrices.
        guidance_scales: Per step; None: without guidance.
        tiny_decoder: Decode with the base's small decoder.
    """

    solver: Solver
    guidance_scales: tuple[float | None, ...]
    tiny_decoder: bool = False

    @property
    def rows_per_step(self) -> tuple[int, ...]:
        """UNet evaluations of each step: 2 with guidance, 1 without."""
        return tuple(1 if scale is None else 2 for scale in self.guidance_scales)


@dataclass(frozen=True)
class ImageTask:
    """One image to sample.

    Attributes:
        index: Place in the request.
        image_seed: Seed of its starting noise.
        attempt: Number of images withheld at this index before.
    """

    index: int
    class_id: str
    image_seed: int
    weights: Weights
    attempt: int = 0


@dataclass(eq=False)
class ImageStream:
    """Images of one request, or a part of it, for one reader.

    Attributes:
        tenant: Shares of the batch are per tenant.
        request_id: Shares within a tenant are per request.
        interactive: Goes before bulk work.
        program: How the images are sampled.
        tasks: Tasks that have not begun.
        deliver: Called on the engine's thread with a finished image, not always in order.
        fail: Called there, once, if no more images will come.
        cancelled: Finished images are thrown away.
    """

    tenant: str
    request_id: str
    interactive: bool
    program: SamplingProgram
    tasks: deque[ImageTask]
    deliver: Callable[[ImageTask, np.ndarray], None]
    fail: Callable[[DomainError], None]
    cancelled: bool = False

    @property
    def has_waiting(self) -> bool:
        """Whether any image has not begun."""
        return bool(self.tasks)

    @property
    def num_rows_waiting(self) -> int:
        """UNet evaluations of the images that have not begun."""
        return len(self.tasks) * sum(self.program.rows_per_step)


@dataclass(eq=False)
class InFlightImage:
    """An image between its first step and its decoding.

    Attributes:
        state: Index of its solver state in the denoiser.
        conditional: Adapter and prompt of its class.
        unconditional: The same adapter with the empty prompt.
        step: The next step, from 0.
    """

    stream: ImageStream
    task: ImageTask
    state: int
    conditional: Condition
    unconditional: Condition
    step: int = 0

    @property
    def num_rows(self) -> int:
        """UNet evaluations of its next step."""
        return self.stream.program.rows_per_step[self.step]

    @property
    def num_rows_left(self) -> int:
        """UNet evaluations of all steps to come."""
        return sum(self.stream.program.rows_per_step[self.step :])

    @property
    def done(self) -> bool:
        """Whether all its steps are taken."""
        return self.step >= len(self.stream.program.guidance_scales)

    def advance(self) -> Advance:
        """The next step, as the denoiser takes it."""
        program = self.stream.program
        scale = program.guidance_scales[self.step]
        return Advance(
            state=self.state,
            timestep=float(program.solver.timesteps[self.step]),
            matrix=program.solver.steps[self.step],
            condition=self.conditional,
            unconditional=None if scale is None else self.unconditional,
            guidance_scale=1.0 if scale is None else scale,
        )
