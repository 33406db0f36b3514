"""Batches at the step: images of many requests share every evaluation of the UNet.

The engine's thread does one thing over and over: choose whose images take a step (``turns.py``),
evaluate them as one batch (``sampler.py``), hand out those that are finished.  A request joins and
leaves between two steps; cancelling it costs its neighbours nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from services.common.errors import DomainError, FailedPrecondition, Unavailable
from services.generator.engine.adapter_cache import AdapterBank, Weights
from services.generator.engine.denoiser import Advance, Condition, DecodedImages, Sampler
from services.generator.engine.scheduler import Turn, Turns, TurnStream
from services.generator.engine.solver import Solver

_logger = logging.getLogger(__name__)
_RATE_SECONDS = 20.0
_STEPS_GIVEN_WAY = 4
_LOOK_SECONDS = 0.005
"""How often an engine that gives way looks whether it still has to."""


@dataclass(frozen=True)
class Recipe:
    """How the images of a stream are sampled.

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
        """Evaluations of each step."""
        return tuple(1 if scale is None else 2 for scale in self.guidance_scales)


@dataclass(frozen=True)
class Order:
    """One image to draw: its place in the request, its class, seed and weights.

    ``attempt`` is how often it was drawn before and withheld.
    """

    index: int
    class_id: str
    image_seed: int
    weights: Weights
    attempt: int = 0


@dataclass(eq=False)
class Stream(TurnStream):
    """Images of one request for one reader.

    Attributes:
        recipe: How they are sampled.
        orders: Those that have not begun.
        window: Images begun that the reader has not taken yet, at most.
        deliver: Called on the engine's thread with a finished image, not always in order.
        fail: Called there, once, if no more images will come.
    """

    recipe: Recipe = field(kw_only=True)
    orders: deque[Order] = field(kw_only=True)
    window: int = field(kw_only=True)
    deliver: Callable[[Order, np.ndarray], None] = field(kw_only=True)
    fail: Callable[[DomainError], None] = field(kw_only=True)
    num_out: int = 0
    """Images begun and not taken by the reader."""
    dropped: bool = False
    """Nobody waits for what is still on its way."""

    @property
    def idle(self) -> bool:
        """Nothing in progress and nothing to begin before its reader takes more."""
        return not self.turns and (not self.orders or self.num_out >= self.window)

    @property
    def backlog(self) -> int:
        """Evaluations that its images still need."""
        rows = self.recipe.rows_per_step
        begun = sum(sum(rows[turn.step :]) for turn in self.turns)
        return begun + len(self.orders) * sum(rows)


@dataclass(eq=False)
class _Drawing(Turn):
    """An image in progress and where its latents are."""

    order: Order = field(kw_only=True)
    state: int = field(kw_only=True)
    conditional: Condition = field(kw_only=True)
    unconditional: Condition = field(kw_only=True)

    @property
    def recipe(self) -> Recipe:
        stream: Any = self.stream
        recipe: Recipe = stream.recipe
        return recipe

    def advance(self) -> Advance:
        recipe = self.recipe
        scale = recipe.guidance_scales[self.step]
        return Advance(
            state=self.state,
            timestep=float(recipe.solver.timesteps[self.step]),
            matrix=recipe.solver.steps[self.step],
            condition=self.conditional,
            unconditional=None if scale is None else self.unconditional,
            guidance_scale=1.0 if scale is None else scale,
        )


@dataclass(frozen=True)
class Tally:
    """What became of whose images, by tenant.

    Attributes:
        evaluations: Of the UNet.
        not_finite: Images withheld, as the model gave NaN or infinity; their streams fail.
        near_duplicates: Images withheld, as they are copies of training images.
        adapter_hits: Images begun, whose weights were there.
        adapter_misses: Weights that had to be loaded.
    """

    evaluations: Counter[str] = field(default_factory=Counter)
    not_finite: Counter[str] = field(default_factory=Counter)
    near_duplicates: Counter[str] = field(default_factory=Counter)
    adapter_hits: Counter[str] = field(default_factory=Counter)
    adapter_misses: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class StepRecord:
    """One step, for metrics; ``tally`` is since the record before."""

    seconds: float
    num_rows: int
    num_rows_padded: int
    num_images_finished: int
    tally: Tally


