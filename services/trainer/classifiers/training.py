"""The training loop of a classifier, with and without synthetic images.

Both arms take the same number of optimizer steps. Every step has a real batch of the same size,
picked and augmented the same way from the same seed. The second arm adds a synthetic batch to every
step, with loss ``(1 - w) * real + w * synthetic``. A class that has many real images needs its
synthetic ones less (``synthetic_weights``). A step uses a random generator seeded by (seed, step)
alone, so a resumed run repeats an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import math
import time
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn
from torch.nn import functional as F

from services.common.models.image_classifier import ImageClassifier
from services.trainer.augmentation.augment import augment, mix
from services.trainer.augmentation.settings import AugmentSettings
from services.trainer.augmentation.stain_transfer import Stains, stains_of, transfer_stain
from services.trainer.classifiers.recipe import Hyperparameters
from services.trainer.classifiers.training_images import LabelledImages, SyntheticImages
from services.trainer.compute.mixed_precision import mixed_precision
from services.trainer.compute.training_run import (
    PHASE_TRAIN_CLASSIFIER,
    Checkpoints,
    ProgressFn,
)

#: Batches of real images over which BatchNorm statistics are taken at the end.
_BATCHNORM_BATCHES = 24


def synthetic_share(step: int, num_steps: int) -> float:
    """Share of the synthetic images that a step picks from.

    Training starts on the first eighth and meets every image for the last two fifths, so it
    overlaps with generation; that the share depends on the step and not on what has come so
    far makes the run repeatable.
    """
    return min(1.0, 0.125 + 0.875 * step / max(1.0, 0.6 * num_steps))


def train(
    model: ImageClassifier,
    real: LabelledImages,
    synthetic: SyntheticImages | None,
    hparams: Hyperparameters,
    device: torch.device,
    progress: ProgressFn,
    checkpoints: Checkpoints,
) -> dict[str, float]:
    """Trains ``model`` in place; leaves it in eval mode with averaged weights.

    Args:
        model: Fresh; its weights are replaced if a checkpoint exists.
        real: Few-shot images of every class.
        synthetic: Synthetic images, or None for the real-only arm.
        hparams: Steps, batch sizes, rates.
        device: Where to compute.
        progress: Called once a step; may raise to stop.
        checkpoints: Saved to when due, and resumed from.

    Returns:
        The last losses and the seconds spent.
    """
    started = time.monotonic()
    model.to(device).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    # One kernel for all parameters: 10 ms for a ResNet-18 on one core, 51 one after the other.
    optimizer = torch.optim.AdamW(
        _parameter_groups(model, hparams), lr=hparams.learning_rate, fused=True
    )
    average = [p.detach().clone() for p in trained]
    first = _resume(model, optimizer, average, checkpoints)
    num_classes = len(model.config.class_ids)
    losses: dict[str, float] = {}
    stains = stains_of(real.images, device) if hparams.augment.stain_transfer else None
    weights = {
        "loss_real": torch.ones(num_classes, device=device),
        "loss_synthetic": synthetic_weights(real.labels, num_classes, hparams.enough_real).to(
            device
        ),
    }
    for step in range(first, hparams.num_steps):
        rate = learning_rate(step, hparams)
        for group in optimizer.param_groups:
            group["lr"] = rate
        generator = step_generator(hparams.seed, step)
        optimizer.zero_grad(set_to_none=True)
        real_weight = 1.0 if synthetic is None else 1 - hparams.loss_weight
        # Real and synthetic images pass the network apart: each batch is normalised by its
        # own statistics, so the real path is the same in both arms.
        parts = [("loss_real", real, hparams.batch_size, real_weight)]
        if synthetic is not None and hparams.loss_weight > 0:
            arrived = synthetic.wait_for(synthetic_share(step, hparams.num_steps))
            parts.append(
                (
                    "loss_synthetic",
                    arrived,
                    hparams.synthetic_batch_size,
                    hparams.loss_weight,
                )
            )
        for name, source, batch_size, weight in parts:
            x, target = sample_batch(
                source, batch_size, num_classes, hparams, stains, generator, device
            )
            with mixed_precision(device):
                logits = model.logits(x)
            losses_of_images = F.cross_entropy(logits, target, reduction="none")
            # Of a mixed image, the class that it shows most of.
            loss = (losses_of_images * weights[name][target.argmax(1)]).mean()
            (weight * loss).backward()
            losses[name] = float(loss.detach())
        nn.utils.clip_grad_norm_(trained, hparams.max_gradient_norm)
        optimizer.step()
        decay = min(hparams.average_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(average, [p.detach() for p in trained], 1 - decay)
        if checkpoints.due():
            _save(model, optimizer, average, step + 1, checkpoints)
        progress(PHASE_TRAIN_CLASSIFIER, step + 1, hparams.num_steps, losses)
    with torch.no_grad():
        for parameter, mean in zip(trained, average, strict=True):
            parameter.copy_(mean)
    recalibrate_batchnorm(model, real, hparams, device)
    model.eval()
    return {**losses, "seconds": time.monotonic() - started}


def synthetic_weights(labels: np.ndarray, num_classes: int, enough: int) -> torch.Tensor:
    """Weight of synthetic images of each class beside its real ones.

    Synthetic cells of a class are never quite those of the laboratory. Where real cells are few,
    synthetic ones show what those do not; where real ones are many, faults of synthetic ones weigh
    more than what is new (docs/lab-notebook.md). Hence synthetic cells count in full up to
    ``enough`` real images, and in inverse proportion to the real images beyond.

    Args:
        labels: int (N,), classes of the real images.
        num_classes: Classes of the classifier.
        enough: Real images; 0: all count in full.

    Returns:
        (num_classes,), each over 0 and at most 1.
    """
    counts = torch.from_numpy(np.bincount(labels, minlength=num_classes)).float()
    return (enough / counts.clamp_min(1)).clamp(max=1) if enough else torch.ones(num_classes)


def sample_batch(
    source: LabelledImages,
    batch_size: int,
    num_classes: int,
    hparams: Hyperparameters,
    stains: Stains | None,
    generator: torch.Generator,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Augmented images and smoothed targets of a batch.

    Images are (B, 3, S, S) in 0 to 1, targets (B, classes).
    """
    picked = pick_balanced(source.labels, batch_size, generator)
    pixels = torch.from_numpy(np.ascontiguousarray(source.images[picked])).to(device)
    images = pixels.permute(0, 3, 1, 2).float() / 255
    if stains is not None:
        images = transfer_stain(images, stains, generator, hparams.augment.stain_transfer)
    images = augment(images, generator, hparams.augment)
    labels = torch.from_numpy(source.labels[picked]).long().to(device)
    target = F.one_hot(labels, num_classes).float()
    target = target * (1 - hparams.label_smoothing) + hparams.label_smoothing / num_classes
    return mix(images, target, generator, hparams.augment.mix)


