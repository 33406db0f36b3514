"""Writes an answer model into a classifier's artifact, and reads it back.

One safetensors file, ``answers.safetensors``, and the key ``answers`` of the manifest's body, which
says what there is. A manifest without the key is of an earlier release.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from services.common.answers.answer_model import AnswerModel
from services.common.answers.calibration import Calibration
from services.common.answers.conformal import Conformal
from services.common.answers.image_checks import ImageChecks
from services.common.answers.outliers import Outliers

ANSWERS_FILE = "answers.safetensors"
BODY_KEY = "answers"
_CHECKS = "image_checks."


@dataclass(frozen=True)
class Support:
    """What a classifier can say beside probabilities.

    Attributes:
        calibrated: Whether probabilities are calibrated.
        conformal: Whether prediction sets can be formed.
        out_of_distribution: Whether images are scored for being out of distribution.
        training_priors: Share of each class that the probabilities assume, by class id.
        reason: Why something is missing; empty if all is there.
    """

    calibrated: bool
    conformal: bool
    out_of_distribution: bool
    training_priors: dict[str, float]
    reason: str = ""


def support_of(body: Mapping[str, Any]) -> Support:
    """What the body of a classifier's manifest promises; reads no file."""
    found = body.get(BODY_KEY)
    if found is None:
        shares = {class_id: 1 / len(body["class_ids"]) for class_id in body["class_ids"]}
        return Support(False, False, False, shares, "made by an earlier release")
    return Support(**{field.name: found[field.name] for field in fields(Support)})


def body_of(model: AnswerModel, reason: str = "") -> dict[str, Any]:
    """Value of the manifest's key ``answers``; ``reason`` says why something is missing."""
    shares = dict(zip(model.class_ids, model.training_priors.tolist(), strict=True))
    return {
        "calibrated": model.calibration is not None,
        "conformal": model.conformal is not None,
        "out_of_distribution": model.outliers is not None,
        "training_priors": shares,
        "reason": reason,
    }


def save_answer_model(model: AnswerModel) -> bytes:
    """Content of ``answers.safetensors``."""
    tensors = {"training_priors": model.training_priors.astype(np.float64)}
    if model.calibration is not None:
        tensors["calibration.temperature"] = np.array([model.calibration.temperature])
        tensors["calibration.biases"] = model.calibration.biases
    if model.conformal is not None:
        tensors["conformal.scores"] = np.concatenate(model.conformal.scores)
        tensors["conformal.counts"] = np.array([len(each) for each in model.conformal.scores])
    if model.outliers is not None:
        tensors["outliers.bank"] = model.outliers.bank
        tensors["outliers.scale"] = np.array([model.outliers.scale])
    if model.image_checks is not None:
        for field in fields(ImageChecks):
            value = getattr(model.image_checks, field.name)
            tensors[_CHECKS + field.name] = np.atleast_1d(np.asarray(value, float))
    return save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})


def parse_answer_model(class_ids: Sequence[str], data: bytes) -> AnswerModel:
    """The model that ``save_answer_model`` wrote.

    Raises:
        ValueError: If it is of other classes.
    """
    tensors = load(data)
    priors = tensors["training_priors"]
    if len(priors) != len(class_ids):
        raise ValueError(f"{len(priors)} classes were fitted, not {len(class_ids)}")
    calibration = conformal = outliers = checks = None
    if "calibration.biases" in tensors:
        temperature = float(tensors["calibration.temperature"][0])
        calibration = Calibration(temperature, tensors["calibration.biases"])
    if "conformal.scores" in tensors:
        ends = np.cumsum(tensors["conformal.counts"])[:-1]
        conformal = Conformal(tuple(np.split(tensors["conformal.scores"], ends)))
    if "outliers.bank" in tensors:
        outliers = Outliers(tensors["outliers.bank"], float(tensors["outliers.scale"][0]))
    if f"{_CHECKS}look_mean" in tensors:
        values: dict[str, Any] = {f.name: tensors[_CHECKS + f.name] for f in fields(ImageChecks)}
        values |= {name: float(values[name][0]) for name in ("sharpness_low", "look_scale")}
        checks = ImageChecks(**values)
    return AnswerModel(tuple(class_ids), priors, calibration, conformal, outliers, checks)


def load_answer_model(body: Mapping[str, Any], read: Callable[[str], bytes]) -> AnswerModel:
    """The answer model of a classifier.

    Args:
        body: Body of its manifest.
        read: Gives a file of its artifact by path.

    Returns:
        ``AnswerModel.plain`` for a manifest of an earlier release.

    Raises:
        DataLoss: As ``read`` does.
        ValueError: If the file is of other classes.
    """
    if BODY_KEY not in body:
        return AnswerModel.plain(body["class_ids"])
    return parse_answer_model(body["class_ids"], read(ANSWERS_FILE))
