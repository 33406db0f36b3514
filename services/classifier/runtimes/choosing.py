"""Chooses what computes a classifier, and holds it to what torch says."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.special import softmax

from services.classifier.runtimes.openvino_runtime import OpenVinoRuntime
from services.classifier.runtimes.runtime import Runtime, TorchRuntime

if TYPE_CHECKING:
    import torch

    from services.common.models.image_classifier import ImageClassifier

Asked = Literal["auto", "torch", "openvino"]
MAX_DIFFERENCE = 1e-3
"""Largest difference of a probability to torch's that is accepted."""
_MAX_FEATURE_DIFFERENCE = 1e-2
_logger = logging.getLogger("cytosynth.runtimes")


def choose_runtime(
    asked: Asked,
    network: ImageClassifier,
    device: torch.device,
    num_threads: int,
    num_streams: int,
) -> Runtime:
    """Finds the fastest runtime that agrees with torch.

    Args:
        asked: ``auto`` is OpenVINO on the CPU and torch elsewhere.
        network: In eval mode, on ``device``.
        device: Device to compute on.
        num_threads: CPU threads of one batch.
        num_streams: Batches computed at once.

    Returns:
        What was asked for, or torch where that cannot be had; the log says why.
    """
    reference = TorchRuntime(network, device)
    if asked == "torch":
        return reference
    if device.type != "cpu":
        return _torch(reference, asked, "it computes on the CPU only")
    try:
        runtime = OpenVinoRuntime(network, num_threads * num_streams, num_streams)
    except ImportError:
        return _torch(reference, asked, "it is not installed")
    except Exception as error:  # of many kinds, as converters go
        return _torch(reference, "openvino", f"it cannot convert the network: {error}")
    problem = parity_problem(reference, runtime, network.config.image_size)
    return _torch(reference, "openvino", problem) if problem else runtime


def parity_problem(reference: Runtime, runtime: Runtime, image_size: int) -> str:
    """Disagreement of a runtime with the reference; empty without any."""
    images_BHWC = _probes(image_size)
    expected_BD, expected_BC = reference.run(images_BHWC)
    found_BD, found_BC = runtime.run(images_BHWC)
    difference = np.abs(softmax(found_BC, axis=1) - softmax(expected_BC, axis=1)).max()
    if not difference <= MAX_DIFFERENCE:  # not a number neither
        return f"its probabilities differ by {difference:.2g} from torch's"
    largest = max(float(np.abs(expected_BD).max()), 1e-6)
    difference = np.abs(found_BD - expected_BD).max() / largest
    if not difference <= _MAX_FEATURE_DIFFERENCE:
        return f"its features differ by {difference:.2g} of their largest from torch's"
    return ""


def _probes(size: int) -> np.ndarray:
    """Noise, disc, gradient and blank picture: uint8 (4, size, size, 3)."""
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3))
    y, x = np.mgrid[:size, :size] / size - 0.5
    disc = np.where((np.hypot(y, x) < 0.3)[..., None], [90, 50, 160], [235, 225, 230])
    gradient = np.stack([255 * (x + 0.5), 255 * (y + 0.5), 128 + 0 * x], axis=-1)
    return np.stack([noise, disc, gradient, np.full_like(noise, 240)]).astype(np.uint8)


def _torch(reference: Runtime, asked: str, reason: str) -> Runtime:
    level = logging.INFO if asked == "auto" else logging.WARNING
    _logger.log(level, "torch computes the classifier instead of OpenVINO: %s", reason)
    return reference
