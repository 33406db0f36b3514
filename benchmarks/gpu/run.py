"""Throughput of one GPU with Stable Diffusion 2.1-base at 512 px.

    python -m benchmarks.gpu.run [--out out/bench] [--minutes 8]      # on a CUDA device
    python -m benchmarks.gpu.run --tiny                               # on a CPU, in seconds

Figures are in ``gpu.json`` as soon as their section ends; a section that failed, or had no time
left, says so there, and the exit status is 1.  Sections of the compiled engine also say how often
``torch.compile`` compiled again.  ``gpu-profile.txt`` lists the kernels that a step spends most
on.  Plain diffusers makes images and our rates include writing them as PNG, which favours it.

Needs no Ray, gRPC or network: beside torch (2.11 is enough) and torchvision only accelerate,
diffusers, fsspec, imagehash, numpy, peft, pillow, pydantic-settings, safetensors, scipy,
sqlalchemy, transformers, and what those need themselves.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import diffusers
import torch

from benchmarks.generator.recompiles import RecompileCounter
from benchmarks.gpu.profile import profile_step
from benchmarks.gpu.report import Metrics, Report
from benchmarks.gpu.sections import (
    build,
    exactness,
    first_image,
    plain_diffusers,
    start,
    throughput,
)
from benchmarks.gpu.workload import FULL, NUM_ADAPTERS, TINY, Setup, Workload
from benchmarks.scaling.cost import DECODE_TFLOP, PEAK_TFLOPS, UNET_TFLOP

Section = tuple[str, Callable[[], Metrics]]


def measure(report: Report, setup: Setup, profile_path: Path) -> None:
    """All sections; the engine's only if the base could be built."""
    if report.section("build", partial(build, setup)) is None:
        return
    report.section("diffusers", partial(plain_diffusers, setup))
    measure_engine(report, setup, False, profile_path)
    if setup.workload.full_size:
        measure_engine(report, setup, True, profile_path)


def measure_engine(report: Report, setup: Setup, compiled: bool, profile_path: Path) -> None:
    """All sections of one engine; nothing more where it does not start."""
    mode, workload = "compiled" if compiled else "eager", setup.workload
    generator = setup.new_generator(compiled)
    sections: list[Section] = [("exactness", partial(exactness, generator))]
    for preset in ("paper", "fast", "balanced", "draft"):
        for label, num in (("one", 1), ("ten", NUM_ADAPTERS)):
            name = f"{preset}.{label}"
            sections.append((name, partial(throughput, generator, workload, preset, num)))
    sections.append(("first_image", partial(first_image, generator, workload)))
    sections.append(("step", partial(profile_step, setup, generator, profile_path)))
    with RecompileCounter() as recompiles:

        def measured(call: Callable[[], Metrics]) -> Metrics:
            before = recompiles.count
            metrics = call()
            return metrics | ({"recompiles": recompiles.count - before} if compiled else {})

        if report.section(f"{mode}.start", partial(measured, partial(start, generator))) is None:
            return
        with profile_path.open("a") as file:
            file.write(f"== {mode} ==\n\n")
        for name, call in sections:
            report.section(f"{mode}.{name}", partial(measured, call))
    for engine in generator.renderer.engines:
        engine.close()


def describe(workload: Workload, device: str) -> Metrics:
    """Header of the report: model, device and versions."""
    return {
        "architecture": "Stable Diffusion 2.1-base, 512 px" if workload.full_size else "tiny",
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "dtype": workload.dtype,
        "num_slots": workload.num_slots,
        "tflop": {"unet": UNET_TFLOP, "decode": DECODE_TFLOP, "peak_per_second": PEAK_TFLOPS},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure everything; 1 if something could not be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "out/bench")))
    parser.add_argument("--minutes", type=float, default=8.0, help="for all, imports included")
    parser.add_argument("--slots", type=int, help="rows of the engine's batch")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, on the CPU, eager")
    args = parser.parse_args(arguments)
    workload = TINY if args.tiny else FULL
    workload = replace(workload, num_slots=args.slots or workload.num_slots)
    device = "cpu" if args.tiny else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --tiny runs without")
    profile_path = args.out / "gpu-profile.txt"
    args.out.mkdir(parents=True, exist_ok=True)
    profile_path.write_text("")
    # 5% of the time is for imports.
    report = Report(args.out / "gpu.json", 0.95 * 60 * args.minutes, describe(workload, device))
    try:
        with tempfile.TemporaryDirectory() as folder:
            measure(report, Setup(Path(folder), workload, device), profile_path)
    finally:
        report.close()
    return int(report.failed)


if __name__ == "__main__":
    raise SystemExit(main())
