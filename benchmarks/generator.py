"""How fast the generator is: against the script that people run today, through gRPC.

    python -m benchmarks.generator            # make bench-generator

One run on one machine writes every figure and ratio to ``--out``; the script is measured before
and after ours, so that a machine that slows down meanwhile does not flatter either.  Both draw
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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.in_process import InProcess, pixels
from benchmarks.sampler_quality import (
    LabelledImage,
    compare_arms,
    downstream_macro_f1,
    phantom_tests,
    unseen_tests,
)
from cytosynth import local_stack
from cytosynth.client import Client
from services.common.artifact_store import ArtifactStore
from services.common.bases import load_pipeline, resolve_base
from services.common.cell_classes import class_prompt
from services.common.lora import WEIGHTS_FILE, add_lora, lora_file
from services.generator.synthesize import PRESETS
from services.trainer.adapter_recipe import AdapterSettings

BASE = "cyto-small"
MODELS = Path("models")
SCRIPT_BATCH = 10
LORA_SCALE = 1e-3
"""Standard deviation of the adapters' B matrices: they hardly change an image."""


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


def store_adapters(store: ArtifactStore, files: dict[str, bytes]) -> None:
    """``bench``: one adapter per class; ``bench0`` …: each of them for all classes."""
    class_ids = list(files)
    base = {"base": BASE, "base_revision": resolve_base(BASE, MODELS).revision}
    draft = store.new_draft("local", "adapters", "bench")
    for class_id, data in files.items():
        draft.write(f"{class_id}/{WEIGHTS_FILE}", data)
    draft.commit({**base, "body": {"layout": "per_class", "class_ids": class_ids}})
    for i, data in enumerate(files.values()):
        draft = store.new_draft("local", "adapters", f"bench{i}")
        draft.write(f"shared/{WEIGHTS_FILE}", data)
        draft.commit({**base, "body": {"layout": "shared", "class_ids": class_ids}})


def run_script(files: dict[str, bytes], per_class: int, dtype: torch.dtype) -> float:
    """The script that people run today; images per second, loading included."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    paper = PRESETS["paper"]
    started, num_images = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for class_id, data in files.items():
            out = Path(folder) / class_id
            out.mkdir()
            (out / WEIGHTS_FILE).write_bytes(data)
            pipeline = StableDiffusionPipeline.from_pretrained(
                MODELS / BASE, dtype=dtype, safety_checker=None, use_safetensors=True
            )
            pipeline.scheduler = DDIMScheduler.from_config(
                pipeline.scheduler.config, clip_sample=False
            )
            pipeline.load_lora_weights(out, weight_name=WEIGHTS_FILE)
            pipeline.set_progress_bar_config(disable=True)
            for start in range(0, per_class, SCRIPT_BATCH):
                batch = pipeline(
                    [class_prompt(class_id)] * min(SCRIPT_BATCH, per_class - start),
                    num_inference_steps=paper.num_steps,
                    guidance_scale=paper.guidance_scale,
                    generator=torch.Generator().manual_seed(start),
                )
                for i, image in enumerate(batch.images):
                    image.save(out / f"{start + i}.png")
                    num_images += 1
    return num_images / (time.monotonic() - started)


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
        list(client.synthesize({class_id: 1}, adapter="adapters/bench", seed=seed))
        times.append(time.monotonic() - started)
    return statistics.median(times)


def first_image_under_load(client: Client, class_ids: list[str]) -> float:
    """The same while a job of 5,000 images runs."""
    bulk = client.synthesize({class_ids[0]: 5_000}, adapter="adapters/bench", seed=99)
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
    """Milliseconds to point a whole batch at another resident adapter, and kernels rebuilt."""
    studio = InProcess()
    store_adapters(studio.store, files)
    plans = [
        studio.plan({next(iter(files)): 4}, PRESETS["fast"], BASE, f"bench{i}") for i in range(2)
    ]
    studio.draw(plans)
    [engine] = studio.drawer.engines
    sampler = engine._sampler
    structure, num_rows = sampler.lora.structure, sampler.num_rows
    times = []
    with torch.inference_mode():
        for i in range(20):
            started = time.monotonic()
            sampler.lora.select([1 + i % 2] * num_rows, [1] * num_rows)
            times.append(time.monotonic() - started)
    return {
        "adapter_switch_ms": 1e3 * statistics.median(times),
        "recompiles": sampler.lora.structure - structure,
    }


def quality(
    studio: InProcess, class_ids: list[str], per_class: int, data: Path | None, seeds: int
) -> dict[str, Any]:
    """Macro-F1 of classifiers that learned from each preset's images, and the difference."""
    test = unseen_tests(data, class_ids, 100, BASE) if data else phantom_tests(class_ids, 40)
    runs = {}
    for name, sampler in PRESETS.items():
        plan = studio.plan(dict.fromkeys(class_ids, per_class), sampler, BASE)
        learned: list[LabelledImage] = [
            (pixels(image), image.class_id) for image in studio.draw([plan])
        ]
        runs[name] = [downstream_macro_f1(learned, test, seed, 160)[0] for seed in range(seeds)]
        print(f"{name}: classifiers trained", flush=True)
    return {name: asdict(arm) for name, arm in compare_arms(runs, "paper").items()}


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
    parser.add_argument("--seeds", type=int, default=2, help="classifiers per preset")
    parser.add_argument("--no-quality", action="store_true", help="train no classifiers")
    parser.add_argument("--compile", action="store_true", help="ours with torch.compile")
    parser.add_argument("--out", type=Path, default=Path("out/bench/generator.json"))
    args = parser.parse_args()
    # The script uses every core; so do we. Settings of the stack and of this process alike.
    os.environ["CYTOSYNTH_GENERATOR_NUM_THREADS"] = str(torch.get_num_threads())
    os.environ["CYTOSYNTH_GENERATOR_COMPILE"] = str(args.compile)
    base = resolve_base(BASE, MODELS)
    assert base.class_ids is not None
    class_ids = list(base.class_ids)[:10]
    files = make_adapters(class_ids)
    some = dict(itertools.islice(files.items(), 2))
    scripts = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    script = {
        name: [timed(f"script, {name}", lambda d=dtype: run_script(some, 20, d))]
        for name, dtype in scripts.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        report = measure_ours(Path(folder), files)
    for name, dtype in scripts.items():
        again = timed(f"script, {name}", lambda d=dtype: run_script(some, 20, d))
        script[name].append(again)
    means = {name: statistics.mean(values) for name, values in script.items()}
    best = max(means.values())
    ours = report["images_per_second"]
    report |= {
        "seed_recipe_images_per_second": best,
        "seed_recipe_by_dtype": means,
        "same_steps_ratio": ours["paper"] / best,
        "balanced_ratio": ours["balanced"] / best,
        "fast_ratio": ours["fast"] / best,
        "hardware": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "presets": {name: asdict(preset) for name, preset in PRESETS.items()},
    }
    report["compiled"] = args.compile
    report |= timed("switch", lambda: adapter_switch(files))
    if not args.no_quality:
        report["quality"] = quality(InProcess(), class_ids, args.per_class, args.data, args.seeds)
        report["quality_tested_on"] = str(args.data.name if args.data else "phantoms")
    report["runs"] = [
        {
            "hardware": report["hardware"],
            "base": BASE,
            "preset": name,
            "images_per_second": ours[name],
        }
        for name in PRESETS
    ]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({k: v for k, v in report.items() if isinstance(v, float)}, indent=1))


