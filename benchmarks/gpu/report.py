"""Report of the GPU benchmark: JSON by sections, within a time limit."""

from __future__ import annotations

import json
import os
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.generator.presets import PRESETS

Metrics = dict[str, Any]
"""Figures of a section, as JSON takes them."""
TARGETS = {"paper": {"least": 4.0, "aim": 6.0}, "fast": {"least": 60.0}}
"""Images per second of one H100."""


class Report:
    """A report that is written after each section."""

    def __init__(
        self,
        path: Path,
        time_limit: float,
        header: Metrics,
        end_process: Callable[[int], object] = os._exit,
    ) -> None:
        """Start the clock.

        Args:
            path: Path of the JSON.
            time_limit: Seconds until the process ends, even within a call that never returns.
            header: What was measured on.
            end_process: Called with an exit status when time runs out.
        """
        self.sections: dict[str, Metrics] = {}
        self._path, self._header, self._end_process = path, header, end_process
        self._running, self._lock = "", threading.Lock()
        self._started = time.monotonic()
        self._timer = threading.Timer(time_limit, self._time_out)
        self._timer.daemon = True
        self._timer.start()

    @property
    def failed(self) -> bool:
        """Whether anything could not be measured."""
        return any("error" in metrics for metrics in self.sections.values())

    def section(self, name: str, measure: Callable[[], Metrics]) -> Metrics | None:
        """Measure and keep the figures; None and the error if that failed."""
        started, self._running = time.monotonic(), name
        try:
            metrics = measure()
        except Exception as error:
            trace = traceback.format_exc().splitlines()[-8:]
            metrics = {"error": f"{type(error).__name__}: {error}", "traceback": trace}
        metrics = rounded(metrics | {"seconds": time.monotonic() - started})
        print(f"{name}: {json.dumps(metrics | {'traceback': None})}", flush=True)
        with self._lock:
            self.sections[name], self._running = metrics, ""
            self._write()
        return None if "error" in metrics else metrics

    def close(self) -> None:
        """Stop the clock."""
        self._timer.cancel()

    def _time_out(self) -> None:
        with self._lock:
            self.sections[self._running or "the rest"] = {"error": "time ran out"}
            self._write()
            print("time ran out", flush=True)
            self._end_process(1)

    def _write(self) -> None:
        seconds, best = time.monotonic() - self._started, best_throughput(self.sections)
        targets = {preset: {**goal, "measured": best[preset]} for preset, goal in TARGETS.items()}
        report = self._header | {"seconds": seconds, "targets": targets, "sections": self.sections}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(".part")
        draft.write_text(json.dumps(rounded(report), indent=1) + "\n")
        draft.replace(self._path)


def best_throughput(sections: dict[str, Metrics]) -> dict[str, float | None]:
    """Best images per second of each preset with one adapter."""
    best: dict[str, float | None] = dict.fromkeys(PRESETS)
    for name, metrics in sections.items():
        _, preset, adapters = f"{name}..".split(".")[:3]
        if adapters == "one" and "images_per_second" in metrics:
            best[preset] = max(best[preset] or 0.0, metrics["images_per_second"])
    return best


def rounded(value: Any) -> Any:
    """JSON with four significant digits."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
