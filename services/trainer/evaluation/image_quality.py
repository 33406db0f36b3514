"""Image quality: distances between features of real and synthetic images.

Per class and overall: FID (Heusel et al. 2017), KID (Bińkowski et al. 2018), CMMD (Jayasumana et
al. 2024); precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al.
2020). torchmetrics, scikit-learn and prdc compute them; here is decided what is compared with what,
and what a figure may be used for at its number of images:

- FID is biased upward, more so for fewer images and by an amount that depends on the generator
  (Chong & Forsyth 2020; Bińkowski et al. 2018), so it ranks nothing when images are few.
- KID and CMMD are given by their unbiased estimators: they scatter around 0 for equal
  distributions at any number of images, and are negative as often. KID is the one to quote. Far
  below 0 they say that one set holds copies of the other's images.
- Precision, recall, density and coverage depend on both numbers of images.

Hence every comparison comes with the same one between two halves of the real images: what a perfect
generator would reach with about that many images.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from prdc import compute_prdc
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.preprocessing import normalize

Features = NDArray[np.floating[Any]]
Labelled = tuple[Features, NDArray[np.integer[Any]]]
"""Features (N, D), and labels (N,): positions in the class ids."""

_SUBSETS = 100
_LARGEST_SUBSET = 1000
_NEAREST_K = 5
_CMMD_SIGMA, _CMMD_SCALE = 10.0, 1000.0
_MOST_IMAGES = 5000
"""Most images of a set in measures over pairs (200 MB a matrix)."""

NOTE_FEW = (
    "Fewer images than features on a side: FID is not comparable with any other, its bias is most "
    "of it. Quote KID, which is unbiased."
)
NOTE_BIASED = (
    "FID is biased upward, more so for fewer images: compare it only between sets of the same "
    "numbers of images. KID is unbiased and the one to quote."
)
NOTE_NO_SPREAD = "Fewer than 4 images on a side: KID and CMMD have no interval."
NOTE_TOO_FEW = "Fewer than 3 images on a side: measures without a value need more."
NOTE_SAMPLED = f"Measures over pairs of images take {_MOST_IMAGES} of each side, drawn at random."


class PrecisionRecall(TypedDict):
    """Precision, recall, density and coverage, None where there are too few images.

    ``nearest_k`` is the number of neighbours that they look at.
    """

    precision: float | None
    recall: float | None
    density: float | None
    coverage: float | None
    nearest_k: int | None


class ImageQuality(PrecisionRecall):
    """All measures between two sets of images; figures are never NaN.

    Attributes:
        n_real, n_synthetic, num_features: Images and features.
        fid, kid, cmmd: None where a set has fewer than 2 images; precision, recall, density and
            coverage are None where it has fewer than 3.
        fid_comparable: Whether both sets have more images than features.
        note: What the numbers of images mean for the figures.
        kid_std, cmmd_std: Standard deviation over random subsets of half the smaller set. Subsets
            spread about as much as the figure itself would over new images (delete-half jackknife;
            more, if the sets differ in number).
        kid_interval, cmmd_interval: 2.5 % and 97.5 % over the same subsets.
    """

    n_real: int
    n_synthetic: int
    num_features: int
    fid: float | None
    fid_comparable: bool
    note: str
    kid: float | None
    kid_std: float | None
    kid_interval: list[float] | None
    cmmd: float | None
    cmmd_std: float | None
    cmmd_interval: list[float] | None


class ClassQuality(TypedDict):
    """All measures overall and by class id."""

    overall: ImageQuality
    per_class: dict[str, ImageQuality]


class ReferencedQuality(ClassQuality):
    """All measures overall and by class id, with a real-to-real reference."""

    real_against_real: ClassQuality


def image_quality(real: Features, synthetic: Features, seed: int = 0) -> ImageQuality:
    """All measures between two sets of images.

    Args:
        real: Features of real images, (N, D); N may be 0.
        synthetic: Features of synthetic images, (M, D); M may be 0.
        seed: Seed of the subsets that KID and CMMD are taken over.

    Raises:
        ValueError: If the features are no (N, D) and (M, D) of finite numbers.
    """
    real, synthetic = _checked(real, "real"), _checked(synthetic, "synthetic")
    if real.shape[1] != synthetic.shape[1]:
        widths = f"{real.shape[1]} and {synthetic.shape[1]}"
        raise ValueError(f"real and synthetic features must be of one space, not {widths} numbers")
    fewest, num_features = min(len(real), len(synthetic)), real.shape[1]
    comparable = fewest > num_features
    notes = [NOTE_BIASED if comparable else NOTE_FEW]
    notes += [NOTE_NO_SPREAD] if fewest < 4 else []
    notes += [NOTE_TOO_FEW] if fewest < 3 else []
    notes += [NOTE_SAMPLED] if max(len(real), len(synthetic)) > _MOST_IMAGES else []
    rng = np.random.default_rng(seed)
    fid = _fid(real, synthetic) if fewest >= 2 else None
    some_real, some_synthetic = _some(real, rng), _some(synthetic, rng)
    kid = _kid(some_real, some_synthetic, rng)
    cmmd = _cmmd(some_real, some_synthetic, rng)
    return {
        "n_real": len(real),
        "n_synthetic": len(synthetic),
        "num_features": num_features,
        "fid": fid,
        "fid_comparable": comparable,
        "note": " ".join(notes),
        "kid": kid.mean,
        "kid_std": kid.std,
        "kid_interval": kid.interval,
        "cmmd": cmmd.mean,
        "cmmd_std": cmmd.std,
        "cmmd_interval": cmmd.interval,
        **_precision_recall(some_real, some_synthetic),
    }


def quality_by_class(
    real: Labelled, synthetic: Labelled, class_ids: Sequence[str], seed: int = 0
) -> ReferencedQuality:
    """All measures per class and overall, with a real-to-real reference.

    Overall takes as many images of a class from one set as from the other, picked at random.
    Another mix of classes therefore does not pass for worse images; images of the wrong class show
    per class only. The halves have as many images of a class, to within one.

    Args:
        real: Locked test images, which no model behind the synthetic ones has seen.
        synthetic: Synthetic images in the same feature space.
        class_ids: Class ids of the labels.
        seed: Seed of what is picked at random.

    Raises:
        ValueError: If labels do not fit the features or the class ids.
    """
    rng = np.random.default_rng(seed)
    reals, synthetics = (_split(labelled, class_ids) for labelled in (real, synthetic))
    shuffled = [features[rng.permutation(len(features))] for features in reals]
    first = [features[: len(features) // 2] for features in shuffled]
    second = [features[len(features) // 2 :] for features in shuffled]
    return {
        **_compare(reals, synthetics, class_ids, seed),
        "real_against_real": _compare(first, second, class_ids, seed),
    }


def _compare(
    real: list[Features], synthetic: list[Features], class_ids: Sequence[str], seed: int
) -> ClassQuality:
    rng = np.random.default_rng(seed)

    def mixed(by_class: list[Features]) -> Features:
        counts = map(min, map(len, real), map(len, synthetic))
        return np.concatenate(
            [x[rng.permutation(len(x))[:count]] for x, count in zip(by_class, counts, strict=True)]
        )

    return {
        "overall": image_quality(mixed(real), mixed(synthetic), seed),
        "per_class": {
            class_id: image_quality(x, y, seed)
            for class_id, x, y in zip(class_ids, real, synthetic, strict=True)
        },
    }


def _split(labelled: Labelled, class_ids: Sequence[str]) -> list[Features]:
    features, labels = labelled
    if labels.shape != (len(features),):
        raise ValueError(f"{len(features)} features need as many labels, not {labels.shape}")
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(class_ids)):
        raise ValueError(f"labels must count {len(class_ids)} classes from 0")
    return [features[labels == label] for label in range(len(class_ids))]


def _checked(features: Features, name: str) -> NDArray[np.float64]:
    if features.ndim != 2 or not features.shape[1]:
        raise ValueError(f"{name} features must be (N, D), not {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError(f"{name} features must be finite")
    return np.asarray(features, np.float64)


def _some(features: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    if len(features) <= _MOST_IMAGES:
        return features
    return features[rng.permutation(len(features))[:_MOST_IMAGES]]


class _Given(torch.nn.Module):
    """A feature network for a metric that is given features."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def _fid(real: NDArray[np.float64], synthetic: NDArray[np.float64]) -> float:
    # Imported here: torchmetrics takes four seconds, which most processes of a study would waste.
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Given(real.shape[1]))
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(synthetic), real=False)
    # Of equal sets, rounding leaves a little on either side of 0.
    return max(0.0, float(metric.compute()))


