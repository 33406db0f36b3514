"""Profile of a GPU: timed calls, shares of its peak, kernels."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.generator.in_process import InProcess
from benchmarks.gpu.report import Metrics
from benchmarks.gpu.workload import Setup, Workload, idle_denoiser
from benchmarks.scaling.cost import DECODE_TFLOP, PEAK_TFLOPS, UNET_TFLOP
from services.common.images.codec import encode_image
from services.generator.engine.denoiser import Advance, Condition, Denoiser
from services.generator.engine.row_tables import EMPTY
from services.generator.engine.solver import build_solver

KERNEL_GROUPS = (
    ("attention", r"flash|fmha|attention|sdpa"),
    ("normalisation", r"norm|rowwisemoments|computefusedparams|welford"),
    ("copies", r"copy|memcpy|memset|nchwtonhwc|nhwctonchw|transpose|catarray|index|gather"),
    ("convolution", r"conv|fprop|winograd|cudnn"),
    ("matrix products", r"gemm|nvjet|cutlass|cublas|splitk|addmm|bmm|aten::mm"),
)
"""Kernels by name, the first that matches; the rest is pointwise."""

Kernels = dict[tuple[str, int], float]
"""Milliseconds by name and number of calls, longest first."""


def share_of_peak(workload: Workload, tflop: float, seconds: float) -> float | None:
    """Share of an H100's peak; None for the tiny model."""
    return tflop / seconds / PEAK_TFLOPS if workload.full_size else None


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def median_seconds(call: Callable[[], object], setup: Setup) -> tuple[float, float]:
    """Until the call returns, and until the device is done with it."""
    times = []
    for i in range(setup.workload.repeats + 2):
        synchronize(setup.device)
        started = time.perf_counter()
        call()
        returned = time.perf_counter()
        synchronize(setup.device)
        if i >= 2:  # the first two warm up
            times.append((returned - started, time.perf_counter() - started))
    launched, done = (statistics.median(part) for part in zip(*times, strict=True))
    return launched, done


def profile_step(setup: Setup, generator: InProcess, out: Path) -> Metrics:
    """Profile one step of a guided batch with ten adapters.

    ``launch_ms`` near ``ms`` means that the host cannot keep up; ``idle_ms`` is what no kernel
    fills.  Images are encoded by one thread, so ``png_ms_per_image`` bounds their rate, too.
    """
    denoiser, workload = idle_denoiser(generator), setup.workload
    bare = full_batch(denoiser, [EMPTY])
    adapted = full_batch(denoiser, denoiser.lora.adapters.filled)
    _, without = median_seconds(lambda: denoiser.step(bare), setup)
    launched, done = median_seconds(lambda: denoiser.step(adapted), setup)
    decoded = range(denoiser.decode_batch_size)
    _, decode = median_seconds(lambda: denoiser.decode(decoded).wait(), setup)
    kernels = kernel_ms(lambda: denoiser.step(adapted), setup.device)
    write_profile(out, f"one step of {denoiser.batch_rows} rows", kernels)
    write_profile(
        out, "one decoding", kernel_ms(lambda: denoiser.decode(decoded).wait(), setup.device)
    )
    groups: dict[str, float] = {}
    for (name, _), milliseconds in kernels.items():
        groups[kernel_group(name)] = groups.get(kernel_group(name), 0.0) + milliseconds
    [image] = denoiser.decode([0]).wait()
    assert image is not None
    started = time.perf_counter()
    encode_image(image)
    encode = time.perf_counter() - started
    return {
        "rows": denoiser.batch_rows,
        "ms": 1e3 * done,
        "launch_ms": 1e3 * launched,
        "without_lora_ms": 1e3 * without,
        "kernel_ms": groups,
        "idle_ms": max(0.0, 1e3 * done - sum(groups.values())),
        "share_of_peak": share_of_peak(workload, denoiser.batch_rows * UNET_TFLOP, done),
        "decode_ms_per_image": 1e3 * decode / len(decoded),
        "decode_share_of_peak": share_of_peak(
            workload, len(decoded) * DECODE_TFLOP["full"], decode
        ),
        "png_ms_per_image": 1e3 * encode,
    }


def full_batch(denoiser: Denoiser, adapters: Sequence[int]) -> list[Advance]:
    """First step of a batch of guided images with alternating adapters."""
    solver = build_solver("ddim", dict(denoiser.pipeline.scheduler.config), 50)
    prompts = denoiser.lora.prompts.filled
    timestep, matrix = float(solver.timesteps[0]), solver.steps[0]
    advances = []
    for i in range(denoiser.batch_rows // 2):
        denoiser.begin(i, i, solver.noise_scale)
        adapter, first = adapters[i % len(adapters)], 2 * i % len(prompts)
        without, with_prompt = (
            Condition(adapter, prompts[(first + j) % len(prompts)]) for j in range(2)
        )
        advances.append(Advance(i, timestep, matrix, with_prompt, without, 2.0))
    return advances


def kernel_group(name: str) -> str:
    """Group of a kernel, by its name."""
    groups = (group for group, pattern in KERNEL_GROUPS if re.search(pattern, name.lower()))
    return next(groups, "pointwise and other")


def kernel_ms(call: Callable[[], object], device: str) -> Kernels:
    """The kernels of a call; on a CPU its operators."""
    cuda = device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    synchronize(device)
    with profile(activities=activities) as recorded:
        call()
        synchronize(device)
    kind = torch.autograd.DeviceType.CUDA if cuda else torch.autograd.DeviceType.CPU
    part = "self_device_time_total" if cuda else "self_cpu_time_total"  # microseconds
    kernels = {
        (event.key, event.count): getattr(event, part) / 1e3
        for event in recorded.key_averages()
        if event.device_type == kind and not event.is_user_annotation
    }
    return dict(sorted(kernels.items(), key=lambda item: -item[1]))


def write_profile(path: Path, title: str, kernels: Kernels) -> None:
    """Add the 15 longest kernels to the text."""
    total = sum(kernels.values())
    lines = [f"{title}: {total:.2f} ms in {len(kernels)} kinds of kernels", ""]
    lines += [
        f"{ms:9.3f} ms {ms / total:6.1%} {count:5d} calls  {kernel_group(name):20} {name[:120]}"
        for (name, count), ms in list(kernels.items())[:15]
    ]
    with path.open("a") as file:
        file.write("\n".join([*lines, "", ""]))
