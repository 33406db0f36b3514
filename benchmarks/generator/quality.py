"""Compares classifiers that learned from the images of each preset."""

from __future__ import annotations

import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.generator.in_process import BASE, Engines, pixels, preset_on_base
from benchmarks.generator.preset_quality import (
    LabelledImage,
    compare_arms,
    downstream_macro_f1,
    phantom_tests,
    unseen_tests,
)
from services.generator.presets import PRESETS
from services.trainer.evaluation.predictions import Predictions

TEST_PER_CLASS = 200
"""Real cells at most that a classifier is tested on."""
NUM_STEPS = 160
"""Optimizer steps of a classifier."""


def quality(
    direct: Engines,
    class_ids: list[str],
    per_class: int,
    data: Path | None,
    replicates: int,
    seeds: int,
) -> dict[str, Any]:
    """Macro-F1 of classifiers that learned from each preset's images, and the difference.

    All presets start from the same noise; each replicate has noise of its own, and teaches
    ``seeds`` classifiers a preset.
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
        for replicate in range(replicates):
            paper: list[np.ndarray] = []
            for name in names:
                images = direct.generate(counts, preset_on_base(name), replicate=replicate)
                learned: list[LabelledImage] = [(pixels(i), i.class_id) for i in images]
                paper = paper or [image for image, _ in learned]
                nearness[name] += [psnr(a, b) for a, (b, _) in zip(paper, learned, strict=True)]
                first = replicate * seeds
                tasks = [
                    pool.submit(downstream_macro_f1, learned, test, first + seed, NUM_STEPS)
                    for seed in range(seeds)
                ]
                for task in tasks:
                    answers, macro_f1 = task.result()
                    runs[name].append(answers)
                    print(f"replicate {replicate}, {name}: macro-F1 {macro_f1:.3f}", flush=True)
    compared = {name: asdict(arm) for name, arm in compare_arms(runs, "paper").items()}
    for name in names[1:]:
        compared[name]["psnr_to_paper_db"] = statistics.mean(nearness[name])
    return compared


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 images, dB; always finite."""
    error = np.square(a.astype(float) - b).mean()
    return float(10 * np.log10(255**2 / max(error, 1 / a.size)))
