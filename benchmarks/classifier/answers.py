"""Reliability of a classifier's answers over ten splits of real cells.

    python -m benchmarks.classifier.answers --data ../shared/data/wbc-pbc-barcelona

Each split trains a ResNet-18 at 64 px from ``cyto-resnet`` on class-balanced images, with folds for
the answer model, and tests on others; ``cyto-resnet`` has seen none of them. A further network
learns all classes but one, another one in each split. Networks are kept below ``--networks``, so
that a second run only measures. Writes ``out/bench/answers.json``.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from benchmarks.classifier.non_cells import non_cells
from cytosynth.image_files.decoding import decode_rgb
from services.common.answers.answer_model import AnswerModel
from services.common.answers.fitting import HeldOut, fit_answer_model
from services.common.images.codec import center_square, sha256_hex
from services.common.models.classifiers import load_model, save_model
from services.common.models.image_classifier import ImageClassifier
from services.common.models.resnet_bases import resolve_resnet_base
from services.trainer.classifiers.cross_fit import answers_of, ask, fold_hyperparameters, part_of
from services.trainer.classifiers.fit import classifier_config, initial_model
from services.trainer.classifiers.folds import assign_folds
from services.trainer.classifiers.recipe import Hyperparameters, hyperparameters_from_spec
from services.trainer.classifiers.training import train
from services.trainer.classifiers.training_images import LabelledImages
from services.trainer.compute.training_run import NoCheckpoints
from services.trainer.config import TrainerSettings
from services.trainer.evaluation.answers import AnsweredTest, answer_figures
from services.trainer.evaluation.predictions import Predictions

BASE = "cyto-resnet"
SIZE_PX, CENTER_CROP = 64, 0.62
NUM_SPLITS, NUM_FOLDS = 10, 3
TRAIN_PER_CLASS, MAX_TEST_PER_CLASS, NON_CELLS_PER_KIND = 40, 60, 60
COVERAGE_GOAL, NON_CELL_GOAL, NEW_CLASS_GOAL = 0.88, 0.99, 0.85
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Cells:
    """All usable cells: pictures at the network's size, labels, digests and files."""

    class_ids: tuple[str, ...]
    images: np.ndarray
    labels: np.ndarray
    digests: tuple[str, ...]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Split:
    """Positions of the training and test cells of one split."""

    number: int
    train: np.ndarray
    test: np.ndarray


class Networks:
    """Trains the networks of the splits, or reads earlier ones."""

    def __init__(self, folder: Path, num_steps: int, batch_size: int) -> None:
        self._folder, self._num_steps, self._batch_size = folder, num_steps, batch_size
        self._settings = TrainerSettings(models_dir=Path("models"), device="cpu")

    def hyperparameters(self, split: Split) -> Hyperparameters:
        """Those of the final network of a split."""
        asked = {
            "resnet_base": BASE,
            "num_steps": self._num_steps,
            "batch_size": self._batch_size,
            "image_size": SIZE_PX,
            "seed": split.number,
        }
        return hyperparameters_from_spec({"settings": asked}, "")

    def get(
        self, name: str, hparams: Hyperparameters, class_ids: tuple[str, ...], real: LabelledImages
    ) -> ImageClassifier:
        """The network called ``name``, trained on ``real``."""
        config, _ = classifier_config(hparams, list(class_ids), self._settings)
        file = self._folder / f"{name}.safetensors"
        if file.exists():
            return load_model(config, file.read_bytes(), Path("models"))
        model = initial_model(hparams, config, self._settings)
        train(model, real, None, hparams, CPU, lambda *_: None, NoCheckpoints())
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_suffix(".new")
        scratch.write_bytes(save_model(model)["model.safetensors"])
        os.replace(scratch, file)
        print(f"trained {name}", flush=True)
        return model


def read_cells(data: Path) -> Cells:
    """The cells of an ImageFolder that the base has not seen."""
    seen = set(resolve_resnet_base(BASE, "resnet18", Path("models")).manifest["digests"])
    class_ids = tuple(sorted(each.name for each in data.iterdir() if each.is_dir()))
    found = []
    for label, class_id in enumerate(class_ids):
        for file in sorted((data / class_id).iterdir()):
            content = file.read_bytes()
            digest = sha256_hex(content)
            if digest not in seen:
                image = center_square(decode_rgb(content, file.name), CENTER_CROP, SIZE_PX)
                found.append((image, label, digest, file))
    images, labels, digests, files = zip(*found, strict=True)
    return Cells(class_ids, np.stack(images), np.array(labels), digests, files)