class _Discrepancy(NamedTuple):
    """Squared maximum mean discrepancy over subsets: mean, standard deviation, interval."""

    mean: float | None = None
    std: float | None = None
    interval: list[float] | None = None


def _kid(
    real: NDArray[np.float64], synthetic: NDArray[np.float64], rng: np.random.Generator
) -> _Discrepancy:
    from torchmetrics.image.kid import poly_kernel

    x, y = torch.from_numpy(real), torch.from_numpy(synthetic)
    return _over_subsets(poly_kernel(x, x), poly_kernel(x, y), poly_kernel(y, y), rng)


def _cmmd(
    real: NDArray[np.float64], synthetic: NDArray[np.float64], rng: np.random.Generator
) -> _Discrepancy:
    """CMMD with the paper's kernel and scale, on features of length 1.

    By the unbiased estimator, as KID: the paper's code keeps the diagonals, by which it is larger
    for fewer images.
    """
    if not min(len(real), len(synthetic)):  # neither normalize nor rbf_kernel takes empty sets
        empty = torch.zeros(0, 0)
        return _over_subsets(empty, empty, empty, rng)
    x, y = normalize(real), normalize(synthetic)
    return _over_subsets(_rbf(x, x), _rbf(x, y), _rbf(y, y), rng)


def _rbf(x: NDArray[np.float64], y: NDArray[np.float64]) -> torch.Tensor:
    return torch.from_numpy(_CMMD_SCALE * rbf_kernel(x, y, gamma=0.5 / _CMMD_SIGMA**2))


