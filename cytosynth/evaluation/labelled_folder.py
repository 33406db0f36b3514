"""Asks a running classifier about the images of a labelled folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cytosynth.client import (
    AnswerOptions,
    Classification,
    ClassifierClient,
    CytosynthError,
    read_image_tree,
)
from cytosynth.client.errors import invalid_argument
from cytosynth.client.image_tree import image_files
from cytosynth.evaluation.figures import LabelledAnswers, auc, figures_of

OnAnswer = Callable[[int, int], None]
"""Receives images done and images in all."""


@dataclass(frozen=True)
class Judged:
    """Figures of a classifier, and images that it refused."""

    figures: dict[str, Any]
    refused: tuple[CytosynthError, ...]
    notices: tuple[str, ...]


def evaluate(
    client: ClassifierClient,
    folder: Path,
    *,
    model: str = "",
    non_cells: Path | None = None,
    options: AnswerOptions | None = None,
    batch_size: int = 64,
    on_answer: OnAnswer = lambda _done, _all: None,
) -> Judged:
    """Judges a classifier on images that it has not seen.

    Args:
        client: Where the classifier runs.
        folder: ImageFolder tree, one folder a class; patients as in a dataset.
        model: ``classifiers/{classifier}`` or ``aliases/{alias}``; empty: ``aliases/production``.
        non_cells: Folder of pictures that show no cell, which ought to score out of distribution.
        options: What answers are to hold.
        batch_size: Images per call, 1 to 256.
        on_answer: Called for every answer.

    Raises:
        CytosynthError: If the folder is no ImageFolder, names a class that the classifier does not
            know, or holds no readable image.
    """
    tree = read_image_tree(folder)
    strange, strange_notices = image_files([non_cells]) if non_cells else ([], [])
    total = len(tree.images) + len(strange)
    paths = [image.path for image in tree.images]

    def ask(files: list[Path], done: int, model: str) -> list[Classification | CytosynthError]:
        answers = []
        asked = client.classify_each(files, model=model, batch_size=batch_size, options=options)
        for number, answer in enumerate(asked, done + 1):
            answers.append(answer)
            on_answer(number, total)
        return answers

    answers = ask(paths, 0, model)
    read = [
        (image, answer)
        for image, answer in zip(tree.images, answers, strict=True)
        if isinstance(answer, Classification)
    ]
    refused = [answer for answer in answers if isinstance(answer, CytosynthError)]
    if not read:
        raise refused[0]
    first = read[0][1]
    class_ids = tuple(sorted(first.probabilities))
    unknown = sorted({image.class_id for image, _ in read} - set(class_ids))
    if unknown:
        raise invalid_argument(
            str(folder),
            f"{first.model} does not know the class {', '.join(unknown)}",
            f"leave the folder out; it knows {', '.join(class_ids)}",
        )
    labelled = _labelled(class_ids, read)
    figures = {
        "model": first.model,
        "manifest_digest": first.context.manifest_digest,
        "calibrated": first.context.calibrated,
        "coverage": first.context.coverage if first.context.conformal else None,
        "prior_source": first.context.prior_source,
        "class_priors": dict(first.context.class_priors),
        "num_refused": len(refused),
        **figures_of(labelled),
    }
    if strange:
        # The version that answered the cells, whatever an alias does meanwhile.
        others = ask(strange, len(paths), first.model)
        refused += [answer for answer in others if isinstance(answer, CytosynthError)]
        figures |= _strange_figures(labelled, others)
    return Judged(figures, tuple(refused), (*tree.notices, *strange_notices))


def _labelled(
    class_ids: tuple[str, ...], read: list[tuple[Any, Classification]]
) -> LabelledAnswers:
    position = {class_id: n for n, class_id in enumerate(class_ids)}
    answers = [answer for _, answer in read]
    conformal = all(answer.context.conformal for answer in answers)
    scores = [answer.out_of_distribution_score for answer in answers]
    return LabelledAnswers(
        class_ids,
        np.array([position[image.class_id] for image, _ in read]),
        np.array([[answer.probabilities[c] for c in class_ids] for answer in answers]),
        np.array([[c in answer.prediction_set for c in class_ids] for answer in answers])
        if conformal
        else None,
        None if any(score is None for score in scores) else np.array(scores, float),
        np.array([answer.needs_review for answer in answers]),
        [image.patient_id for image, _ in read],
    )


def _strange_figures(
    labelled: LabelledAnswers, others: list[Classification | CytosynthError]
) -> dict[str, Any]:
    answered = [answer for answer in others if isinstance(answer, Classification)]
    scores = [answer.out_of_distribution_score for answer in answered]
    known = [score for score in scores if score is not None]
    reviewed = float(np.mean([a.needs_review for a in answered])) if answered else None
    scored = labelled.scores is not None and len(known) == len(answered) > 0
    return {
        "num_non_cells": len(answered),
        "non_cell_auc": auc(labelled.scores, np.array(known))
        if scored and labelled.scores is not None
        else None,
        "share_of_non_cells_needing_review": reviewed,
    }
