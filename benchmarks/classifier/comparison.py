"""Measures servers point by point into the report."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.classifier.figures import point, ratio, rounded
from benchmarks.classifier.load.plans import Plan, Target
from benchmarks.classifier.load.process import LoadFailed, ask, closed
from benchmarks.classifier.models import BenchModel
from benchmarks.classifier.network import Network
from benchmarks.classifier.servers.base import Peer, ServerFailed, Settings
from benchmarks.classifier.servers.our_stack import NAME

CALLERS = (1, 16, 64)
PILOT_CALLERS = 16
MAX_DIFFERENCE = 1e-3
_START_SECONDS = 300.0
_CALL_SECONDS = 60.0
_ANSWERS_OF_A_CALLER, _LONGEST_SECONDS = 4, 40.0


@dataclass(frozen=True)
class Windows:
    """Seconds of warm-up, counted window and pilot; 0: no pilots."""

    warmup: float
    seconds: float
    pilot: float


class Comparison:
    """The report and all that its points need.

    Attributes:
        folder: Holds ``cells``, ``logs`` and a folder for each network.
        report: Content of the JSON file, which ``write`` writes as far as it is known.
    """

    def __init__(self, folder: Path, windows: Windows, out: Path) -> None:
        self.folder, self._windows, self._out = folder, windows, out
        self.report: dict[str, Any] = {}
        self._expected: dict[str, np.ndarray] = {}

    def write(self) -> None:
        """Writes the report."""
        draft = self._out.with_suffix(".draft")
        draft.write_text(json.dumps(self.report, indent=1) + "\n")
        os.replace(draft, self._out)

    def failed(self, server: str, model_key: str, error: Exception) -> None:
        """Quotes the error of a server that cannot run, in the report."""
        print(f"{server} {model_key}: {error}", flush=True)
        self.report.setdefault("errors", {}).setdefault(server, {})[model_key or "all"] = str(error)
        self.write()

    def measure_peer(self, peer: Peer, model: BenchModel) -> None:
        """Measures a peer with its fastest settings."""
        try:
            versions = peer.versions()
            if versions:
                self.report.setdefault("versions", {})[peer.name] = versions
            settings = self._best_settings(peer, model)
            with peer.running(self.folder / model.key, settings, self.folder / "logs") as target:
                self._wait(peer, target)
                self.measure_points(peer.name, model, target)
            chosen = self.report.setdefault("settings", {}).setdefault(peer.name, {})
            chosen[model.key] = settings
        except (ServerFailed, LoadFailed) as error:
            self.failed(peer.name, model.key, error)

    def _best_settings(self, peer: Peer, model: BenchModel) -> Settings:
        if not self._windows.pilot or len(peer.candidates) == 1:
            return peer.candidates[0]
        speeds = []
        for settings in peer.candidates:
            with peer.running(self.folder / model.key, settings, self.folder / "logs") as target:
                self._wait(peer, target)
                plan = self._plan(target, PILOT_CALLERS, self._windows.pilot)
                speeds.append(closed(plan).num_answered)
        return peer.candidates[int(np.argmax(speeds))]

    def _wait(self, peer: Peer, target: Target) -> None:
        """Waits until a server answers its first cell."""
        give_up = time.monotonic() + _START_SECONDS
        while True:
            peer.check_alive()
            try:
                ask(self._plan(target, 1, 0.0))
                return
            except LoadFailed as error:
                if time.monotonic() > give_up:
                    said = peer.last_words()
                    raise ServerFailed(f"{error}; its log ends with: {said}") from None
            time.sleep(0.5)

    def measure_points(self, server: str, model: BenchModel, target: Target) -> None:
        """Checks a server's answer, then measures its points.

        Raises:
            LoadFailed: If it does not answer.
            ServerFailed: If its probabilities are not those of the network.
        """
        answered = np.array(ask(self._plan(target, 1, 0.0)))
        difference = float(np.abs(answered - self._reference(model)).max())
        if difference > MAX_DIFFERENCE:
            raise ServerFailed(f"its probabilities differ by {difference:.2g} from the network's")
        rows = self.report.setdefault(model.key, {})
        alone_per_second: float | None = None
        for callers in CALLERS:
            figures = point(closed(self._lasting(target, callers, alone_per_second)))
            alone_per_second = alone_per_second or figures["images_per_second"]
            rows.setdefault(str(callers), {})[server] = figures
            print(f"{model.key} {callers} {server}: {json.dumps(figures)}", flush=True)
            self.write()

    def _lasting(self, target: Target, callers: int, alone_per_second: float | None) -> Plan:
        """A plan long enough for several answers to each caller."""
        plan = self._plan(target, callers, self._windows.seconds)
        if not alone_per_second or not self._windows.pilot:
            return plan
        turn = callers / alone_per_second
        return replace(
            plan,
            warmup_seconds=min(_LONGEST_SECONDS / 2, max(plan.warmup_seconds, turn)),
            seconds=min(_LONGEST_SECONDS, max(plan.seconds, _ANSWERS_OF_A_CALLER * turn)),
        )

    def _plan(self, target: Target, callers: int, seconds: float) -> Plan:
        return Plan(
            "closed" if seconds else "ask",
            target,
            str(self.folder / "cells"),
            callers=callers,
            warmup_seconds=self._windows.warmup,
            seconds=seconds,
            timeout_seconds=_CALL_SECONDS,
        )

    def _reference(self, model: BenchModel) -> np.ndarray:
        """Probabilities of the first cell, computed in this process."""
        if model.key not in self._expected:
            cell = sorted((self.folder / "cells").glob("*.png"))[0].read_bytes()
            [row] = Network(self.folder / model.key, 1).classify([cell])
            self._expected[model.key] = np.array(row)
        return self._expected[model.key]

    def compare(self) -> None:
        """Adds our figures as ratios to the best peer's to the report."""
        tables = {key: rows for key, rows in self.report.items() if "@" in key}
        compared = {key: ratios(rows) for key, rows in tables.items()}
        self.report["comparison"] = {key: found for key, found in compared.items() if found}


def ratios(rows: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Our figures as ratios to those of the best peers.

    The p50 of one caller is compared with that of bare grpc.aio.

    Args:
        rows: Points of one network by callers and server.
    """
    found: dict[str, Any] = {}
    for callers, servers in rows.items():
        ours = servers.get(NAME)
        peers = {name: each for name, each in servers.items() if name != NAME}
        if not ours or not peers:
            continue
        best = max(each["images_per_second"] for each in peers.values())
        p99s = [each["p99_ms"] for each in peers.values() if each["p99_ms"] is not None]
        found[callers] = {
            "throughput_ratio": rounded(ratio(ours["images_per_second"], best)),
            "p99_ratio": rounded(ratio(ours["p99_ms"], min(p99s, default=None))),
        }
        bare = peers.get("grpc.aio")
        if callers == "1" and bare:
            found[callers]["p50_ratio_to_grpc_aio"] = rounded(ratio(ours["p50_ms"], bare["p50_ms"]))
    return found