def make_split(cells: Cells, number: int) -> Split:
    """Class-balanced training cells, and test cells of every class, picked at random."""
    rng = np.random.default_rng([20_261_201, number])
    train_parts, test_parts = [], []
    for label in range(len(cells.class_ids)):
        members = rng.permutation(np.flatnonzero(cells.labels == label))
        train_parts.append(members[:TRAIN_PER_CLASS])
        test_parts.append(members[TRAIN_PER_CLASS:][:MAX_TEST_PER_CLASS])
    return Split(number, np.concatenate(train_parts), np.concatenate(test_parts))


def fit(
    cells: Cells, split: Split, networks: Networks
) -> tuple[ImageClassifier, AnswerModel, HeldOut]:
    """Final network of a split with its answer model, as in ``fit_classifier``."""
    hparams = networks.hyperparameters(split)
    real = LabelledImages(cells.images[split.train], cells.labels[split.train])
    digests = [cells.digests[n] for n in split.train]
    folds = assign_folds(real.labels, digests, cells.class_ids, NUM_FOLDS, hparams.seed)
    final = networks.get(f"{split.number}/final", hparams, cells.class_ids, real)
    features, logits = answers_of(final, real.images, CPU)
    parts = []
    for fold in range(NUM_FOLDS):
        learned, asked = part_of(real, folds != fold), part_of(real, folds == fold)
        name = f"{split.number}/fold-{fold}"
        model = networks.get(name, fold_hyperparameters(hparams, fold), cells.class_ids, learned)
        parts.append(
            ask(model, learned, asked, (features[folds != fold], logits[folds != fold]), CPU)
        )
    held_out = HeldOut(
        np.concatenate([each.logits for each in parts]),
        np.concatenate([each.labels for each in parts]),
        np.concatenate([each.distances for each in parts]),
    )
    priors = np.full(len(cells.class_ids), 1 / len(cells.class_ids))
    return (
        final,
        fit_answer_model(cells.class_ids, priors, real.images, features, held_out),
        held_out,
    )


def scores_of(model: AnswerModel, network: ImageClassifier, images: np.ndarray) -> np.ndarray:
    """Out of distribution scores (N,) of pictures."""
    features, logits = answers_of(network, images, CPU)
    answers = model.answer(logits, features, images)
    return np.array([each.out_of_distribution_score for each in answers.each])


def auc(known: np.ndarray, strange: np.ndarray) -> float:
    """Chance that a strange picture scores higher than a known cell."""
    is_strange = np.r_[np.zeros(len(known)), np.ones(len(strange))]
    return float(roc_auc_score(is_strange, np.r_[known, strange]))


def measure_split(cells: Cells, split: Split, networks: Networks) -> dict[str, Any]:
    """Figures of one split."""
    network, model, _ = fit(cells, split, networks)
    images, labels = cells.images[split.test], cells.labels[split.test]
    features, logits = answers_of(network, images, CPU)
    answers = model.answer(logits, features, images)
    digests = tuple(cells.digests[n] for n in split.test)
    softmax = AnswerModel.plain(cells.class_ids).probabilities(logits)
    plain = Predictions(cells.class_ids, digests, labels, softmax)
    known = np.array([each.out_of_distribution_score for each in answers.each])
    smears = [decode_rgb(cells.files[n].read_bytes(), "smear") for n in split.test[::2]]
    strange = non_cells(smears, SIZE_PX, NON_CELLS_PER_KIND, CENTER_CROP, split.number)
    by_kind = {kind: scores_of(model, network, made) for kind, made in strange.items()}
    return {
        **answer_figures([plain], [AnsweredTest.of(answers, plain)]),
        "top1": float((plain.predicted == labels).mean()),
        "temperature": model.calibration.temperature if model.calibration else None,
        "share_of_cells_over_1": float((known > 1).mean()),
        "non_cell_auc": auc(known, np.concatenate(list(by_kind.values()))),
        "non_cell_auc_by_kind": {kind: auc(known, found) for kind, found in by_kind.items()},
        **new_class(cells, split, networks),
    }


