"""Downstream worth of sampler settings: synthetic images teach, unseen ones test.

    python -m benchmarks.generator.preset_quality --arm paper=out/paper --arm fast=out/fast
    python -m benchmarks.generator.preset_quality --arm ... --data ../shared/data/wbc-pbc-barcelona

An arm is a folder of synthetic images, ``<class>/<image>``, from the same image seeds in every arm.
A ResNet-18 learns from one arm's images alone and is tested on images that are not synthetic:
phantoms from laboratories of their own, or with ``--data`` real cells, less those that the base has
seen.  Arms share their classifier seeds (weights, batches, augmentation) and test images: the
difference of an arm to the first one is paired.  The difference's interval is over the test images
and over the classifiers: both are resampled.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from cytosynth.client.image_tree import ImageFile, read_image, read_image_tree
from cytosynth.phantoms import render_phantom, sample_laboratory
from services.common.images.codec import center_square, decode_image, sha256_hex
from services.common.models.classifier_config import ClassifierConfig
from services.common.models.classifiers import build_model, probabilities
from services.common.models.diffusion_bases import resolve_base
from services.trainer.classifiers.recipe import hyperparameters_from_spec
from services.trainer.classifiers.training import train
from services.trainer.classifiers.training_images import LabelledImages
from services.trainer.compute.training_run import NoCheckpoints
from services.trainer.datasets.center_crop import estimate_center_crop
from services.trainer.evaluation.metrics import evaluate_runs, paired_difference
from services.trainer.evaluation.predictions import Predictions

MODELS = Path("models")
SIZE_PX = 64
BATCH = 100
PHANTOM_SEED = 7 << 40
"""Far above the seeds of ``pretraining.corpus.phantom_corpus``, from which the bases learned."""

LabelledImage: TypeAlias = tuple[np.ndarray, str]
"""An image, uint8 (H, W, 3), RGB, square, and its class id."""


@dataclass(frozen=True)
class ArmQuality:
    """Macro-F1 (0 to 1) of the classifiers that learned from one arm.

    Attributes:
        macro_f1: Mean over the classifiers.
        interval: 95 % bootstrap interval of the mean over the test images.
        per_run: Macro-F1 of each classifier.
        difference: Mean minus that of the reference arm.
        difference_interval: 95 % bootstrap interval of the difference over test images and pairs of
            classifiers.
        difference_per_run: Difference of each pair of classifiers (one replicate, one seed).
    """

    macro_f1: float
    interval: tuple[float, float]
    per_run: list[float]
    difference: float
    difference_interval: tuple[float, float]
    difference_per_run: list[float]


def downstream_macro_f1(
    synthetic: Sequence[LabelledImage],
    test: Sequence[LabelledImage],
    seed: int,
    num_steps: int,
) -> tuple[Predictions, float]:
    """Trains a ResNet-18 on ``synthetic`` alone by the trainer's ``cpu`` preset.

    Args:
        synthetic: Images to learn from; their classes are the classifier's.
        test: Images of some or all of these classes.
        seed: Seed of weights, batches and augmentation.
        num_steps: Optimizer steps of 32 images.

    Returns:
        Answers on the test images, and their macro-F1 (0 to 1) over the tested classes.
    """
    class_ids = tuple(sorted({class_id for _, class_id in synthetic}))
    hyperparameters = hyperparameters_from_spec(
        {"settings": {"num_steps": num_steps, "seed": seed}}, ""
    )
    torch.manual_seed(seed)
    config = ClassifierConfig(hyperparameters.architecture, class_ids, hyperparameters.image_size)
    model = build_model(config, MODELS)
    device = torch.device("cpu")
    learned = _stacked(synthetic, class_ids, hyperparameters.image_size)
    train(model, learned, None, hyperparameters, device, lambda *_: None, NoCheckpoints())
    tested = _stacked(test, class_ids, hyperparameters.image_size)
    parts = [
        probabilities(model, tested.images[start : start + BATCH], device)
        for start in range(0, len(test), BATCH)
    ]
    digests = tuple(sha256_hex(image.tobytes()) for image in tested.images)
    predictions = Predictions(class_ids, digests, tested.labels, np.concatenate(parts))
    return predictions, evaluate_runs([predictions]).metrics["macro_f1"]


def compare_arms(
    runs: Mapping[str, Sequence[Predictions]], reference: str
) -> dict[str, ArmQuality]:
    """Every arm against ``reference``.

    Args:
        runs: Answers of each arm's classifiers, one per replicate and seed, all arms in one
            order.
        reference: The arm to subtract.

    Raises:
        ValueError: If the classifiers were not all tested on the same images.
    """
    base = list(runs[reference])
    base_f1 = [evaluate_runs([run]).metrics["macro_f1"] for run in base]
    compared = {}
    for name, arm in runs.items():
        whole = evaluate_runs(list(arm))
        paired = paired_difference(list(arm), base, resample_runs=True)["macro_f1"]
        low, high = paired["interval"]
        per_run = [evaluate_runs([run]).metrics["macro_f1"] for run in arm]
        compared[name] = ArmQuality(
            macro_f1=whole.metrics["macro_f1"],
            interval=whole.intervals["macro_f1"],
            per_run=per_run,
            difference=float(paired["difference"]),
            difference_interval=(low, high),
            difference_per_run=[a - b for a, b in zip(per_run, base_f1, strict=True)],
        )
    return compared


def phantom_tests(class_ids: Sequence[str], per_class: int) -> list[LabelledImage]:
    """Phantoms that no base has seen, 64 px, one per laboratory."""
    tests = []
    for k, class_id in enumerate(class_ids):
        for seed in range(PHANTOM_SEED + k * per_class, PHANTOM_SEED + (k + 1) * per_class):
            laboratory = sample_laboratory(np.random.default_rng(seed))
            tests.append((render_phantom(class_id, laboratory, seed, SIZE_PX).image, class_id))
    return tests


def unseen_tests(
    folder: Path, class_ids: Sequence[str], per_class: int, base: str
) -> list[LabelledImage]:
    """Images of ``folder``, 64 px, that ``base`` has not seen.

    The first ``per_class`` of each class by digest, cropped as an uploaded dataset is.
    """
    seen = set(resolve_base(base, MODELS).manifest.get("digests", []))
    files: dict[str, dict[str, ImageFile]] = {class_id: {} for class_id in class_ids}
    for file in read_image_tree(folder).images:
        if file.class_id in files:
            digest = sha256_hex(file.path.read_bytes())
            if digest not in seen:
                files[file.class_id][digest] = file
    kept = [
        (_decoded(of_class[digest]), class_id)
        for class_id, of_class in files.items()
        for digest in sorted(of_class)[:per_class]
    ]
    crop = estimate_center_crop([image for image, _ in kept])
    return [(center_square(image, crop, SIZE_PX), class_id) for image, class_id in kept]


def synthetic_images(folder: Path) -> list[LabelledImage]:
    """The images of one arm as they are."""
    return [(_decoded(file), file.class_id) for file in read_image_tree(folder).images]


def _decoded(file: ImageFile) -> np.ndarray:
    return decode_image(read_image(file.path), file.file_name)


def _stacked(
    images: Sequence[LabelledImage], class_ids: Sequence[str], size: int
) -> LabelledImages:
    pixels = np.stack([center_square(image, 1.0, size) for image, _ in images])
    labels = np.array([class_ids.index(class_id) for _, class_id in images])
    return LabelledImages(pixels, labels)


def _table(compared: Mapping[str, ArmQuality]) -> str:
    """Percentages, one arm a line."""
    lines = [f"{'arm':18} {'macro-F1':20} {'to reference':23} per run"]
    for name, arm in compared.items():
        low, high = (100 * bound for bound in arm.interval)
        less, more = (100 * bound for bound in arm.difference_interval)
        each = " ".join(f"{100 * value:+.1f}" for value in arm.difference_per_run)
        lines.append(
            f"{name:18} {100 * arm.macro_f1:4.1f} ({low:4.1f} to {high:4.1f})  "
            f"{100 * arm.difference:+5.1f} ({less:+5.1f} to {more:+5.1f})  {each}"
        )
    return "\n".join(lines)


def main() -> None:
    """Train a classifier per arm and seed, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--arm",
        action="append",
        required=True,
        metavar="NAME=FOLDER",
        help="the first is the reference",
    )
    parser.add_argument("--data", type=Path, help="<class>/<image> of real cells; else phantoms")
    parser.add_argument("--base", default="cyto-small", help="whose seen images are left out")
    parser.add_argument("--per-class", type=int, default=100, help="test images of a class at most")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--num-steps", type=int, default=160)
    parser.add_argument("--out", type=Path, default=Path("out/bench/sampler_quality.json"))
    args = parser.parse_args()
    folders = dict(arm.split("=", 1) for arm in args.arm)
    arms = {name: synthetic_images(Path(folder)) for name, folder in folders.items()}
    reference = next(iter(arms))
    class_ids = sorted({class_id for _, class_id in arms[reference]})
    if args.data:
        test = unseen_tests(args.data, class_ids, args.per_class, args.base)
    else:
        test = phantom_tests(class_ids, args.per_class)
    runs: dict[str, list[Predictions]] = {name: [] for name in arms}
    for name, synthetic in arms.items():
        for seed in range(args.seeds):
            answers, macro_f1 = downstream_macro_f1(synthetic, test, seed, args.num_steps)
            runs[name].append(answers)
            print(f"{name}, seed {seed}: macro-F1 {macro_f1:.3f}", flush=True)
    compared = compare_arms(runs, reference)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    report = {name: asdict(arm) for name, arm in compared.items()}
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(_table(compared))


if __name__ == "__main__":
    main()
