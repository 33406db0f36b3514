"""An engine over a tiny base, driven from a test's own thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from services.common.errors import DomainError
from services.common.models import lora
from services.common.models.diffusion_bases import Base, load_pipeline, load_tiny_decoder
from services.generator.engine.adapter_cache import AdapterCache, Weights
from services.generator.engine.batched_lora import BatchedLora, LoraPair
from services.generator.engine.denoiser import Denoiser
from services.generator.engine.engine import Engine
from services.generator.engine.solver import build_solver
from services.generator.engine.step_records import StepRecord
from services.generator.engine.streams import ImageStream, ImageTask, SamplingProgram
from services.generator.presets import SamplerSettings

CLASSES = ("basophil", "monocyte")
QUICK = SamplerSettings(3, 2.0, "dpmpp_2m")
EVERYTHING = lora.ATTENTION + lora.CONVOLUTIONS + lora.PROJECTIONS
PATIENCE_SECONDS = 60.0


def make_lora(base: Base, spec: lora.LoraSpec, seed: int, scale: float = 0.2) -> bytes:
    """A LoRA file in which both matrices of every layer are random."""
    pipeline = load_pipeline(base)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in lora.add_lora(pipeline, spec, seed).items():
        if ".lora_B." in name:
            parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    return lora.lora_file(pipeline)


def bytes_of(
    base: Base, data: bytes, dtype: torch.dtype = torch.float32, num_classes: int = len(CLASSES)
) -> int:
    """Memory of a LoRA file with the prompts of its classes."""
    pipeline = load_pipeline(base)
    batched = BatchedLora(pipeline.unet.to(dtype), 1, pipeline.tokenizer.model_max_length)
    pairs = {name: LoraPair(*pair) for name, pair in lora.read_lora(pipeline, data).items()}
    return batched.num_bytes(batched.prepare(pairs), 1 + num_classes)


def weights_of(adapter: str | None, loras: dict[str, bytes], class_id: str = CLASSES[0]) -> Weights:
    """The weights called ``adapter``; None: the base alone."""
    if adapter is None:
        return Weights(class_id, (class_id,))
    return Weights(adapter, CLASSES, lambda: loras[adapter])


@dataclass(eq=False)
class Reader:
    """Images and errors of a stream."""

    num_wanted: int
    images: dict[int, np.ndarray] = field(default_factory=dict)
    errors: list[DomainError] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def deliver(self, task: ImageTask, image: np.ndarray) -> None:
        """Called by the engine."""
        assert task.index not in self.images
        self.images[task.index] = image
        if len(self.images) == self.num_wanted:
            self.over.set()

    def fail(self, error: DomainError) -> None:
        """Called by the engine."""
        self.errors.append(error)
        self.over.set()

    def wait(self) -> dict[int, np.ndarray]:
        """All images; raises what the stream failed with."""
        assert self.over.wait(PATIENCE_SECONDS), f"{len(self.images)} of {self.num_wanted} came"
        if self.errors:
            raise self.errors[0]
        return self.images


class Studio:
    """One engine, and streams for it."""

    def __init__(
        self,
        base: Base,
        dtype: torch.dtype = torch.float32,
        batch_rows: int = 8,
        memory_bytes: int = 2**24,
        interactive_elsewhere: Callable[[], bool] = lambda: False,
    ) -> None:
        pipeline = load_pipeline(base)
        self.num_states = 2 * batch_rows
        self.records: list[StepRecord] = []
        self.denoiser = Denoiser(
            pipeline,
            batch_rows,
            self.num_states,
            dtype,
            tiny_decoder=load_tiny_decoder(base),
        )
        self.engine = Engine(
            self.denoiser,
            lambda wake: AdapterCache(pipeline, self.denoiser.lora, memory_bytes, wake),
            self.num_states,
            self.records.append,
            interactive_elsewhere=interactive_elsewhere,
        )

    def stream(
        self,
        tasks: Iterable[ImageTask],
        settings: SamplerSettings = QUICK,
        tenant: str = "a",
        request_id: str = "r",
        interactive: bool = False,
    ) -> tuple[ImageStream, Reader]:
        """A stream that is not submitted yet, and its reader."""
        tasks = deque(tasks)
        reader = Reader(len(tasks))
        solver = build_solver(settings.scheduler, self.engine.scheduler_config, settings.num_steps)
        stream = ImageStream(
            tenant,
            request_id,
            interactive,
            SamplingProgram(
                solver, settings.guidance_scales(len(solver)), settings.decoder == "tiny"
            ),
            tasks,
            deliver=reader.deliver,
            fail=reader.fail,
        )
        return stream, reader

    def submit(
        self, tasks: Iterable[ImageTask], settings: SamplerSettings = QUICK, **fields: Any
    ) -> Reader:
        """Start sampling."""
        stream, reader = self.stream(tasks, settings, **fields)
        self.engine.submit(stream)
        return reader

    def settle(self) -> None:
        """Wait until the engine has done all that it was told before."""
        done = threading.Event()
        self.engine._command(done.set)
        assert done.wait(PATIENCE_SECONDS)

    def num_references(self) -> int:
        """References to adapter entries."""
        return sum(entry.num_references for entry in self.engine.adapter_cache._entries.values())

    def leaks(self) -> tuple[int, int, int]:
        """States, references and streams in use; zero when idle."""
        self.settle()
        states = self.num_states - len(set(self.engine._states._free))
        return states, self.num_references(), self.engine.num_streams


def tasks_of(
    weights: Weights, num_images: int, class_id: str = CLASSES[0], seed: int = 0
) -> list[ImageTask]:
    """``num_images`` images of one class with the seeds from ``seed`` on."""
    return [ImageTask(i, class_id, seed + i, weights) for i in range(num_images)]