def new_class(cells: Cells, split: Split, networks: Networks) -> dict[str, Any]:
    """AUC of the scores of an unknown class against known ones."""
    left_out = split.number % len(cells.class_ids)
    class_ids = tuple(c for n, c in enumerate(cells.class_ids) if n != left_out)
    is_known = cells.labels[split.train] != left_out
    labels = cells.labels[split.train][is_known]
    real = LabelledImages(
        cells.images[split.train][is_known], labels - (labels > left_out).astype(labels.dtype)
    )
    hparams = networks.hyperparameters(split)
    network = networks.get(f"{split.number}/without", hparams, class_ids, real)
    features, _ = answers_of(network, real.images, CPU)
    # The scale of the score does not change the order, so no folds are needed.
    priors = np.full(len(class_ids), 1 / len(class_ids))
    whole = fit_answer_model(
        class_ids, priors, real.images, features,
        HeldOut(np.zeros((len(labels), len(class_ids))), real.labels, np.ones(len(labels))),
    )  # fmt: skip
    model = replace(whole, image_checks=None)
    is_new = cells.labels[split.test] == left_out
    scores = scores_of(model, network, cells.images[split.test])
    return {
        "left_out": cells.class_ids[left_out],
        "new_class_auc": auc(scores[~is_new], scores[is_new]),
    }


def summary(splits: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over splits, and which goals are reached."""

    def mean(name: str) -> float:
        values = [s[name]["value"] if isinstance(s[name], dict) else s[name] for s in splits]
        return float(np.mean(values))

    names = ("ece_before", "ece_after", "balanced_ece_before", "balanced_ece_after", "top1")
    names += ("mean_set_size", "share_needing_review", "macro_f1", "macro_f1_kept")
    names += ("share_of_cells_over_1", "non_cell_auc", "new_class_auc")
    coverage = {
        class_id: float(np.mean([s["coverage_per_class"][class_id] for s in splits]))
        for class_id in splits[0]["coverage_per_class"]
    }
    means = {name: mean(name) for name in names}
    worst = min(min(s["coverage_per_class"].values()) for s in splits)
    return {
        **means,
        "coverage_per_class": coverage,
        "lowest_mean_coverage": min(coverage.values()),
        "lowest_coverage_of_a_class_in_a_split": worst,
        "non_cell_auc_by_kind": {
            kind: float(np.mean([s["non_cell_auc_by_kind"][kind] for s in splits]))
            for kind in splits[0]["non_cell_auc_by_kind"]
        },
        "lowest_non_cell_auc": min(s["non_cell_auc"] for s in splits),
        "new_class_auc_by_class": {s["left_out"]: s["new_class_auc"] for s in splits},
        "goals": {
            "coverage": min(coverage.values()) >= COVERAGE_GOAL,
            "non_cells": means["non_cell_auc"] >= NON_CELL_GOAL,
            "new_class": means["new_class_auc"] >= NEW_CLASS_GOAL,
        },
    }


def main() -> None:
    """Runs the splits and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="ImageFolder of real cells")
    parser.add_argument("--out", type=Path, default=Path("out/bench/answers.json"))
    parser.add_argument("--networks", type=Path, default=Path("out/bench/answers"))
    parser.add_argument("--num-steps", type=int, default=60, help="optimizer steps")
    parser.add_argument("--batch-size", type=int, default=16, help="images per step")
    parser.add_argument("--splits", default="", help="for example 0,1,2; default: all ten")
    asked = parser.parse_args()
    cells = read_cells(asked.data)
    networks = Networks(asked.networks, asked.num_steps, asked.batch_size)
    numbers = [int(each) for each in asked.splits.split(",") if each] or list(range(NUM_SPLITS))
    splits = []
    for number in numbers:
        figures = measure_split(cells, make_split(cells, number), networks)
        splits.append(figures)
        shown = ("top1", "temperature", "non_cell_auc", "new_class_auc")
        print(f"split {number}:", {name: figures[name] for name in shown}, flush=True)
    found = {
        "base": BASE,
        "num_steps": asked.num_steps,
        "batch_size": asked.batch_size,
        "train_per_class": TRAIN_PER_CLASS,
        "max_test_per_class": MAX_TEST_PER_CLASS,
        "summary": summary(splits),
        "splits": splits,
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found["summary"], indent=2))


if __name__ == "__main__":
    main()
