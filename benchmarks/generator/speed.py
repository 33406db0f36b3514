"""Speed of the generator through gRPC, in process, and of today's script."""

from __future__ import annotations

import itertools
import os
import statistics
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.generator.diffusers_baseline import DTYPES, BaselineScript
from benchmarks.generator.in_process import (
    BASE,
    MODELS,
    Engines,
    InProcess,
    preset_on_base,
    store_adapters,
)
from benchmarks.generator.recompiles import RecompileCounter
from cytosynth.client import Client, SynthesisSettings
from cytosynth.client import SamplerSettings as ClientSampler
from cytosynth.stack import stack as local_stack
from services.common.store.artifacts import ArtifactStore
from services.generator.presets import PRESETS

SCRIPT = "script"
NUM_PER_CLASS = {"paper": 48, "fast": 960, "draft": 960, "balanced": 480}
"""Images of each class in a slice, whose ends then hardly count."""


def measure_speed(
    state_dir: Path, files: dict[str, bytes], direct: Engines, num_rounds: int
) -> dict[str, Any]:
    """Speed of a local stack, client included, and of the script."""
    class_ids = list(files)
    os.environ["CYTOSYNTH_STORE_URI"] = f"file://{state_dir}/store"
    os.environ["CYTOSYNTH_DATABASE_URL"] = f"sqlite:///{state_dir}/jobs.db"
    store_adapters(ArtifactStore(os.environ["CYTOSYNTH_STORE_URI"]), BASE, files)
    some = dict(itertools.islice(files.items(), 2))
    scripts = {
        f"{dtype}, {threads} threads": BaselineScript(MODELS / BASE, some, dtype, threads)
        for dtype in DTYPES
        for threads in (1, os.cpu_count() or 1)
    }
    info = local_stack.up(0, state_dir=state_dir, timeout_seconds=600.0)
    try:
        with Client(info.address) as client:
            list(
                client.synthesize({class_ids[0]: 1}, SynthesisSettings("adapters/bench"))
            )  # kernels
            ten = [mixed_request(class_ids, 48, i) for i in range(10)]
            many = [mixed_request(class_ids, 96, i) for i in range(10)]
            images_per_second(client, many)  # loads the adapters, on every replica
            slices: dict[str, Callable[[], float]] = {
                f"{SCRIPT} {name}": script.images_per_second for name, script in scripts.items()
            }
            for name, num in NUM_PER_CLASS.items():
                wanted = [request(class_ids[:2], num, name)]
                slices[name] = partial(images_per_second, client, wanted)
            one = [mixed_request(class_ids, 480, 0)]
            counts, balanced = (
                dict.fromkeys(class_ids[:2], NUM_PER_CLASS["balanced"]),
                preset_on_base("balanced"),
            )
            slices |= {
                "balanced in process": partial(direct.images_per_second, counts, balanced),
                "one adapter": partial(images_per_second, client, one),
                "ten adapters": partial(images_per_second, client, ten),
            }
            rounds = [take_turns(slices) for _ in range(num_rounds)]
            idle = timed("first image, idle", lambda: first_image_seconds(client, class_ids[1]))
            loaded = timed("first image, loaded", lambda: first_image_under_load(client, class_ids))
    finally:
        local_stack.down(state_dir=state_dir)
    return summary(rounds) | {
        "time_to_first_image_idle_s": idle,
        "time_to_first_image_loaded_s": loaded,
        "time_to_first_image_ratio": loaded / idle,
    }


