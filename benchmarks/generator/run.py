"""How fast the generator is: against the script that people run today, through gRPC.

    python -m benchmarks.generator.run            # make bench-generator

One run on one machine writes every figure and ratio to ``--out``.  What is compared takes turns in
slices of seconds, and a ratio is the median over the rounds: a machine that slows down meanwhile
flatters nobody.  Script (``benchmarks.generator.diffusers_baseline``) and ours draw
cyto-small with LoRA adapters as the trainer's default recipe makes them (attention, convolutions
and projections, rank 16); their weights are random and small, as only their cost counts here.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.generator.diffusers_baseline import DTYPES, SeedRecipe
from benchmarks.generator.in_process import MODELS, Engines, InProcess, pixels, store_adapters
from benchmarks.generator.preset_quality import (
    LabelledImage,
    compare_arms,
    downstream_macro_f1,
    phantom_tests,
    unseen_tests,
)
from benchmarks.generator.recompiles import RecompileCounter
from cytosynth.client import Client, SynthesisSettings
from cytosynth.client import SamplerSettings as ClientSampler
from cytosynth.stack import stack as local_stack
from services.common.models.diffusion_bases import load_pipeline, resolve_base
from services.common.models.lora import add_lora, lora_file
from services.common.store.artifacts import ArtifactStore
from services.generator.presets import PRESETS, SamplerSettings, preset_of
from services.trainer.adapters.recipe import AdapterSettings
from services.trainer.evaluation.metrics import Predictions

BASE = "cyto-small"
SCRIPT = "script"
NUM_PER_CLASS = {"paper": 48, "fast": 960, "draft": 960, "balanced": 480}
"""Images of each of two classes in a slice: enough that its beginning and end hardly count."""
TEST_PER_CLASS = 200
"""Real cells at most that a classifier is tested on."""
NUM_STEPS = 160
"""Optimizer steps of a classifier."""
LORA_SCALE = 1e-3
"""Standard deviation of the adapters' B matrices: they hardly change an image."""


def of_base(name: str) -> SamplerSettings:
    """The preset as ``BASE`` draws it."""
    return preset_of(name, resolve_base(BASE, MODELS))


def make_adapters(class_ids: list[str]) -> dict[str, bytes]:
    """One LoRA file per class."""
    pipeline = load_pipeline(resolve_base(BASE, MODELS))
    parameters = add_lora(pipeline, AdapterSettings().lora, seed=0)
    generator = torch.Generator().manual_seed(1)
    files = {}
    for class_id in class_ids:
        for name, parameter in parameters.items():
            if ".lora_B." in name:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.data.copy_(noise * LORA_SCALE)
        files[class_id] = lora_file(pipeline)
    return files


def images_per_second(client: Client, requests: list[dict[str, Any]]) -> float:
    """Of requests that run at once, from the first byte sent to the last image received."""
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
    """The same while a job of 5,000 images runs."""
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
    """Milliseconds to point a whole batch at another resident adapter; recompiles that follow."""
    studio = InProcess()
    store_adapters(studio.store, BASE, files)
    plans = [
        studio.plan({next(iter(files)): 4}, of_base("fast"), BASE, f"bench{i}") for i in range(2)
    ]
    studio.draw(plans)
    with RecompileCounter() as recompiles:
        for plan in plans:
            studio.draw([plan])
    [engine] = studio.renderer.engines
    lora, batch_rows = engine.denoiser.lora, engine.denoiser.batch_rows
    times, adapters, prompt = [], lora.adapters.filled, lora.prompts.filled[0]
    with torch.inference_mode():
        for i in range(20):
            started = time.monotonic()
            lora.select([adapters[i % 2]] * batch_rows, [prompt] * batch_rows)
            times.append(time.monotonic() - started)
    return {"adapter_switch_ms": 1e3 * statistics.median(times), "recompiles": recompiles.count}


