"""Step-level continuous batching: images of many requests share every UNet evaluation.

The engine's thread repeats one loop: choose whose images take a step (``scheduler.py``), evaluate
them as one batch (``denoiser.py``), hand out those that are finished.  A request joins and leaves
between two steps; cancelling it costs its neighbours nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from services.common.errors import FailedPrecondition, Unavailable
from services.generator.engine.adapter_cache import AdapterCache
from services.generator.engine.decode_queue import DecodeQueue
from services.generator.engine.denoiser import Denoiser
from services.generator.engine.scheduler import StepScheduler
from services.generator.engine.state_pool import StatePool
from services.generator.engine.step_records import StepRecord, Tally, ThroughputMeter
from services.generator.engine.streams import ImageStream, ImageTask, InFlightImage

_logger = logging.getLogger(__name__)
_STEPS_WAITED = 4
"""Steps of waiting for other engines, before one of bulk work."""
_POLL_SECONDS = 0.005
"""Interval at which a waiting engine looks whether it still has to."""


class Engine:
    """Engine of one pipeline, callable from any thread."""

    def __init__(
        self,
        denoiser: Denoiser,
        make_adapter_cache: Callable[[Callable[[], None]], AdapterCache],
        num_states: int,
        observe: Callable[[StepRecord], None] = lambda record: None,
        num_threads: int = 0,
        interactive_elsewhere: Callable[[], bool] = lambda: False,
    ) -> None:
        """Start the engine's thread.

        Args:
            denoiser: Used by that thread only, from now on.
            make_adapter_cache: Makes the cache, given what wakes the engine.
            num_states: Images in flight at most: half of them of bulk work, 7/8 of interactive.
            observe: Told of every step.
            num_threads: CPU threads; 0: as the process has it.
            interactive_elsewhere: Whether another engine of this device has interactive work.
        """
        self.denoiser, self._observe, self._num_threads = denoiser, observe, num_threads
        self._interactive_elsewhere, self._step_seconds = interactive_elsewhere, 0.0
        self._news = threading.Condition()
        self._commands: deque[Callable[[], None]] = deque()
        self._closed = False
        self.broken: BaseException | None = None
        """The error that stopped the engine for good."""
        self.adapter_cache = make_adapter_cache(lambda: self._command(lambda: None))
        self._scheduler = StepScheduler[ImageStream, InFlightImage](denoiser.batch_rows)
        self._states = StatePool(num_states)
        self._decode_queue = DecodeQueue(denoiser)
        self._tally = Tally()
        self._throughput = ThroughputMeter()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, stream: ImageStream) -> None:
        """Take in a stream; it begins at the next step.

        Raises:
            Unavailable: If the engine has stopped.
        """
        self._command_or_raise(lambda: self._scheduler.add(stream))

    def cancel(self, stream: ImageStream) -> None:
        """Drop a stream; its images in flight end before the next step."""
        self._command(lambda: self._drop(stream))

    def withhold(self, stream: ImageStream, retry: ImageTask | None) -> None:
        """Count a near-duplicate, and sample another image in its place.

        The replacement belongs to the same stream and is cancelled with it.

        Args:
            stream: The stream of the near-duplicate.
            retry: What to sample instead, before all else of this request; None: nothing.

        Raises:
            Unavailable: If the engine has stopped.
        """

        def change() -> None:
            self._tally.near_duplicates[stream.tenant] += 1
            if retry is not None and not stream.cancelled:
                stream.tasks.appendleft(retry)
                self._scheduler.add_first(stream)  # it has left, if this was its last image

        self._command_or_raise(change)

    def close(self) -> None:
        """End the thread; streams that are left fail with ``Unavailable``."""
        self._closed = True
        self._command(lambda: None)
        self._thread.join()
        self.adapter_cache.close()

    @property
    def scheduler_config(self) -> dict[str, Any]:
        """Noise schedule of the pipeline, as diffusers keeps it."""
        return dict(self.denoiser.pipeline.scheduler.config)

    @property
    def evaluations_per_second(self) -> float:
        """Recent throughput in UNet evaluations, of full batches only; 0 until known."""
        return self._throughput.evaluations_per_second

    @property
    def backlog(self) -> Counter[str]:
        """UNet evaluations that the streams here still need, by tenant."""
        backlog = Counter[str]()
        for stream in self._scheduler:
            in_flight = sum(image.num_rows_left for image in self._scheduler.in_flight(stream))
            backlog[stream.tenant] += in_flight + stream.num_rows_waiting
        return backlog

    @property
    def num_streams(self) -> int:
        """Streams that have images to come."""
        return sum(1 for _ in self._scheduler)

    @property
    def has_interactive_work(self) -> bool:
        """Whether there is interactive work to do."""
        scheduler = self._scheduler
        return any(stream.interactive and not scheduler.is_idle(stream) for stream in scheduler)

    def _command(self, command: Callable[[], None]) -> None:
        with self._news:
            self._commands.append(command)
            self._news.notify()

    def _command_or_raise(self, command: Callable[[], None]) -> None:
        with self._news:
            if self._closed:
                raise _stopped()
            self._commands.append(command)
            self._news.notify()

    def _run(self) -> None:
        try:
            if self._num_threads:
                torch.set_num_threads(self._num_threads)  # OpenMP keeps it per thread
            while not self._closed:
                self._take_commands(wait=not self._step())
                self._wait_for_interactive_elsewhere()
        except BaseException as error:
            _logger.exception("the engine has stopped")
            self.broken = error
        with self._news:
            self._closed = True
        self._take_commands(wait=False)  # what was submitted until then
        for stream in self._scheduler:
            stream.fail(_stopped())

    def _take_commands(self, wait: bool) -> None:
        with self._news:
            if wait and not self._commands:
                self._news.wait()
            commands = list(self._commands)
            self._commands.clear()
        for command in commands:
            command()

    def _wait_for_interactive_elsewhere(self) -> None:
        """Let other engines' interactive work go first; bulk work keeps a fifth."""
        until = time.monotonic() + _STEPS_WAITED * self._step_seconds
        while not self._closed and not self.has_interactive_work and self._interactive_elsewhere():
            left = until - time.monotonic()
            if left <= 0:
                return
            with self._news:
                if not self._commands:
                    self._news.wait(min(left, _POLL_SECONDS))
            self._take_commands(wait=False)

    def _step(self) -> bool:
        """Take one step; says whether there was anything to do."""
        self.adapter_cache.install_loaded()
        self.denoiser.prove()
        started = time.monotonic()
        picked = self._scheduler.pick(self._begin)
        num_rows = sum(image.num_rows for image in picked)
        num_padded = 0
        if picked:
            num_padded = self.denoiser.step([image.advance() for image in picked])
            for image in picked:
                self._tally.evaluations[image.stream.tenant] += image.num_rows
                image.step += 1
                if image.done:
                    self._scheduler.finish(image.stream, image)
                    self._decode_queue.add(image)
        num_finished = self._hand_out()  # decoded while this step was being launched
        self._free(self._decode_queue.start(idle=not picked))
        if not picked or self._decode_queue.has_arrived():
            num_finished += self._hand_out()
        if picked or num_finished:
            self._step_seconds = seconds = time.monotonic() - started
            if num_rows >= self.denoiser.batch_rows - 1:
                self._throughput.add(num_rows, seconds)
            tally, self._tally = self._tally, Tally()
            self._observe(StepRecord(seconds, num_rows, num_padded, num_finished, tally))
        return bool(picked or num_finished)

    def _begin(self, stream: ImageStream) -> InFlightImage | None:
        if not stream.tasks or not self._states.has_free(stream.interactive):
            return None
        task = stream.tasks[0]
        conditions = self.adapter_cache.acquire(task.weights, task.class_id)
        if conditions is None:
            failure = self.adapter_cache.failure(task.weights)
            if failure is None:
                self._tally.adapter_misses[stream.tenant] += self.adapter_cache.load(task.weights)
            else:
                stream.fail(failure)
                stream.tasks.clear()  # not asked again in this step
                self.cancel(stream)
            return None
        self._tally.adapter_hits[stream.tenant] += 1
        stream.tasks.popleft()
        state = self._states.take(stream.interactive)
        self.denoiser.begin(state, task.image_seed, stream.program.solver.noise_scale)
        return InFlightImage(stream, task, state, *conditions)

    def _hand_out(self) -> int:
        """Hand out what was being decoded; says how many images that were."""
        decoded = self._decode_queue.collect()
        for image, pixels in decoded:
            self._deliver(image, pixels)
        undecoded = self._decode_queue.streams
        for image, _ in decoded:
            if self._scheduler.is_idle(image.stream) and image.stream not in undecoded:
                self._scheduler.remove(image.stream)
        return len(decoded)

    def _deliver(self, image: InFlightImage, pixels: np.ndarray | None) -> None:
        stream = image.stream
        if stream.cancelled:
            return
        if pixels is None:
            self._tally.not_finite[stream.tenant] += 1
            remedy = "use another scheduler or num_steps"
            stream.fail(FailedPrecondition("sampler", "gave values not finite", remedy))
            self._drop(stream)
        else:
            stream.deliver(image.task, pixels)

    def _drop(self, stream: ImageStream) -> None:
        stream.cancelled = True
        stream.tasks.clear()
        self._free([*self._scheduler.remove(stream), *self._decode_queue.remove(stream)])

    def _free(self, images: Iterable[InFlightImage]) -> None:
        for image in images:
            self._states.free(image.state, image.stream.interactive)
            self.adapter_cache.release(image.task.weights)


def _stopped() -> Unavailable:
    return Unavailable("the sampler has stopped", retry_after_seconds=5.0)
