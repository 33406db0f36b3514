"""Membership inference: an attack that tells training images from others.

The attack compares how well the base denoises an image with and without the adapter. An image that
the adapter has memorized gains more than one it has never seen:

- The denoising loss at middle noise tells members best (Matsumoto et al. 2023, "Membership
  Inference Attacks against Diffusion Models"; Carlini et al. 2023, "Extracting Training Data from
  Diffusion Models", section 5.2).
- Images differ in difficulty. Subtracting the loss under the base, which has seen neither split,
  takes that out (difficulty calibration, Watson et al. 2022). Comparing within a class does so too.
- The AUC comes with true positive rates at 5 and 1 % false positives (Carlini et al. 2022,
  "Membership Inference Attacks From First Principles").

The attacker knows the prompt and both sets of weights, as whoever holds the artifact does, but not
the order or noise of training. Stronger attacks train many adapters (shadow models) first. An AUC
of 0.5 says that this attack learns nothing, not that there is nothing to learn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import TYPE_CHECKING, SupportsFloat, TypedDict

import numpy as np
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from cytosynth.cell_classes import class_prompt
from services.common.models import lora
from services.common.models.diffusion_bases import Base, load_pipeline
from services.trainer.adapters.diffusion_loss import predict, target_and_weight
from services.trainer.adapters.latents import encode_images
from services.trainer.adapters.training import SHARED
from services.trainer.compute.mixed_precision import mixed_precision
from services.trainer.datasets.reading import SplitImages

if TYPE_CHECKING:
    from services.common.models.pipelines import Pipeline
    from services.trainer.compute.training_run import ProgressFn

PHASE_AUDIT = "auditing the adapter"
METHOD = (
    "gain in denoising loss, base less base + adapter, mean over 5 noise levels "
    "(0.3 to 0.7 of the schedule), within classes; threshold attack"
)
MAX_IMAGES = 96
"""Members, and non-members, at most: the interval is then about ± 0.08."""
_NOISE_LEVELS = (0.3, 0.4, 0.5, 0.6, 0.7)
"""Shares of the training timesteps. At less noise the small bases' adapters give nothing away, and
a mean over such levels would flatter them (docs/lab-notebook.md)."""
_BATCH_SIZE = 32
_NUM_RESAMPLES = 2000


class AttackFigures(TypedDict):
    """AUC, its 95 % interval, and true positive rates.

    The rates are at 5 % and 1 % false positives.
    """

    auc: float
    low: float
    high: float
    tpr_at_5_fpr: float
    tpr_at_1_fpr: float


class AuditedImages(TypedDict):
    """Numbers of audited images, and the method."""

    num_members: int
    num_non_members: int
    method: str


class MeasuredAudit(AttackFigures, AuditedImages):
    """An audit that found figures."""


class UnmeasuredAudit(AuditedImages):
    """An audit without figures, and the reason."""

    auc: None
    reason: str


Audit = MeasuredAudit | UnmeasuredAudit


def audit_counts(members: Mapping[str, Sized], non_members: Mapping[str, Sized]) -> dict[str, int]:
    """Images of each class to audit, as many members as others.

    With equal numbers the attack cannot win by telling classes apart.

    Args:
        members: Training images by class id.
        non_members: Held-out images by class id.
    """
    most = {each: min(len(m), len(non_members.get(each, ()))) for each, m in members.items()}
    limits = range(1, 1 + max(most.values(), default=0))
    fitting = [limit for limit in limits if _total(most, limit) <= MAX_IMAGES]
    # With more classes than images allowed: one image each of the first classes.
    limit = fitting[-1] if fitting else 1
    chosen = {each: min(num, limit) for each, num in most.items() if num}
    return dict(sorted(chosen.items())[:MAX_IMAGES])


def _total(most: Mapping[str, int], limit: int) -> int:
    return sum(min(num, limit) for num in most.values())


def audit_adapter(
    base: Base,
    files: Mapping[str, bytes],
    members: SplitImages,
    non_members: SplitImages,
    progress: ProgressFn,
    seed: int = 0,
    device: str = "cpu",
) -> Audit:
    """Attacks an adapter and measures how well members are found.

    Args:
        base: The base that the adapter was trained on.
        files: LoRA file by path: ``shared/…`` or ``<class_id>/…``.
        members: Training images at the base's size, as many of each class as ``non_members``.
        non_members: Held-out images.
        progress: Called for every batch; what it raises ends the audit.
        seed: Seed of noise and bootstrap resamples.
        device: torch device.

    Returns:
        Figures, or the reason why there are none: a split has fewer than two images, or a loss is
        not finite.
    """
    audited: AuditedImages = {
        "num_members": len(members.images),
        "num_non_members": len(non_members.images),
        "method": METHOD,
    }
    if min(len(members.images), len(non_members.images)) < 2:
        reason = "fewer than two training or held-out images of the same classes"
        return {"auc": None, "reason": reason, **audited}
    progress(PHASE_AUDIT, 0, 0, {})
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    images = np.concatenate([members.images, non_members.images])
    class_ids = (*members.class_ids, *non_members.class_ids)
    scores = gains(load_pipeline(base, device, dtype), files, images, class_ids, progress, seed)
    if not np.isfinite(scores).all():
        return {"auc": None, "reason": "a loss is not finite", **audited}
    scores = _within_classes(scores, class_ids)
    found = attack_figures(scores[: len(members.images)], scores[len(members.images) :], seed)
    return {**found, **audited}


@torch.no_grad()
def gains(
    pipeline: Pipeline,
    files: Mapping[str, bytes],
    images: np.ndarray,
    class_ids: Sequence[str],
    progress: ProgressFn,
    seed: int,
) -> np.ndarray:
    """The adapter's reduction of each image's denoising loss, (N,).

    Images are upright. In training they came in eight orientations, all equally often.
    """
    latents = encode_images(pipeline, images, class_ids, progress, num_views=1).mean[:, 0]
    all_rows = list(range(len(images)))
    rows_of = {
        path: [row for row in all_rows if path.split("/")[0] in (SHARED, class_ids[row])]
        for path in sorted(files)
    }
    num_steps = len(_NOISE_LEVELS) * sum(len(_batches(r)) for r in (all_rows, *rows_of.values()))
    steps = iter(range(num_steps))

    def losses(rows: list[int]) -> np.ndarray:
        def tick() -> None:
            progress(PHASE_AUDIT, next(steps), num_steps, {})

        return _losses(pipeline, latents[rows], [class_ids[row] for row in rows], seed, tick)

    found = losses(all_rows)
    for path, rows in rows_of.items():
        lora.load_lora(pipeline, files[path])
        found[rows] -= losses(rows)
        lora.remove_lora(pipeline)
    return found


def _losses(
    pipeline: Pipeline,
    latents: torch.Tensor,
    class_ids: Sequence[str],
    seed: int,
    tick: Callable[[], None],
) -> np.ndarray:
    """Denoising loss (N,) of latents (N, C, h, w), noise levels averaged.

    Every image gets the same noise, with and without the adapter, so that only images differ.
    """
    device = pipeline.unet.device
    alphas_cumprod = pipeline.scheduler.alphas_cumprod.float()
    total = np.zeros(len(latents))
    for level in _NOISE_LEVELS:
        timestep = int(level * len(alphas_cumprod))
        digest = hashlib.sha256(f"{seed}\n{timestep}".encode()).digest()
        generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:7], "big"))
        noise_of_all = torch.randn(latents.shape[1:], generator=generator)
        for rows in _batches(list(range(len(latents)))):
            tick()
            clean = latents[rows]
            alpha = alphas_cumprod[timestep].expand(len(rows), 1, 1, 1)
            noise = noise_of_all.expand_as(clean)
            noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
            kind = pipeline.scheduler.config.prediction_type
            target, _ = target_and_weight(kind, clean, noise, alpha, 0.0)
            timesteps = torch.full((len(rows),), timestep, device=device)
            prompts = [class_prompt(class_ids[row]) for row in rows]
            with mixed_precision(device):
                predicted = predict(pipeline, noisy.to(device), timesteps, prompts)
            error = (predicted.float() - target.to(device)).square().mean(dim=(1, 2, 3))
            total[rows] += error.cpu().numpy()
    return total / len(_NOISE_LEVELS)


def _batches(rows: list[int]) -> list[list[int]]:
    return [rows[start : start + _BATCH_SIZE] for start in range(0, len(rows), _BATCH_SIZE)]


def _within_classes(scores: np.ndarray, class_ids: Sequence[str]) -> np.ndarray:
    """Scores minus the mean of their class over members and non-members."""
    names = np.array(class_ids)
    centred = scores.copy()
    for class_id in set(class_ids):
        centred[names == class_id] -= scores[names == class_id].mean()
    return centred


def attack_figures(members: np.ndarray, others: np.ndarray, seed: int) -> AttackFigures:
    """AUC with 95 % bootstrap interval, and true positive rates.

    Args:
        members: Scores of members, (M,); a higher score means "was trained on".
        others: Scores of non-members, (N,).
        seed: Seed of the bootstrap resamples.
    """
    labels = np.repeat([1, 0], [len(members), len(others)])
    scores = np.concatenate([members, others])
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    # A resample's AUC: the share of its pairs in which the member scores higher (Mann-Whitney).
    wins = (members[:, None] > others) + 0.5 * (members[:, None] == others)
    rng = np.random.default_rng(seed)
    times_a, times_b = (
        rng.multinomial(num, np.full(num, 1 / num), _NUM_RESAMPLES) for num in wins.shape
    )
    resampled = np.einsum("rm,mn,rn->r", times_a, wins, times_b, optimize=True) / wins.size
    low, high = np.percentile(resampled, [2.5, 97.5])
    return {
        "auc": _rounded(roc_auc_score(labels, scores)),
        "low": _rounded(low),
        "high": _rounded(high),
        "tpr_at_5_fpr": _rounded(true[false <= 0.05].max()),
        "tpr_at_1_fpr": _rounded(true[false <= 0.01].max()),
    }


def _rounded(value: SupportsFloat) -> float:
    return round(float(value), 4)
