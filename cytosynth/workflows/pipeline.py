"""The whole pipeline as one client program.

few-shot images -> fit_adapter -> Adapter -> synthesize -> ImageSet -> fit_classifier ->
Classifier -> classify, evaluate -> Report. The trainer pulls the synthetic cells from the
generator while it trains; the client only asks, waits and reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from cytosynth.client import (
    AdapterSettings,
    ClassifierSettings,
    Client,
    ReportArm,
    SamplerSettings,
    SplitSettings,
    SyntheticSettings,
    read_image_tree,
)
from cytosynth.workflows.progress import Listener, Progress, display_name

MODELS = {"cpu": ("resnet18", "clip"), "paper": ("resnet50", "clip")}
SAMPLER_PRESETS = {"cpu": "", "paper": "paper"}
ARMS = ("real_only", "real_plus_synthetic")
# A few cells for the eye; what counts as evidence is the locked test set in the report.
NUM_CELLS_TO_CLASSIFY = 16


@dataclass(frozen=True)
class PipelineOptions:
    """Data, sizes, models and seeds of one run of the pipeline.

    Attributes:
        data: ImageFolder tree, ``<class>/<image>``.
        out: Folder for report.html, report.json and run.json.
        shots: Training images per class; 0: all but the test share.
        class_shots: Shots of single classes.
        num_per_class: Synthetic images per class.
        base: Diffusion base; empty: the server's default.
        clip_base: CLIP base; empty: the server's default.
        max_test_per_class: Most test images per class; 0: all that remain.
        preset: ``cpu`` or ``paper``.
        seed: Seed of split, training and synthesis.
        num_steps: Optimizer steps of every classifier; 0: the preset's.
        adapter_steps: Optimizer steps of the adapter; 0: the preset's.
        calibration_folds: Parts held out in turn to calibrate answers, which takes as long again;
            0: none; -1: the server's default.
        sampler_preset: ``draft``, ``fast``, ``balanced`` or ``paper``; empty: the preset's.
        num_runs: Classifiers per arm, with seeds one apart; the report averages over them.
        title: Title of the report.
    """

    data: Path
    out: Path
    shots: int = 16
    class_shots: Mapping[str, int] = field(default_factory=dict)
    num_per_class: int = 200
    base: str = ""
    clip_base: str = ""
    max_test_per_class: int = 0
    preset: str = "cpu"
    seed: int = 0
    num_steps: int = 0
    adapter_steps: int = 0
    calibration_folds: int = -1
    sampler_preset: str = ""
    num_runs: int = 1
    title: str = ""


@dataclass(frozen=True)
class PipelineOutcome:
    """The report, its paths, and the names of all results."""

    report: Mapping[str, Any]
    html_path: Path
    json_path: Path
    dataset: str
    adapter: str
    classifiers: tuple[ReportArm, ...]
    seconds: Mapping[str, float]


def run_pipeline(
    client: Client,
    options: PipelineOptions,
    listener: Listener | None = None,
    start_seconds: float = 0.0,
) -> PipelineOutcome:
    """Run all phases; run again after an interruption, continue where it stopped.

    Args:
        client: Services that answer.
        options: What to run.
        listener: Told of phases and progress.
        start_seconds: What starting the services took, for the report.

    Raises:
        CytosynthError: What failed and what to do about it.
    """
    images = read_image_tree(options.data)
    progress = Progress(options.out, options, images, listener or Listener())
    progress.note("start_services", start_seconds)

    with progress.phase("upload") as phase:
        dataset = client.upload_dataset(
            images,
            split=SplitSettings(
                options.shots, options.class_shots, options.max_test_per_class, options.seed
            ),
            display_name=display_name(options.data),
            idempotency_key=phase.key,
            on_progress=phase.count,
        )
        phase.listener.dataset(dataset)

    with progress.phase("fit_adapter") as phase:
        adapter = phase.job(
            client.fit_adapter,
            dataset.name,
            AdapterSettings(
                preset=options.preset,
                num_steps=options.adapter_steps or None,
                seed=options.seed,
            ),
            base=options.base,
        )

    synthetic = SyntheticSettings(
        adapter=adapter,
        num_per_class=options.num_per_class,
        seed=options.seed,
        sampler=SamplerSettings(options.sampler_preset or SAMPLER_PRESETS[options.preset]),
    )
    arms: list[ReportArm] = []
    for model, arm, run in product(MODELS[options.preset], ARMS, range(options.num_runs)):
        with progress.phase(f"fit_{model}_{arm}" + (f"_{run + 1}" if run else "")) as phase:
            classifier = phase.job(
                client.fit_classifier,
                dataset.name,
                ClassifierSettings(
                    architecture=model,
                    preset=options.preset,
                    clip_base=options.clip_base if model == "clip" else "",
                    num_steps=options.num_steps or None,
                    seed=options.seed + run,
                    num_calibration_folds=(
                        options.calibration_folds if options.calibration_folds >= 0 else None
                    ),
                ),
                synthetic=synthetic if arm == "real_plus_synthetic" else None,
            )
            arms.append(ReportArm(model, arm, classifier))

    with progress.phase("classify") as phase:
        some = images.images[:: max(1, len(images.images) // NUM_CELLS_TO_CLASSIFY)]
        client.classify([image.path for image in some], model=arms[-1].classifier)
        phase.count(len(some), len(some))

    with progress.phase("report") as phase:
        report = phase.job(
            client.create_report,
            dataset.name,
            arms,
            title=options.title or f"Few-shot cells: {display_name(options.data)[:150]}",
            phase_seconds=progress.seconds,
        )
        client.download_report(report, options.out)

    progress.finish()
    json_path = options.out / "report.json"
    return PipelineOutcome(
        report=json.loads(json_path.read_text(encoding="utf-8")),
        html_path=options.out / "report.html",
        json_path=json_path,
        dataset=dataset.name,
        adapter=adapter,
        classifiers=tuple(arms),
        seconds=progress.seconds,
    )
