"""Train a ResNet base, from which classifiers may start (64 px).

    python -m pretraining.train_resnet --out build/cyto-resnet-phantoms
    python -m pretraining.train_resnet --out build/cyto-resnet \
        --real ../shared/data/wbc-pbc-barcelona

Training loop, augmentation and balanced minibatches are those of every classifier here
(``services/trainer/classifiers/training.py``). Beside real images, phantoms take the part of
synthetic images: half of the loss.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from pretraining.corpus import SIZE_PX, Corpus
from pretraining.train_autoencoder import corpus_parser, load_corpus
from services.common.models.classifier_config import ClassifierConfig
from services.common.models.classifiers import build_model
from services.common.models.resnet_bases import HEAD_PREFIX, WEIGHTS_FILE
from services.trainer.classifiers.recipe import Hyperparameters, preset_hyperparameters
from services.trainer.classifiers.training import train
from services.trainer.classifiers.training_images import LabelledImages
from services.trainer.compute.training_run import NoCheckpoints
from services.trainer.studies.arm_images import Ready

ARCHITECTURE = "resnet18"
PRINT_EVERY = 100


def hyperparameters(num_steps: int, seed: int) -> Hyperparameters:
    """The preset ``cpu``, with larger minibatches and a longer weight average."""
    return dataclasses.replace(
        preset_hyperparameters("cpu", ARCHITECTURE),
        num_steps=num_steps,
        warmup_steps=max(1, num_steps // 20),
        batch_size=64,
        synthetic_batch_size=64,
        average_decay=0.995,
        seed=seed,
    )


def run(corpus: Corpus, out: Path, num_steps: int, seed: int) -> None:
    """Train and write the weights without the last layer, in float16."""
    class_ids = sorted(set(corpus.class_ids.tolist()))
    labels = np.array([class_ids.index(each) for each in corpus.class_ids])
    phantoms = LabelledImages(corpus.images[~corpus.is_real], labels[~corpus.is_real])
    real = LabelledImages(corpus.images[corpus.is_real], labels[corpus.is_real])
    any_real = len(real.labels) > 0
    torch.manual_seed(seed)
    model = build_model(ClassifierConfig(ARCHITECTURE, tuple(class_ids), SIZE_PX), Path("models"))
    started = time.monotonic()

    def progress(phase: str, step: int, total: int, losses: dict[str, float]) -> None:
        if step % PRINT_EVERY == 0:
            shown = " ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
            print(f"{step}/{total} {time.monotonic() - started:.0f}s {shown}", flush=True)

    figures = train(
        model,
        real if any_real else phantoms,
        Ready(phantoms) if any_real else None,
        hyperparameters(num_steps, seed),
        torch.device("cpu"),
        progress,
        NoCheckpoints(),
    )
    out.mkdir(parents=True, exist_ok=True)
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in model.learned_state().items()
        if not name.startswith(HEAD_PREFIX)
    }
    save_file(state, out / WEIGHTS_FILE)
    record = {
        "architecture": ARCHITECTURE,
        "steps": num_steps,
        "batch": 64,
        "minutes": round((time.monotonic() - started) / 60, 1),
        "seed": seed,
        "loss": figures["loss_real"],
    }
    (out / "training.json").write_text(json.dumps(record, indent=1))
    print(json.dumps(record))


if __name__ == "__main__":
    parser = corpus_parser(__doc__)
    parser.add_argument("--steps", type=int, default=3000)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    run(load_corpus(args), args.out, args.steps, args.seed)