def take_turns(slices: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Images per second of every slice, one after the other."""
    return {name: timed(name, measure) for name, measure in slices.items()}


def summary(rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Median ratios over the rounds, to the script's fastest form."""
    rates = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
    script = max((n for n in rates if n.startswith(SCRIPT)), key=rates.__getitem__)

    def ratio(name: str, to: str) -> float:
        return statistics.median(r[name] / r[to] for r in rounds)

    return {
        "rounds": rounds,
        "seed_recipe_images_per_second": rates[script],
        "seed_recipe": script,
        "images_per_second": {name: rates[name] for name in PRESETS},
        "same_steps_ratio": ratio("paper", script),
        "balanced_ratio": ratio("balanced", script),
        "fast_ratio": ratio("fast", script),
        "draft_ratio": ratio("draft", script),
        "mixed_adapter_ratio": ratio("ten adapters", "one adapter"),
        "in_process_images_per_second": rates["balanced in process"],
        "grpc_overhead": 1 - ratio("balanced", "balanced in process"),
    }


def images_per_second(client: Client, requests: list[dict[str, Any]]) -> float:
    """Rate of requests that run at once, until the last image."""
    counts = [0] * len(requests)

    def pull(i: int) -> None:
        counts[i] = sum(1 for _ in client.synthesize(**requests[i]))

    threads = [threading.Thread(target=pull, args=(i,)) for i in range(len(requests))]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wanted = sum(sum(request["class_counts"].values()) for request in requests)
    if sum(counts) != wanted:
        raise RuntimeError(f"{sum(counts)} of {wanted} images came")
    return wanted / (time.monotonic() - started)


def first_image_seconds(client: Client, class_id: str, repeats: int = 5) -> float:
    """Median time from asking for one image to having it."""
    times = []
    for seed in range(repeats):
        started = time.monotonic()
        list(client.synthesize({class_id: 1}, SynthesisSettings("adapters/bench", seed=seed)))
        times.append(time.monotonic() - started)
    return statistics.median(times)


def first_image_under_load(client: Client, class_ids: list[str]) -> float:
    """Median time to one image while a job of 5,000 images runs."""
    bulk = client.synthesize({class_ids[0]: 5_000}, SynthesisSettings("adapters/bench", seed=99))
    stop = threading.Event()
    thread = threading.Thread(
        target=lambda: [None for _ in itertools.takewhile(lambda _: not stop.is_set(), bulk)]
    )
    next(bulk)
    thread.start()
    try:
        return first_image_seconds(client, class_ids[1])
    finally:
        stop.set()
        thread.join()


def adapter_switch(files: dict[str, bytes]) -> dict[str, float]:
    """Milliseconds to give a batch another resident adapter, and recompiles."""
    generator = InProcess()
    store_adapters(generator.store, BASE, files)
    plans = [
        generator.plan({next(iter(files)): 4}, preset_on_base("fast"), BASE, f"bench{i}")
        for i in range(2)
    ]
    generator.generate(plans)
    with RecompileCounter() as recompiles:
        for plan in plans:
            generator.generate([plan])
    [engine] = generator.renderer.engines
    lora, batch_rows = engine.denoiser.lora, engine.denoiser.batch_rows
    times, adapters, prompt = [], lora.adapters.filled, lora.prompts.filled[0]
    with torch.inference_mode():
        for i in range(20):
            started = time.monotonic()
            lora.select([adapters[i % 2]] * batch_rows, [prompt] * batch_rows)
            times.append(time.monotonic() - started)
    return {"adapter_switch_ms": 1e3 * statistics.median(times), "recompiles": recompiles.count}


def request(class_ids: list[str], num_per_class: int, preset: str) -> dict[str, Any]:
    """Arguments of ``Client.synthesize``: a few classes, each with its own adapter."""
    counts = dict.fromkeys(class_ids, num_per_class)
    settings = SynthesisSettings("adapters/bench", seed=1, sampler=ClientSampler(preset))
    return {"class_counts": counts, "settings": settings}


def mixed_request(class_ids: list[str], num_images: int, i: int) -> dict[str, Any]:
    """Arguments of ``Client.synthesize``: images of one adapter of ten."""
    counts = {class_ids[0]: num_images}
    settings = SynthesisSettings(f"adapters/bench{i}", seed=i, sampler=ClientSampler("fast"))
    return {"class_counts": counts, "settings": settings}


def timed(label: str, measure: Callable[[], Any]) -> Any:
    """Measure, and say what came out."""
    started = time.monotonic()
    value = measure()
    shown = f"{value:.3f}" if isinstance(value, float) else value
    print(f"{label}: {shown}  ({time.monotonic() - started:.0f} s)", flush=True)
    return value
