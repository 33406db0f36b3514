"""Trains LoRA adapters on a diffusion base (Hu et al. 2021).

Every random value of a step is a function of (seed, step). A run that continues from its checkpoint
therefore ends with the same bytes as one that was never interrupted.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from cytosynth.cell_classes import class_prompt
from services.common.errors import FailedPrecondition
from services.common.models import lora
from services.common.models.diffusion_bases import Base, load_pipeline
from services.trainer.adapters.diffusion_loss import predict, target_and_weight
from services.trainer.adapters.latents import EncodedImages, encode_images
from services.trainer.adapters.prior_images import generate_prior_images, known_classes
from services.trainer.adapters.recipe import AdapterSettings
from services.trainer.compute.mixed_precision import mixed_precision
from services.trainer.compute.training_run import Checkpoints, ProgressFn

if TYPE_CHECKING:
    from services.common.models.pipelines import Pipeline

SHARED = "shared"
PHASE_LOAD = "loading base model"
PHASE_TRAIN = "training adapter"
#: Weight of the newest loss in the running mean that is reported.
_LOSS_MOMENTUM = 0.05
_PRIOR_VIEWS = 4


@dataclass(frozen=True)
class FittedAdapter:
    """Result of an adapter training.

    Attributes:
        files: LoRA file by path: ``shared/…`` or ``<class_id>/…``.
        metrics: ``loss_first`` and ``loss_last`` (running means), ``seconds``, ``num_images``.
    """

    files: dict[str, bytes]
    metrics: dict[str, float]


def train_adapter(
    images: np.ndarray,
    class_ids: Sequence[str],
    base: Base,
    settings: AdapterSettings,
    progress: ProgressFn,
    checkpoints: Checkpoints,
    device: str = "cpu",
) -> FittedAdapter:
    """Trains one adapter for all classes, or one per class.

    Args:
        images: uint8 (N, S, S, 3), S the base's image size.
        class_ids: Class of each image.
        base: The diffusion base.
        settings: Hyperparameters, the steps filled in.
        progress: Called every step; what it raises ends the training.
        checkpoints: Where to continue from and what to continue with.
        device: torch device.
    """
    started = time.monotonic()
    progress(PHASE_LOAD, 0, 0, {})
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    pipeline = load_pipeline(base, device, dtype)
    views = settings.num_views, settings.seed
    encoded = encode_images(pipeline, images, class_ids, progress, *views)
    known = known_classes(class_ids, base.class_ids) if settings.num_prior_images else {}
    prior = None
    if known:
        of_base = settings.num_prior_images, images, class_ids, settings.seed, progress
        prior_images, prior_ids = generate_prior_images(pipeline, known, *of_base)
        prior = encode_images(pipeline, prior_images, prior_ids, progress, _PRIOR_VIEWS)
    units = sorted(set(class_ids)) if settings.per_class else [SHARED]
    run = _Run(pipeline, encoded, prior, units, settings, progress, checkpoints)
    files = run.train_all()
    metrics = {
        "num_images": float(len(images)),
        "num_prior_images": float(len(prior.class_ids) if prior else 0),
        "seconds": round(time.monotonic() - started, 1),
        **{key: round(value, 5) for key, value in run.metrics.items()},
    }
    return FittedAdapter(files, metrics)


class _Run:
    """The state of one training run: which adapter, which step, which weights."""

    def __init__(
        self,
        pipeline: Pipeline,
        encoded: EncodedImages,
        prior: EncodedImages | None,
        units: list[str],
        settings: AdapterSettings,
        progress: ProgressFn,
        checkpoints: Checkpoints,
    ) -> None:
        self._pipeline, self._units = pipeline, units
        self._encoded, self._prior = encoded, prior
        self._settings, self._progress = settings, progress
        self._checkpoints = checkpoints
        self._alphas_cumprod = pipeline.scheduler.alphas_cumprod.float()
        self._finished: dict[str, bytes] = {}
        self.metrics: dict[str, float] = {}

    def train_all(self) -> dict[str, bytes]:
        """LoRA file by path, every unit trained."""
        state, files = self._resume()
        for unit in self._units[len(self._finished) :]:
            self._train_one(unit, state, files)
            state, files = {}, {}
        return {f"{unit}/{lora.WEIGHTS_FILE}": data for unit, data in self._finished.items()}

    def _resume(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        found = self._checkpoints.load()
        if found is None or found[0].get("settings") != self._fingerprint():
            return {}, {}
        state, files = found
        self.metrics = dict(state["metrics"])
        self._finished = {unit: files[f"finished/{unit}"] for unit in state["finished"]}
        return state, files

    def _train_one(self, unit: str, state: dict[str, Any], files: dict[str, bytes]) -> None:
        parameters = lora.add_lora(self._pipeline, self._settings.lora, self._seed(unit, "start"))
        optimizer = torch.optim.AdamW(
            parameters.values(),
            lr=self._settings.learning_rate,
            weight_decay=self._settings.weight_decay,
        )
        first_step = int(state.get("step", 0))
        if first_step:
            _restore(parameters, optimizer, files)
        class_ids = sorted(set(self._encoded.class_ids)) if unit == SHARED else [unit]
        done = self._settings.num_steps * len(self._finished)
        total = self._settings.num_steps * len(self._units)
        for step in range(first_step, self._settings.num_steps):
            self._progress(PHASE_TRAIN, done + step, total, self.metrics)
            loss = self._step(unit, step, class_ids, parameters, optimizer)
            if not math.isfinite(loss):
                remedy = "train again with a lower learning_rate"
                raise FailedPrecondition("training", "the loss is no longer a number", remedy)
            self.metrics.setdefault("loss_first", loss)
            mean = self.metrics.get("loss", loss)
            self.metrics["loss"] = mean + _LOSS_MOMENTUM * (loss - mean)
            if self._checkpoints.due():
                self._save(step + 1, parameters, optimizer)
        self._finished[unit] = lora.lora_file(self._pipeline)
        lora.remove_lora(self._pipeline)
        self._progress(PHASE_TRAIN, done + self._settings.num_steps, total, self.metrics)
        if len(self._finished) < len(self._units):
            self._save(0, {}, optimizer)

    def _step(
        self,
        unit: str,
        step: int,
        class_ids: list[str],
        parameters: dict[str, torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
    ) -> float:
        """One optimizer step; returns the loss."""
        settings, device = self._settings, self._pipeline.unet.device
        rng = np.random.default_rng(self._seed(unit, f"step {step}"))
        noise_rng = torch.Generator("cpu").manual_seed(self._seed(unit, f"noise {step}"))
        classes = _balanced_classes(class_ids, step, settings.batch_size, rng)
        sampled = [self._source(class_id, rng).sample(class_id, rng) for class_id in classes]
        mean, std = (torch.stack(parts) for parts in zip(*sampled, strict=True))
        dropped = rng.random(len(classes)) < settings.caption_dropout
        num_train_timesteps = len(self._alphas_cumprod)
        # One timestep from each of equal slices: a lower variance than independent samples.
        slices = (np.arange(len(classes)) + rng.random(len(classes))) / len(classes)
        timesteps = torch.from_numpy((slices * num_train_timesteps).astype(np.int64))

        latents = mean + std * torch.randn(mean.shape, generator=noise_rng)
        noise = torch.randn(mean.shape, generator=noise_rng)
        alpha = self._alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        target, weight = target_and_weight(
            self._pipeline.scheduler.config.prediction_type,
            latents,
            noise,
            alpha,
            settings.min_snr_gamma,
        )
        prompts = [
            "" if drop else class_prompt(class_id)
            for class_id, drop in zip(classes, dropped, strict=True)
        ]
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate_at(step)
        with mixed_precision(device):
            predicted = predict(self._pipeline, noisy.to(device), timesteps.to(device), prompts)
        error = (predicted.float() - target.to(device)).square().mean(dim=(1, 2, 3))
        loss = (error * weight.view(-1).to(device)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), settings.max_gradient_norm)
        optimizer.step()
        return float(loss.detach())

    def _source(self, class_id: str, rng: np.random.Generator) -> EncodedImages:
        """Chooses between real images and prior images."""
        if self._prior is None or class_id not in self._prior.class_ids:
            return self._encoded
        return self._prior if rng.random() < self._settings.prior_share else self._encoded

    def _save(
        self,
        step: int,
        parameters: dict[str, torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
    ) -> None:
        files = {f"finished/{unit}": data for unit, data in self._finished.items()}
        if step:
            files["training.safetensors"] = _training_state(parameters, optimizer)
        state = {
            "step": step,
            "finished": list(self._finished),
            "metrics": self.metrics,
            "settings": self._fingerprint(),
        }
        self._checkpoints.save(state, files)

    def _fingerprint(self) -> str:
        """Identifies settings and units, against checkpoints of another run."""
        return json.dumps([self._settings.to_dict(), self._units], sort_keys=True)

    def _seed(self, *names: str) -> int:
        text = "\n".join((str(self._settings.seed), *names))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def _balanced_classes(
    classes: list[str], step: int, batch_size: int, rng: np.random.Generator
) -> list[str]:
    """Classes of a minibatch: equally frequent over the steps, in random order."""
    chosen = [classes[(step * batch_size + i) % len(classes)] for i in range(batch_size)]
    rng.shuffle(chosen)
    return chosen


def _training_state(
    parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> bytes:
    """Weights and AdamW moments by parameter name, as safetensors."""
    tensors = {}
    for name, parameter in parameters.items():
        tensors[f"weight/{name}"] = parameter.detach()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}/{name}"] = value
    return save_safetensors({key: value.cpu().contiguous() for key, value in tensors.items()})


def _restore(
    parameters: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    files: dict[str, bytes],
) -> None:
    tensors = load_safetensors(files["training.safetensors"])
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"weight/{name}"].to(parameter.device))
            optimizer.state[parameter] = {
                "step": tensors[f"step/{name}"],
                "exp_avg": tensors[f"exp_avg/{name}"].to(parameter.device),
                "exp_avg_sq": tensors[f"exp_avg_sq/{name}"].to(parameter.device),
            }
