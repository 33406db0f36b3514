"""A small convolutional classifier of cell images, whose features say what makes cells differ.

The autoencoder is trained to keep these features (granules, chromatin), which pixel losses
smooth away.  It stands where published recipes use a network trained on ImageNet (LPIPS, Zhang
et al., arXiv 1801.03924), whose weights are not ours to ship.  It sees exactly the images that
the autoencoder sees, and is not shipped itself.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import nn

from models.recipes.augment_batches import augment, zoom_turn_and_shift
from models.recipes.corpus import Corpus
from models.recipes.native_bfloat16 import native_bfloat16

BATCH = 96
WIDTHS = (24, 48, 96, 160)


class CellFeatures(nn.Module):
    """Four stages at 64, 32, 16 and 8 px (for 64 px images) and a linear classifier."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        stages = []
        for before, after in zip((3, *WIDTHS), WIDTHS, strict=False):
            stages.append(
                nn.Sequential(
                    nn.Conv2d(before, after, 3, 1 if before == 3 else 2, 1, bias=False),
                    nn.BatchNorm2d(after),
                    nn.ReLU(inplace=True),
                    nn.Conv2d(after, after, 3, 1, 1, bias=False),
                    nn.BatchNorm2d(after),
                    nn.ReLU(inplace=True),
                )
            )
        self.stages = nn.ModuleList(stages)
        self.classifier = nn.Linear(WIDTHS[-1], num_classes)

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps of all stages for images (N, 3, H, W) in [-1, 1]."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes)."""
        return self.classifier(self.features(x)[-1].mean((2, 3)))

    def distance(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Mean over stages of the squared distance between unit feature vectors; a scalar."""
        total = torch.zeros(())
        with torch.no_grad():
            of_x = self.features(x)
        for a, b in zip(of_x, self.features(y), strict=True):
            a, b = (f.float() * (f.float().square().sum(1, True) + 1e-6).rsqrt() for f in (a, b))
            total = total + (a - b).square().sum(1).mean()
        return total / len(self.stages)


def train_cell_features(corpus: Corpus, minutes: float, seed: int) -> CellFeatures:
    """A classifier of the prompts of ``corpus`` (class, and real or phantom), frozen."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    prompts = np.array(corpus.prompts())
    names = np.unique(prompts)
    labels = torch.from_numpy(np.searchsorted(names, prompts))
    model = CellFeatures(len(names)).to(memory_format=torch.channels_last).train()
    peak = 3e-3
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.02)
    weights = corpus.sampling_weights()
    t0, step, done, right = time.time(), 0, 0.0, []
    while (done := (time.time() - t0) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1, (step + 1) / 50) * 0.5 * (1 + np.cos(np.pi * done))
        pick = rng.choice(len(weights), BATCH, p=weights)
        x = zoom_turn_and_shift(augment(corpus.images[pick], rng, color=0.1), rng)
        with native_bfloat16():
            logits = model(x.to(memory_format=torch.channels_last)).float()
        loss = nn.functional.cross_entropy(logits, labels[pick], label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
        right.append((logits.argmax(1) == labels[pick]).float().mean().item())
        if step % 100 == 0:
            accuracy = np.mean(right[-100:])
            print(f"features {step} {time.time() - t0:.0f}s accuracy {accuracy:.3f}", flush=True)
    return model.eval().requires_grad_(False)