def _over_subsets(
    k_xx: torch.Tensor, k_xy: torch.Tensor, k_yy: torch.Tensor, rng: np.random.Generator
) -> _Discrepancy:
    """Squared maximum mean discrepancy (unbiased) over random subsets without replacement.

    torchmetrics' estimator takes sets of the same size, which subsets are.
    """
    from torchmetrics.image.kid import maximum_mean_discrepancy

    fewest = min(len(k_xx), len(k_yy))
    if fewest < 2:
        return _Discrepancy()
    size = min(_LARGEST_SUBSET, max(2, fewest // 2))
    scores = np.empty(_SUBSETS)
    for number in range(_SUBSETS):
        x, y = (torch.from_numpy(rng.permutation(len(k))[:size]) for k in (k_xx, k_yy))
        scores[number] = maximum_mean_discrepancy(
            k_xx[x[:, None], x], k_xy[x[:, None], y], k_yy[y[:, None], y]
        )
    mean = float(scores.mean())
    if fewest < 4:  # a half is no set of pairs
        return _Discrepancy(mean)
    interval: list[float] = np.percentile(scores, (2.5, 97.5)).tolist()
    return _Discrepancy(mean, float(scores.std()), interval)


def _precision_recall(real: NDArray[np.float64], synthetic: NDArray[np.float64]) -> PrecisionRecall:
    """Precision, recall, density and coverage.

    k is at most half of the other images: otherwise the ball around an image holds all of a small
    class, and every image is "covered".
    """
    nearest_k = min(_NEAREST_K, (min(len(real), len(synthetic)) - 1) // 2)
    if nearest_k < 1:
        return {
            "precision": None,
            "recall": None,
            "density": None,
            "coverage": None,
            "nearest_k": None,
        }
    with contextlib.redirect_stdout(io.StringIO()):  # prdc prints the numbers of images
        found = compute_prdc(real, synthetic, nearest_k)
    return {
        "precision": float(found["precision"]),
        "recall": float(found["recall"]),
        "density": float(found["density"]),
        "coverage": float(found["coverage"]),
        "nearest_k": nearest_k,
    }