class Engine:
    """One pipeline at work. Its methods may be called from any thread."""

    def __init__(
        self,
        sampler: Sampler,
        make_bank: Callable[[Callable[[], None]], AdapterBank],
        num_states: int,
        observe: Callable[[StepRecord], None] = lambda record: None,
        num_threads: int = 0,
        others_hurry: Callable[[], bool] = lambda: False,
    ) -> None:
        """Start the engine's thread.

        Args:
            sampler: Used by that thread only, from now on.
            make_bank: Makes the bank, given what wakes the engine.
            num_states: Images in progress at most: half of them of bulk work, 7/8 of interactive.
            observe: Told of every step.
            num_threads: CPU threads; 0: as the process has it.
            others_hurry: Whether another engine of this device has interactive work.
        """
        self._sampler, self._observe, self._num_threads = sampler, observe, num_threads
        self._others_hurry, self._step_seconds = others_hurry, 0.0
        self._news = threading.Condition()
        self._commands: deque[Callable[[], None]] = deque()
        self._closed = False
        self.broken: BaseException | None = None
        """What stopped the engine for good."""
        self.bank = make_bank(lambda: self._command(lambda: None))
        self._turns = Turns(sampler.num_rows)
        self._free_states = list(range(num_states - 1, -1, -1))
        self._most_states = {False: num_states // 2, True: num_states - max(1, num_states // 8)}
        self._num_states_used = {False: 0, True: 0}
        self._finished: list[_Drawing] = []
        self._decoding: tuple[list[_Drawing], DecodedImages] | None = None
        self._waited = 0
        self._tally = Tally()
        self._rate = _Rate()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, stream: Stream) -> None:
        """Take in a stream; it begins at the next step.

        Raises:
            Unavailable: If the engine has stopped.
        """
        with self._news:
            if self._closed:
                raise _stopped()
            self._commands.append(lambda: self._turns.add(stream))
            self._news.notify()

    def cancel(self, stream: Stream) -> None:
        """Drop a stream; its images in progress end before the next step."""
        self._command(lambda: self._drop(stream))

    def taken(self, stream: Stream, num_images: int) -> None:
        """The reader has taken images: as many more may begin."""

        def take() -> None:
            stream.num_out -= num_images

        self._command(take)

    def withhold(self, stream: Stream, again: Order | None) -> None:
        """Count a finished image that its reader must not get, and draw another in its place.

        The other one belongs to the same stream: it is cancelled with it, and the window is what
        it was, as the one is begun where the other was given up.

        Args:
            stream: The image's.
            again: What to draw instead, before all else of this request; None: nothing.

        Raises:
            Unavailable: If the engine has stopped.
        """

        def change() -> None:
            self._tally.near_duplicates[stream.tenant] += 1
            if again is not None and not stream.dropped:
                stream.num_out -= 1
                stream.orders.appendleft(again)
                self._turns.add_first(stream)  # it has left, if this was its last image

        with self._news:
            if self._closed:
                raise _stopped()
            self._commands.append(change)
            self._news.notify()

    def close(self) -> None:
        """End the thread; streams that are left fail with ``Unavailable``."""
        self._closed = True
        self._command(lambda: None)
        self._thread.join()
        self.bank.close()

    @property
    def scheduler_config(self) -> dict[str, Any]:
        """Noise schedule of the pipeline."""
        return dict(self._sampler.pipeline.scheduler.config)

    @property
    def evaluations_per_second(self) -> float:
        """Of late, while there was work for whole batches; 0 until known."""
        return self._rate.value

    @property
    def backlog(self) -> Counter[str]:
        """UNet evaluations that the streams here still need, by tenant."""
        backlog = Counter[str]()
        for stream in self._streams():
            backlog[stream.tenant] += stream.backlog
        return backlog

    @property
    def num_streams(self) -> int:
        """Streams that have images to come."""
        return sum(1 for _ in self._streams())

    @property
    def hurries(self) -> bool:
        """Whether there is interactive work to do."""
        return any(stream.interactive and not stream.idle for stream in self._streams())

    def _streams(self) -> Iterator[Stream]:
        for stream in list(self._turns):
            assert isinstance(stream, Stream)
            yield stream

    def _command(self, command: Callable[[], None]) -> None:
        with self._news:
            self._commands.append(command)
            self._news.notify()

    def _run(self) -> None:
        try:
            if self._num_threads:
                torch.set_num_threads(self._num_threads)  # OpenMP keeps it per thread
            while not self._closed:
                self._take_commands(wait=not self._work())
                self._give_way()
        except BaseException as error:
            _logger.exception("the engine has stopped")
            self.broken = error
        with self._news:
            self._closed = True
        self._take_commands(wait=False)  # what was submitted until then
        for stream in self._streams():
            stream.fail(_stopped())

    def _take_commands(self, wait: bool) -> None:
        with self._news:
            if wait and not self._commands:
                self._news.wait()
            commands = list(self._commands)
            self._commands.clear()
        for command in commands:
            command()

    def _give_way(self) -> None:
        """Bulk work waits for interactive work of other engines, and still takes a fifth."""
        until = time.monotonic() + _STEPS_GIVEN_WAY * self._step_seconds
        while not self._closed and not self.hurries and self._others_hurry():
            left = until - time.monotonic()
            if left <= 0:
                return
            with self._news:
                if not self._commands:
                    self._news.wait(min(left, _LOOK_SECONDS))
            self._take_commands(wait=False)

    def _work(self) -> bool:
        """One step; says whether there was anything to do."""
        self.bank.settle()
        self._sampler.prove()
        started = time.monotonic()
        picked = [turn for turn in self._turns.pick(self._begin) if isinstance(turn, _Drawing)]
        num_rows = sum(drawing.num_rows for drawing in picked)
        num_padded = 0
        if picked:
            num_padded = self._sampler.step([drawing.advance() for drawing in picked])
            for drawing in picked:
                self._tally.evaluations[drawing.stream.tenant] += drawing.num_rows
                drawing.step += 1
                if drawing.done:
                    drawing.stream.turns.remove(drawing)
                    self._finished.append(drawing)
        num_finished = self._deliver()  # decoded while this step was being launched
        num_finished += self._decode(idle=not picked)
        if picked or num_finished:
            self._step_seconds = seconds = time.monotonic() - started
            self._rate.add(num_rows, seconds, full=num_rows >= self._sampler.num_rows - 1)
            tally, self._tally = self._tally, Tally()
            self._observe(StepRecord(seconds, num_rows, num_padded, num_finished, tally))
        return bool(picked or num_finished)

    def _begin(self, stream: TurnStream) -> Turn | None:
        assert isinstance(stream, Stream)
        if not stream.orders or stream.num_out >= stream.window:
            return None
        num_used = self._num_states_used[stream.interactive]
        if not self._free_states or num_used >= self._most_states[stream.interactive]:
            return None
        order = stream.orders[0]
        conditions = self.bank.use(order.weights, order.class_id)
        if conditions is None:
            failure = self.bank.failure(order.weights)
            if failure is None:
                self._tally.adapter_misses[stream.tenant] += self.bank.want(order.weights)
            else:
                stream.fail(failure)
                stream.orders.clear()  # not asked again in this step
                self.cancel(stream)
            return None
        self._tally.adapter_hits[stream.tenant] += 1
        stream.orders.popleft()
        stream.num_out += 1
        state = self._free_states.pop()
        self._num_states_used[stream.interactive] += 1
        self._sampler.begin(state, order.image_seed, stream.recipe.solver.noise_scale)
        drawing = _Drawing(
            stream,
            stream.recipe.rows_per_step,
            order=order,
            state=state,
            conditional=conditions[0],
            unconditional=conditions[1],
        )
        stream.turns.append(drawing)
        return drawing

    def _decode(self, idle: bool) -> int:
        """Decode what is finished, a few at a time unless somebody waits for it."""
        if not self._finished:
            return 0
        hurried = [drawing for drawing in self._finished if drawing.stream.interactive]
        self._waited += 1
        tiny = (hurried or self._finished)[0].recipe.tiny_decoder  # the others come next
        ready = [drawing for drawing in self._finished if drawing.recipe.tiny_decoder is tiny]
        size = self._sampler.decode_batch_size
        if not idle and not hurried and self._waited < size:
            ready = ready[: len(ready) // size * size]
        if not ready:
            return 0
        self._waited = 0
        self._finished = [drawing for drawing in self._finished if drawing not in ready]
        self._decoding = ready, self._sampler.decode([drawing.state for drawing in ready], tiny)
        for drawing in ready:
            self._free(drawing)
        return self._deliver() if idle or self._decoding[1].ready() else 0

    def _deliver(self) -> int:
        """Hand out what was being decoded; says how many images that were."""
        if self._decoding is None:
            return 0
        (ready, images), self._decoding = self._decoding, None
        for drawing, image in zip(ready, images.wait(), strict=True):
            stream: Any = drawing.stream
            if stream.dropped:
                continue
            if image is None:
                self._tally.not_finite[stream.tenant] += 1
                remedy = "use another scheduler or num_steps"
                stream.fail(FailedPrecondition("sampler", "gave values not finite", remedy))
                self._drop(stream)
                continue
            stream.deliver(drawing.order, image)
        left = {drawing.stream for drawing in self._finished}
        for drawing in ready:
            stream = drawing.stream
            if not stream.orders and not stream.turns and stream not in left:
                self._turns.remove(stream)
        return len(ready)

    def _drop(self, stream: Stream) -> None:
        mine: Iterable[Turn] = [*stream.turns]
        mine = [*mine, *(d for d in self._finished if d.stream is stream)]
        self._finished = [d for d in self._finished if d.stream is not stream]
        stream.dropped = True
        stream.turns.clear()
        stream.orders.clear()
        self._turns.remove(stream)
        for drawing in mine:
            assert isinstance(drawing, _Drawing)
            self._free(drawing)

    def _free(self, drawing: _Drawing) -> None:
        self._free_states.append(drawing.state)
        self._num_states_used[drawing.stream.interactive] -= 1
        self.bank.release(drawing.order.weights)


def _stopped() -> Unavailable:
    return Unavailable("the sampler has stopped", retry_after_seconds=5.0)


class _Rate:
    """Evaluations per second of full batches, an exponential average over seconds."""

    def __init__(self) -> None:
        self.value = 0.0
        self._seconds = 0.0

    def add(self, num_rows: int, seconds: float, full: bool) -> None:
        if not full or seconds <= 0:
            return
        self._seconds = min(self._seconds + seconds, _RATE_SECONDS)
        weight = min(1.0, seconds / self._seconds)
        self.value += weight * (num_rows / seconds - self.value)