def quality(
    direct: Engines,
    class_ids: list[str],
    per_class: int,
    data: Path | None,
    draws: int,
    seeds: int,
) -> dict[str, Any]:
    """Macro-F1 of classifiers that learned from each preset's images, and the difference.

    All presets draw from the same noise; each draw is another one, and teaches ``seeds``
    classifiers a preset.
    """
    if data:
        class_ids = [class_id for class_id in class_ids if (data / class_id).is_dir()]
        test = unseen_tests(data, class_ids, TEST_PER_CLASS, BASE)
    else:
        test = phantom_tests(class_ids, 40)
    counts = dict.fromkeys(class_ids, per_class)
    names = sorted(PRESETS, key="paper".__ne__)  # that one first
    runs: dict[str, list[Predictions]] = {name: [] for name in names}
    nearness: dict[str, list[float]] = {name: [] for name in names}
    spawn = get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), spawn, torch.set_num_threads, (1,)) as pool:
        for draw in range(draws):
            paper: list[np.ndarray] = []
            for name in names:
                images = direct.draw(counts, of_base(name), draw=draw)
                learned: list[LabelledImage] = [(pixels(i), i.class_id) for i in images]
                paper = paper or [image for image, _ in learned]
                nearness[name] += [psnr(a, b) for a, (b, _) in zip(paper, learned, strict=True)]
                tasks = [
                    pool.submit(downstream_macro_f1, learned, test, draw * seeds + seed, NUM_STEPS)
                    for seed in range(seeds)
                ]
                for task in tasks:
                    answers, macro_f1 = task.result()
                    runs[name].append(answers)
                    print(f"draw {draw}, {name}: macro-F1 {macro_f1:.3f}", flush=True)
    compared = {name: asdict(arm) for name, arm in compare_arms(runs, "paper").items()}
    for name in names[1:]:
        compared[name]["psnr_to_paper_db"] = statistics.mean(nearness[name])
    return compared


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio, dB, of two uint8 images; of equal ones as if they were not."""
    error = np.square(a.astype(float) - b).mean()
    return float(10 * np.log10(255**2 / max(error, 1 / a.size)))


def timed(label: str, measure: Callable[[], Any]) -> Any:
    """Measure, and say what came out."""
    started = time.monotonic()
    value = measure()
    shown = f"{value:.3f}" if isinstance(value, float) else value
    print(f"{label}: {shown}  ({time.monotonic() - started:.0f} s)", flush=True)
    return value


def main() -> None:
    """Measure everything, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="real cells to test on; else phantoms")
    parser.add_argument("--per-class", type=int, default=60, help="images that teach, per class")
    parser.add_argument("--draws", type=int, default=3, help="of cells, for each preset")
    parser.add_argument("--seeds", type=int, default=2, help="classifiers per draw and preset")
    parser.add_argument("--rounds", type=int, default=3, help="turns that script and ours take")
    parser.add_argument("--replicas", type=int, default=os.cpu_count() or 1, help="of ours")
    parser.add_argument("--no-quality", action="store_true", help="train no classifiers")
    parser.add_argument("--slots", type=int, default=32, help="of each of them")
    parser.add_argument("--decode-batch", type=int, default=8, help="images decoded together")
    parser.add_argument("--eager", action="store_true", help="ours without torch.compile")
    parser.add_argument("--out", type=Path, default=Path("out/bench/generator.json"))
    args = parser.parse_args()
    # A replica per core: that a step's threads wait for each other costs more than they gain.
    os.environ["CYTOSYNTH_GENERATOR_NUM_THREADS"] = "1"
    os.environ["CYTOSYNTH_GENERATOR_MIN_REPLICAS"] = str(args.replicas)
    os.environ["CYTOSYNTH_GENERATOR_MAX_REPLICAS"] = str(args.replicas)
    os.environ["CYTOSYNTH_GENERATOR_NUM_SLOTS"] = str(args.slots)
    os.environ["CYTOSYNTH_GENERATOR_DECODE_BATCH_SIZE"] = str(args.decode_batch)
    os.environ["CYTOSYNTH_GENERATOR_COMPILE"] = str(not args.eager)
    base = resolve_base(BASE, MODELS)
    assert base.class_ids is not None
    class_ids = list(base.class_ids)[:10]
    files = make_adapters(class_ids)
    report: dict[str, Any] = {
        "hardware": f"{platform.machine()} CPU, {os.cpu_count()} cores",
        "num_replicas": args.replicas,
        "num_slots": args.slots,
        "decode_batch_size": args.decode_batch,
        "compiled": not args.eager,
        "presets": {name: asdict(of_base(name)) for name in PRESETS},
    }
    with Engines(args.replicas, BASE, files) as direct:
        with tempfile.TemporaryDirectory() as folder:
            report |= measure_speed(Path(folder), files, direct, args.rounds)
        report |= timed("switch", lambda: adapter_switch(files))
        if not args.no_quality:
            report["quality"] = quality(
                direct, list(base.class_ids), args.per_class, args.data, args.draws, args.seeds
            )
            report["quality_tested_on"] = str(args.data.name if args.data else "phantoms")
    report["runs"] = [
        {
            "hardware": report["hardware"],
            "base": BASE,
            "preset": name,
            "images_per_second": report["images_per_second"][name],
        }
        for name in PRESETS
    ]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({k: v for k, v in report.items() if isinstance(v, float)}, indent=1))


def measure_speed(
    state_dir: Path, files: dict[str, bytes], direct: Engines, num_rounds: int
) -> dict[str, Any]:
    """Figures of a local stack of our own, client included, and of the script beside it."""
    class_ids = list(files)
    os.environ["CYTOSYNTH_STORE_URI"] = f"file://{state_dir}/store"
    os.environ["CYTOSYNTH_DATABASE_URL"] = f"sqlite:///{state_dir}/jobs.db"
    store_adapters(ArtifactStore(os.environ["CYTOSYNTH_STORE_URI"]), BASE, files)
    some = dict(itertools.islice(files.items(), 2))
    scripts = {
        f"{dtype}, {threads} threads": SeedRecipe(MODELS / BASE, some, dtype, threads)
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
                of_base("balanced"),
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
    """Ratios within each round, then their median; the script counts in its fastest form."""
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


if __name__ == "__main__":
    main()
