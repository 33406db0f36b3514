"""Train a small open_clip model on cell images and prompts (64 px).

    python -m pretraining.train_clip --out build/cyto-clip-phantoms
    python -m pretraining.train_clip --out build/cyto-clip \
        --real ../shared/data/wbc-pbc-barcelona

The contrastive loss of CLIP (Radford et al., arXiv 2103.00020) against the prompts of all
classes at once: many images share a prompt, so an image's positives are its class's prompt,
its negatives every other's (as in UniCL, Yang et al., arXiv 2204.03610).
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from pretraining.augment_batches import augment, zoom_rotate_and_shift
from pretraining.corpus import Corpus
from pretraining.native_bfloat16 import native_bfloat16
from pretraining.train_autoencoder import corpus_parser, load_corpus

BATCH = 96
MODEL_CONFIG = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 32},
    "text_cfg": {
        "context_length": 32,
        "vocab_size": 49408,
        "width": 96,
        "heads": 4,
        "layers": 2,
    },
}
PREPROCESS_CONFIG = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


def train(corpus: Corpus, out: Path, minutes: float, seed: int) -> None:
    """Train for ``minutes`` and write an open_clip folder (local-dir schema)."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    out.mkdir(parents=True, exist_ok=True)
    (out / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": MODEL_CONFIG, "preprocess_cfg": PREPROCESS_CONFIG}, indent=1)
    )
    model = open_clip.CLIP(**MODEL_CONFIG).train()
    average = [p.detach().clone() for p in model.parameters()]
    prompts = corpus.prompts()
    texts = sorted(set(prompts))
    text_of = torch.tensor([texts.index(p) for p in prompts])
    tokens = open_clip.SimpleTokenizer(context_length=32)(texts)
    peak = 2e-3
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.05)
    weights = corpus.sampling_weights()
    t0, step, done, right, losses = time.time(), 0, 0.0, [], []
    while (done := (time.time() - t0) / (60 * minutes)) < 1:
        lr = peak * min(1, (step + 1) / 200) * max(0.02, 0.5 * (1 + np.cos(np.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = lr
        pick = rng.choice(len(weights), BATCH, p=weights)
        x = zoom_rotate_and_shift(augment(corpus.images[pick], rng, color=0.1), rng)
        # Backward through torch's fused attention in bfloat16 is four times slower on a CPU.
        with sdpa_kernel(SDPBackend.MATH), native_bfloat16():
            image_features = model.encode_image(x, normalize=True)
            text_features = model.encode_text(tokens, normalize=True)
            logits = model.logit_scale.exp().clamp(max=100) * image_features @ text_features.T
        loss = torch.nn.functional.cross_entropy(
            logits.float(), text_of[pick], label_smoothing=0.05
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        torch._foreach_lerp_(
            average, [p.detach() for p in model.parameters()], 1 - min(0.998, step / (step + 20))
        )
        right.append((logits.argmax(1) == text_of[pick]).float().mean().item())
        losses.append(loss.item())
        if step % 100 == 0:
            print(
                f"{step} {time.time() - t0:.0f}s loss {np.mean(losses[-100:]):.3f} "
                f"batch accuracy {np.mean(right[-100:]):.3f}",
                flush=True,
            )
    names = [name for name, _ in model.named_parameters()]
    state = model.state_dict() | dict(zip(names, average, strict=True))
    save_file(
        {
            k: (v.half() if v.is_floating_point() else v).detach().contiguous()
            for k, v in state.items()
        },
        out / "open_clip_model.safetensors",
    )
    record = {
        "steps": step,
        "batch": BATCH,
        "minutes": minutes,
        "seed": seed,
        "loss": float(np.mean(losses[-200:])),
        "batch_accuracy": float(np.mean(right[-200:])),
    }
    (out / "training.json").write_text(json.dumps(record, indent=1))
    print(json.dumps(record))


if __name__ == "__main__":
    parser = corpus_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(load_corpus(args), args.out, args.minutes, args.seed)
