"""Judges whether a base gives the class it is asked for.

    python -m benchmarks.generator.class_agreement --base cyto-small \\
        --data ../shared/data/wbc-pbc-barcelona

The judge is a ResNet-18 trained on real images alone, which no base has seen: the four tenths that
``pretraining.corpus`` keeps back.  The judge's accuracy on the other real images roughly bounds its
agreement with the asked class on synthetic ones; both are reported.  Writes the figures and a
contact sheet to ``--out``, and with ``--card`` the figures into the base's manifest and model card.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.generator.in_process import InProcess, pixels
from pretraining import export
from pretraining.corpus import SIZE_PX, Corpus, real_corpus
from services.common.models.classifier_config import ClassifierConfig
from services.common.models.classifiers import build_model
from services.common.models.image_classifier import ImageClassifier
from services.generator.presets import SamplerSettings
from services.trainer.classifiers.recipe import hyperparameters_from_spec
from services.trainer.classifiers.training import train
from services.trainer.classifiers.training_images import LabelledImages
from services.trainer.compute.training_run import NoCheckpoints

JUDGE_FILE = "judge.safetensors"


def train_judge(corpus: Corpus, class_ids: list[str], num_steps: int) -> ImageClassifier:
    """A ResNet-18 on ``corpus``, class-balanced and augmented as the trainer does it."""
    hyperparameters = hyperparameters_from_spec(
        {"settings": {"num_steps": num_steps, "batch_size": 64}}, ""
    )
    config = ClassifierConfig("resnet18", tuple(class_ids), SIZE_PX)
    torch.manual_seed(0)
    judge = build_model(config, Path("models"))
    labels = np.array([class_ids.index(c) for c in corpus.class_ids])

    def report(phase: str, step: int, total: int, losses: dict[str, float]) -> None:
        if step % 100 == 0:
            print(f"judge: step {step} of {total}, loss {losses['loss_real']:.3f}", flush=True)

    images = LabelledImages(corpus.images, labels)
    train(judge, images, None, hyperparameters, torch.device("cpu"), report, NoCheckpoints())
    return judge


@torch.no_grad()
def judged(judge: ImageClassifier, images: np.ndarray) -> np.ndarray:
    """Class positions (N,) for uint8 images (N, H, W, 3)."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return torch.cat([judge.logits(b).argmax(1) for b in x.split(128)]).numpy()


def synthesize(base: str, class_ids: list[str], per_class: int, settings: SamplerSettings):
    """uint8 images (classes, per_class, H, W, 3) of ``base`` without an adapter."""
    studio = InProcess()
    images = studio.generate([studio.plan(dict.fromkeys(class_ids, per_class), settings, base)])
    stacked = np.stack([pixels(image) for image in images])
    return stacked.reshape(len(class_ids), per_class, *stacked.shape[1:])


def main() -> None:
    """Train (or load) the judge, generate, count, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="wbc-pbc-barcelona folder")
    parser.add_argument("--base", default="cyto-small")
    parser.add_argument("--per-class", type=int, default=50)
    parser.add_argument("--judge-steps", type=int, default=500)
    parser.add_argument("--num-steps", type=int, default=20)
    parser.add_argument("--guidance-scale", type=float, default=2.0)
    parser.add_argument("--card", action="store_true", help="write into models/<base>")
    parser.add_argument("--out", type=Path, default=Path("out/bench/base_agreement"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    unseen = real_corpus(args.data, seen=False)
    seen = real_corpus(args.data, seen=True)
    class_ids = sorted(set(unseen.class_ids))
    judge_file = args.out / JUDGE_FILE
    if judge_file.exists():
        judge = build_model(ClassifierConfig("resnet18", tuple(class_ids), SIZE_PX), Path("models"))
        from safetensors.torch import load_file

        judge.load_learned_state(load_file(judge_file))
        judge.eval()
    else:
        judge = train_judge(unseen, class_ids, args.judge_steps)
        from safetensors.torch import save_file

        save_file({k: v.contiguous() for k, v in judge.learned_state().items()}, judge_file)
    truth = np.array([class_ids.index(c) for c in seen.class_ids])
    right = judged(judge, seen.images) == truth
    real_recall = [float(right[truth == k].mean()) for k in range(len(class_ids))]
    settings = SamplerSettings(args.num_steps, args.guidance_scale, "dpmpp_2m")
    images = synthesize(args.base, class_ids, args.per_class, settings)
    agreement = [float((judged(judge, images[k]) == k).mean()) for k in range(len(class_ids))]
    report = {
        "base": args.base,
        "num_steps": args.num_steps,
        "guidance_scale": args.guidance_scale,
        "per_class": args.per_class,
        "judge_balanced_accuracy_on_real": float(np.mean(real_recall)),
        "agreement": float(np.mean(agreement)),
        "per_class_agreement": dict(zip(class_ids, agreement, strict=True)),
        "per_class_judge_recall_on_real": dict(zip(class_ids, real_recall, strict=True)),
    }
    (args.out / f"{args.base}.json").write_text(json.dumps(report, indent=1) + "\n")
    if args.card:
        least, least_id = min(zip(agreement, class_ids, strict=True))
        accuracy = report["judge_balanced_accuracy_on_real"]
        export.record_figure(
            Path("models") / args.base,
            "Draws the class it is asked for",
            f"a ResNet-18 trained on real images that this model has not seen agrees on "
            f"{report['agreement']:.0%} of {len(class_ids)} classes x {args.per_class} images "
            f"(least: {least_id}, {least:.0%}), guidance {args.guidance_scale:g}, "
            f"{args.num_steps} steps; on other real images it is right in {accuracy:.0%} "
            f"(`python -m benchmarks.generator.class_agreement --base {args.base}`)",
        )
    rows = [
        np.concatenate([*seen.images[truth == k][:4], *images[k][:10]], axis=1)
        for k in range(len(class_ids))
    ]
    Image.fromarray(np.concatenate(rows)).save(args.out / f"{args.base}.png")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
