"""Launches a UNet evaluation as one CUDA graph, so that a small step does not wait for the host.

``torch.compile`` has CUDA graphs of its own (mode "reduce-overhead"), but they assert in threads
other than the main one (https://github.com/pytorch/pytorch/issues/123177), and an engine runs in
a thread of its own.  Capturing by hand fits this sampler anyway: the tables that rows read their
adapters and prompts from keep their addresses and are written in place.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

_WARM_UPS = 3
"""Calls before capture: compiling, choosing algorithms and allocating must not be captured."""

Evaluate = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class GraphedEvaluation:
    """Replays ``evaluate(latents, timesteps)``; use from one thread."""

    def __init__(self, evaluate: Evaluate) -> None:
        """``evaluate``: reads whatever else it needs from tensors that keep their addresses."""
        self._evaluate = evaluate
        self._structure = -1
        self._captured: dict[int, _Capture] = {}

    def __call__(
        self, latents: torch.Tensor, timesteps: torch.Tensor, structure: int
    ) -> torch.Tensor:
        """The output, which the next call with as many rows overwrites.

        Args:
            latents: (N, C, h, w), on the GPU.
            timesteps: (N,), float32.
            structure: Another number than last time: the kernels have changed; capture anew.
        """
        if structure != self._structure:
            self._captured.clear()
            self._structure = structure
        rows = len(latents)
        if rows not in self._captured:
            self._captured[rows] = _Capture(self._evaluate, latents, timesteps)
        return self._captured[rows].replay(latents, timesteps)


class _Capture:
    """The kernels of one number of rows."""

    def __init__(self, evaluate: Evaluate, latents: torch.Tensor, timesteps: torch.Tensor) -> None:
        self._latents, self._timesteps = latents.clone(), timesteps.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                evaluate(self._latents, self._timesteps)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # Another thread uploads adapters meanwhile: only this one's calls are restricted.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._output = evaluate(self._latents, self._timesteps)

    def replay(self, latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        self._latents.copy_(latents)
        self._timesteps.copy_(timesteps)
        self._graph.replay()
        return self._output