def measure_ours(state_dir: Path, files: dict[str, bytes]) -> dict[str, Any]:
    """Figures of a local stack of our own, client included."""
    class_ids = list(files)
    os.environ["CYTOSYNTH_STORE_URI"] = f"file://{state_dir}/store"
    os.environ["CYTOSYNTH_DATABASE_URL"] = f"sqlite:///{state_dir}/jobs.db"
    store_adapters(ArtifactStore(os.environ["CYTOSYNTH_STORE_URI"]), files)
    info = local_stack.up(0, state_dir=state_dir, timeout_seconds=600.0)
    try:
        with Client(info.address) as client:
            for i in range(len(files)):  # loads the adapters
                list(client.synthesize({class_ids[i]: 1}, adapter="adapters/bench", preset="fast"))
                list(client.synthesize({class_ids[i]: 1}, adapter=f"adapters/bench{i}"))
            rates = {
                name: timed(
                    f"ours, {name}",
                    lambda n=num, p=name: images_per_second(client, [request(class_ids[:2], n, p)]),
                )
                for name, num in (("paper", 32), ("balanced", 160), ("fast", 320))
            }
            one = [mixed_request(class_ids, 320, 0)]
            ten = [mixed_request(class_ids, 32, i) for i in range(10)]
            alone = [images_per_second(client, one)]
            together = timed("ten adapters", lambda: images_per_second(client, ten))
            alone.append(timed("one adapter", lambda: images_per_second(client, one)))
            idle = timed("first image, idle", lambda: first_image_seconds(client, class_ids[1]))
            loaded = timed("first image, loaded", lambda: first_image_under_load(client, class_ids))
            time.sleep(2.0)
            through = rates["balanced"]
    finally:
        local_stack.down(state_dir=state_dir)
    direct = timed("in process, balanced", lambda: in_process_rate(files))
    return {
        "images_per_second": rates,
        "mixed_adapter_ratio": together / statistics.mean(alone),
        "time_to_first_image_idle_s": idle,
        "time_to_first_image_loaded_s": loaded,
        "time_to_first_image_ratio": loaded / idle,
        "in_process_images_per_second": direct,
        "grpc_overhead": 1 - through / direct,
    }


def request(class_ids: list[str], num_per_class: int, preset: str) -> dict[str, Any]:
    """Arguments of ``Client.synthesize``: a few classes, each with its own adapter."""
    counts = dict.fromkeys(class_ids, num_per_class)
    return {"class_counts": counts, "adapter": "adapters/bench", "preset": preset, "seed": 1}


def mixed_request(class_ids: list[str], num_images: int, i: int) -> dict[str, Any]:
    """Arguments of ``Client.synthesize``: images of one adapter of ten."""
    counts = {class_ids[0]: num_images}
    return {"class_counts": counts, "adapter": f"adapters/bench{i}", "preset": "fast", "seed": i}


def in_process_rate(files: dict[str, bytes]) -> float:
    """Images per second of the engine itself, encoding included."""
    studio = InProcess()
    store_adapters(studio.store, files)
    classes = list(files)[:2]
    plans = [
        studio.plan(dict.fromkeys(classes, num), PRESETS["balanced"], BASE, "bench")
        for num in (4, 160)
    ]
    studio.draw(plans[:1])
    started = time.monotonic()
    return len(studio.draw(plans[1:])) / (time.monotonic() - started)


if __name__ == "__main__":
    main()