def pick_balanced(labels: np.ndarray, batch_size: int, generator: torch.Generator) -> np.ndarray:
    """Positions of ``batch_size`` images, balanced over the classes.

    Class counts differ by one at most.

    Which classes come once more is random, and so is the image within a class.
    """
    classes = np.unique(labels)
    seed = int(torch.randint(2**62, (1,), generator=generator))
    rng = np.random.default_rng(seed)
    repeats = -(-batch_size // len(classes))
    wanted = np.concatenate([rng.permutation(classes) for _ in range(repeats)])[:batch_size]
    members = {c: np.flatnonzero(labels == c) for c in classes}
    return np.array([rng.choice(members[c]) for c in wanted])


def step_generator(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step."""
    digest = hashlib.sha256(f"{seed}:{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def learning_rate(step: int, hparams: Hyperparameters) -> float:
    """Linear warm-up, then a cosine down to a hundredth of the peak."""
    if step < hparams.warmup_steps:
        return hparams.learning_rate * (step + 1) / hparams.warmup_steps
    done = (step - hparams.warmup_steps) / max(1, hparams.num_steps - hparams.warmup_steps)
    return hparams.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


@torch.no_grad()
def recalibrate_batchnorm(
    model: ImageClassifier,
    real: LabelledImages,
    hparams: Hyperparameters,
    device: torch.device,
) -> None:
    """BatchNorm statistics of the averaged weights, from augmented real images.

    The running statistics belong to the weights that were in use while they were gathered,
    and averaged weights were never in use.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain average over the batches
    model.train()
    plain = AugmentSettings(
        brightness=0, contrast=0, saturation=0, stain=0, sharpness=0, resample_share=0.5
    )
    num_classes = len(model.config.class_ids)
    calm = hparams.with_augment(plain)
    for number in range(_BATCHNORM_BATCHES):
        generator = step_generator(hparams.seed, hparams.num_steps + number)
        x, _ = sample_batch(real, hparams.batch_size, num_classes, calm, None, generator, device)
        model.logits(x)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def _parameter_groups(model: nn.Module, hparams: Hyperparameters) -> list[dict[str, Any]]:
    """Parameter groups: weight decay on matrices and kernels alone."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {
            "params": [p for p in trained if p.ndim > 1],
            "weight_decay": hparams.weight_decay,
        },
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _save(
    model: ImageClassifier,
    optimizer: torch.optim.Optimizer,
    average: list[torch.Tensor],
    step: int,
    checkpoints: Checkpoints,
) -> None:
    tensors = {f"model.{k}": v for k, v in model.learned_state().items()}
    tensors |= {f"average.{i}": v for i, v in enumerate(average)}
    for i, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{slot}": value for slot, value in slots.items()}
    kept = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    checkpoints.save({"step": step}, {"classifier.safetensors": save_tensors(kept)})


def _resume(
    model: ImageClassifier,
    optimizer: torch.optim.Optimizer,
    average: list[torch.Tensor],
    checkpoints: Checkpoints,
) -> int:
    """Puts back the last checkpoint; gives the first step still to do."""
    found = checkpoints.load()
    if found is None:
        return 0
    state, files = found
    tensors = load_tensors(files["classifier.safetensors"])
    model.load_learned_state(
        {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    )
    for i, mean in enumerate(average):
        mean.copy_(tensors[f"average.{i}"])
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, slot = key.split(".")
            slots.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
    # Files hold tensors row by row; the fused step reads memory in the parameter's own order
    # (channels last for kernels) and does not look at strides.
    for parameter, slot in optimizer.state.items():
        for name, value in slot.items():
            if value.shape == parameter.shape:
                slot[name] = torch.empty_like(parameter).copy_(value)
    return int(state["step"])
