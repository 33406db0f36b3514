"""Speed and quality of the generator, beside today's script.

    python -m benchmarks.generator.run            # make bench-generator

One run on one machine writes every figure and ratio to ``--out``.  What is compared alternates in
slices of seconds, and a ratio is the median over the rounds: a machine that slows down meanwhile
favours neither side.  Script (``benchmarks.generator.diffusers_baseline``) and ours sample
cyto-small with LoRA adapters of the trainer's default hyperparameters (attention, convolutions
and projections, rank 16); their weights are random and small, as only their cost counts here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.generator.in_process import BASE, MODELS, Engines, preset_on_base
from benchmarks.generator.quality import quality
from benchmarks.generator.speed import adapter_switch, measure_speed, timed
from services.common.models.diffusion_bases import load_pipeline, resolve_base
from services.common.models.lora import add_lora, lora_file
from services.generator.presets import PRESETS
from services.trainer.adapters.recipe import AdapterSettings

LORA_SCALE = 1e-3
"""Standard deviation of the adapters' B matrices: they hardly change an image."""


def main() -> None:
    """Measure everything, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="real cells to test on; else phantoms")
    parser.add_argument("--per-class", type=int, default=60, help="images that teach, per class")
    parser.add_argument("--replicates", type=int, default=3, help="sets of cells for each preset")
    parser.add_argument("--seeds", type=int, default=2, help="classifiers per replicate and preset")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of script and ours")
    parser.add_argument(
        "--replicas", type=int, default=os.cpu_count() or 1, help="sampler replicas"
    )
    parser.add_argument("--no-quality", action="store_true", help="train no classifiers")
    parser.add_argument("--slots", type=int, default=32, help="rows of a replica's batch")
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
        "presets": {name: preset_on_base(name).to_dict() for name in PRESETS},
    }
    with Engines(args.replicas, BASE, files) as direct:
        with tempfile.TemporaryDirectory() as folder:
            report |= measure_speed(Path(folder), files, direct, args.rounds)
        report |= timed("switch", lambda: adapter_switch(files))
        if not args.no_quality:
            report["quality"] = quality(
                direct, list(base.class_ids), args.per_class, args.data, args.replicates, args.seeds
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


if __name__ == "__main__":
    main()
