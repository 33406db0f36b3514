"""The classifier over the wire beside other model servers, and under overload.

    python -m benchmarks.classifier.run            # make bench-classifier

Every server answers single PNG cells with the same random weights on the same two cores, one
server after the other. Callers wait for their answers; the load generator is a process of its own.
Peers run with one and two threads and workers, and the fastest settings at 16 callers are
measured. A peer that cannot run is left out, and its error quoted. Writes
``out/bench/classifier.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.classifier.comparison import Comparison, Windows
from benchmarks.classifier.load.process import LoadFailed
from benchmarks.classifier.models import (
    MODELS,
    BenchModel,
    commit_artifact,
    write_cells,
    write_model,
    write_models_dir,
)
from benchmarks.classifier.overload import NORMAL_LOAD, QUICK, Lengths, overload
from benchmarks.classifier.servers.bare_grpc import BareGrpc
from benchmarks.classifier.servers.base import REPOSITORY, Peer, ServerFailed
from benchmarks.classifier.servers.bento_ml import BentoML
from benchmarks.classifier.servers.lit_serve import LitServe
from benchmarks.classifier.servers.openvino import OpenVinoModelServer
from benchmarks.classifier.servers.our_stack import NAME, OurStack, running_stack
from benchmarks.classifier.servers.py_triton import PyTriton
from benchmarks.classifier.servers.ray_serve import RayServe
from benchmarks.classifier.soak import soak
from benchmarks.scaling.run import machine
from services.common.resource_names import CLASSIFIERS, build

PEERS: tuple[type[Peer], ...] = (
    BareGrpc,
    RayServe,
    LitServe,
    BentoML,
    PyTriton,
    OpenVinoModelServer,
)
NUM_CORES = 2
OVERLOADED = MODELS[0]
_SECOND_VERSION = f"{OVERLOADED.artifact_id}-second"


def main() -> None:
    """Measure everything, write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/bench/classifier.json"))
    parser.add_argument("--quick", action="store_true", help="short windows, to see that it runs")
    parser.add_argument("--models", default="", help="such as resnet18@64,clip@224; else all")
    parser.add_argument("--servers", default="", help="such as cytosynth,grpc.aio; else all")
    parser.add_argument("--seconds", type=float, default=6.0, help="counted window of a point")
    parser.add_argument("--soak-minutes", type=float, default=0.0, help="minutes at 80 %% load")
    parser.add_argument("--no-overload", action="store_true", help="leave overload out")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # servers are ended on the way out
    _stay_on_cores(NUM_CORES)
    windows = Windows(0.5, 1.0, 0.0) if args.quick else Windows(2.0, args.seconds, 3.0)
    models = [model for model in MODELS if not args.models or model.key in args.models.split(",")]
    names = args.servers.split(",") if args.servers else [NAME, *(peer.name for peer in PEERS)]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-classifier-") as name:
        folder = Path(name)
        comparison = Comparison(folder, windows, args.out)
        comparison.report |= {
            "machine": f"{machine()}; {NUM_CORES} of them used",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "load_average_at_start": os.getloadavg()[0],
            "quick": args.quick,
        }
        _prepare(folder, models)
        for peer in PEERS:
            if peer.name in names:
                for model in models[:1] if args.quick else models:
                    comparison.measure_peer(peer(), model)
        if NAME in names:
            _measure_ours(comparison, models, args)
        comparison.compare()
        comparison.write()
    print(json.dumps(comparison.report.get("comparison"), indent=1))
    print(f"wrote {args.out}")


def _prepare(folder: Path, models: list[BenchModel]) -> None:
    """Writes cells, networks and the store of our stack."""
    print("writing cells and networks", flush=True)
    write_cells(folder / "cells")
    with_clip = any(model.architecture == "clip" for model in models)
    write_models_dir(folder / "models", REPOSITORY / "models", with_clip)
    (folder / "logs").mkdir()
    store_uri = f"file://{folder}/state/store"
    for model in dict.fromkeys((OVERLOADED, *models)):
        write_model(model, folder / model.key, folder / "models")
        commit_artifact(folder / model.key, store_uri, model.artifact_id)
    write_model(OVERLOADED, folder / "second", folder / "models", seed=1)
    commit_artifact(folder / "second", store_uri, _SECOND_VERSION)


def _measure_ours(
    comparison: Comparison, models: list[BenchModel], args: argparse.Namespace
) -> None:
    folder = comparison.folder
    try:
        with running_stack(folder / "state", folder / "models") as stack:
            for model in models:
                target = stack.target(build(CLASSIFIERS, model.artifact_id))
                try:
                    comparison.measure_points(NAME, model, target)
                except (ServerFailed, LoadFailed) as error:
                    comparison.failed(NAME, model.key, error)
            if not args.no_overload:
                _measure_load(comparison, stack, args)
    except (ServerFailed, LoadFailed) as error:
        comparison.failed(NAME, "", error)


def _measure_load(comparison: Comparison, stack: OurStack, args: argparse.Namespace) -> None:
    folder = comparison.folder
    first, second = build(CLASSIFIERS, OVERLOADED.artifact_id), build(CLASSIFIERS, _SECOND_VERSION)
    lengths = QUICK if args.quick else Lengths()
    report = comparison.report
    report["overload"] = overload(stack.target(first), folder / "cells", lengths)
    print(json.dumps(report["overload"], indent=1), flush=True)
    comparison.write()
    if args.soak_minutes or args.quick:
        seconds = 60.0 * args.soak_minutes or 12.0
        rate = NORMAL_LOAD * report["overload"]["capacity_images_per_second"]
        switch_seconds = 4.0 if args.quick else 30.0
        report["soak"] = soak(
            stack, (first, second), folder / "cells", rate, seconds, switch_seconds
        )
        print(json.dumps(report["soak"], indent=1), flush=True)
        comparison.write()


def _stay_on_cores(num: int) -> None:
    """Keeps this process and all that it starts on the first cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num])


if __name__ == "__main__":
    main()
