"""Sections of the GPU benchmark's report, a function each."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from benchmarks.generator.in_process import InProcess, pixels
from benchmarks.gpu.profile import median_seconds, share_of_peak
from benchmarks.gpu.report import Metrics
from benchmarks.gpu.workload import (
    CLASS_ID,
    NUM_ADAPTERS,
    Setup,
    Workload,
    generate,
    idle_denoiser,
    make_request,
    preset_on_base,
)
from benchmarks.scaling.cost import UNET_TFLOP, tflop_per_image
from cytosynth.cell_classes import class_prompt
from services.common.models.lora import WEIGHTS_FILE
from services.generator.engine.solver import build_scheduler
from services.generator.presets import PRESETS

DIFFUSERS_BATCH_SIZE = 10


def build(setup: Setup) -> Metrics:
    """Write the base and adapters; time the bare UNet."""
    pipeline = setup.save_base()
    metrics = bare_unet(setup, pipeline.unet.to(memory_format=torch.channels_last))
    setup.add_adapters(pipeline)
    return metrics


@torch.inference_mode()
def bare_unet(setup: Setup, unet: UNet2DConditionModel) -> Metrics:
    """Milliseconds of one evaluation, by batch size."""
    workload, device, dtype = setup.workload, setup.device, unet.dtype
    metrics: Metrics = {}
    for batch_size in workload.batch_sizes:
        shape = (unet.config.in_channels, *[unet.config.sample_size] * 2)
        noise = torch.randn(batch_size, *shape, device=device, dtype=dtype)
        noise = noise.contiguous(memory_format=torch.channels_last)
        prompts = (workload.num_tokens, unet.config.cross_attention_dim)
        tokens = torch.randn(batch_size, *prompts, device=device, dtype=dtype)
        timesteps = torch.full((batch_size,), 500.0, device=device)
        launched, done = median_seconds(partial(unet, noise, timesteps, tokens), setup)
        metrics[f"unet_of_{batch_size}"] = {
            "ms": 1e3 * done,
            "launch_ms": 1e3 * launched,
            "share_of_peak": share_of_peak(workload, batch_size * UNET_TFLOP, done),
        }
    return metrics


def plain_diffusers(setup: Setup) -> Metrics:
    """Time plain diffusers with one adapter, ten images at a time."""
    paper = PRESETS["paper"]
    pipeline = StableDiffusionPipeline.from_pretrained(
        setup.base_folder, dtype=getattr(torch, setup.workload.dtype), safety_checker=None
    ).to(setup.device)
    pipeline.scheduler = build_scheduler(paper.scheduler, dict(pipeline.scheduler.config))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / WEIGHTS_FILE).write_bytes(setup.adapter_files[0])
        pipeline.load_lora_weights(folder, weight_name=WEIGHTS_FILE)
    pipeline.set_progress_bar_config(disable=True)
    prompts = [class_prompt(CLASS_ID)] * DIFFUSERS_BATCH_SIZE

    def images_per_second(num_steps: int) -> float:
        started = time.perf_counter()
        pipeline(prompts, num_inference_steps=num_steps, guidance_scale=paper.guidance_scale)
        return DIFFUSERS_BATCH_SIZE / (time.perf_counter() - started)

    images_per_second(2)  # warms up
    rate = statistics.mean(images_per_second(paper.num_steps) for _ in range(2))
    share = share_of_peak(setup.workload, tflop_per_image(paper), 1 / rate)
    return {"images_per_second": rate, "share_of_peak": share}


def start(generator: InProcess) -> Metrics:
    """Load the base and all adapters; prove that bits are equal.

    The first proof is of the bare base, the second with the first adapter's layers.
    """
    generate(generator, [make_request(generator, "fast", 1, i) for i in range(NUM_ADAPTERS)])
    return {"batch_sizes": str(idle_denoiser(generator).exact_batch_rows)}


def exactness(generator: InProcess) -> Metrics:
    """Compare an image sampled alone and among nine other adapters."""
    wanted = make_request(generator, "balanced", 1, 0, seed=7)
    others = [make_request(generator, p, 2, i) for i in range(1, NUM_ADAPTERS) for p in PRESETS]
    alone = pixels(generate(generator, [wanted])[0])
    among = pixels(generate(generator, [*others, wanted])[-1])
    other_request = make_request(generator, "balanced", 1, 1, seed=7)
    other_adapter = pixels(generate(generator, [other_request])[0])
    difference = int(np.abs(alone.astype(int) - among).max())
    if difference:
        raise AssertionError(f"among others an image differs by up to {difference} of 255")
    clipped = float(np.isin(alone, (0, 255)).mean())
    changed = float((alone != other_adapter).mean())
    if clipped > 0.5 or changed < 0.1:
        raise AssertionError(f"equality proves nothing: {clipped=:.2f}, {changed=:.2f} by adapter")
    return {"bit_identical": True, "num_others": 2 * len(others), "changed_by_adapter": changed}


def throughput(generator: InProcess, workload: Workload, preset: str, num_adapters: int) -> Metrics:
    """Images per second of requests at once, until the last PNG."""
    each = workload.num_images[preset] // num_adapters
    plans = [make_request(generator, preset, each, i, seed=1) for i in range(num_adapters)]
    started = time.perf_counter()
    rate = len(generate(generator, plans)) / (time.perf_counter() - started)
    share = share_of_peak(workload, tflop_per_image(preset_on_base(generator, preset)), 1 / rate)
    return {"images_per_second": rate, "share_of_peak": share}


def first_image(generator: InProcess, workload: Workload) -> Metrics:
    """Seconds to one image of the default preset, idle and loaded."""

    def latency(seed: int) -> float:
        started = time.perf_counter()
        generate(generator, [make_request(generator, "balanced", 1, 1, seed, interactive=True)])
        return time.perf_counter() - started

    idle = statistics.median(latency(seed) for seed in range(5))
    bulk = [make_request(generator, "paper", workload.num_images["paper"] // 2, 0, seed=2)]
    load = threading.Thread(target=generate, args=(generator, bulk))
    load.start()
    time.sleep(idle)
    loaded = latency(9)
    was_loaded = load.is_alive()
    load.join()
    return {"idle_seconds": idle, "loaded_seconds": loaded, "load_lasted": was_loaded}
