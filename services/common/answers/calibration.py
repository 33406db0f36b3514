"""Bias-corrected temperature scaling (Alexandari, Kundaje and Shrikumar 2020).

Calibrated logits are ``logits / temperature + biases``. Slope and biases are the maximum a
posteriori estimate on held-out logits. Gaussian priors around "no change" let a class with few
images move little. The loss is convex in slope and biases.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

#: Standard deviations of the priors of slope and biases.
_SLOPE_SD, _BIAS_SD = 1.0, 0.5
_SLOPES = (0.02, 20.0)


@dataclass(frozen=True)
class Calibration:
    """Temperature and one bias per class, (C,); the biases sum to 0."""

    temperature: float
    biases: np.ndarray

    def probabilities(self, logits_BC: np.ndarray) -> np.ndarray:
        """Calibrated probabilities (B, C), rows sum to 1."""
        return softmax(np.asarray(logits_BC, float) / self.temperature + self.biases, axis=1)


def fit_calibration(
    logits_NC: np.ndarray, labels_N: np.ndarray, priors_C: np.ndarray
) -> Calibration:
    """Fits temperature and biases on held-out logits.

    Args:
        logits_NC: Logits of images that the network did not learn from.
        labels_N: Their classes; every class occurs.
        priors_C: Shares of the classes that the probabilities are to assume. Images are weighted
            so that their classes have these shares.

    Raises:
        ValueError: If a class has no image.
    """
    logits = np.asarray(logits_NC, float)
    num_images, num_classes = logits.shape
    counts = np.bincount(labels_N, minlength=num_classes)
    if not counts.all():
        raise ValueError("a class has no held-out image")
    weights = (priors_C / counts)[labels_N] * num_images
    rows = np.arange(num_images)
    is_label = np.eye(num_classes)[labels_N]

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        slope, biases = parameters[0], parameters[1:]
        log_p = log_softmax(slope * logits + biases, axis=1)
        slack = weights[:, None] * (np.exp(log_p) - is_label)
        value = -(weights * log_p[rows, labels_N]).sum()
        value += 0.5 * ((slope - 1) / _SLOPE_SD) ** 2 + 0.5 * (biases**2).sum() / _BIAS_SD**2
        gradient = np.concatenate(
            [
                [(slack * logits).sum() + (slope - 1) / _SLOPE_SD**2],
                slack.sum(axis=0) + biases / _BIAS_SD**2,
            ]
        )
        return float(value), gradient

    start = np.concatenate([[1.0], np.zeros(num_classes)])
    bounds = [_SLOPES, *[(None, None)] * num_classes]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return Calibration(float(1 / found[0]), found[1:] - found[1:].mean())


def logit_spread(logits_NC: np.ndarray) -> float:
    """Root mean square of logits around each image's mean."""
    logits = np.asarray(logits_NC, float)
    return max(float((logits - logits.mean(axis=1, keepdims=True)).std()), 1e-6)
