"""Prior preservation: images that the base generates, stained like the training images.

A few images do not show all that cells of a class can look like. An adapter that sees nothing else
forgets what its base knew about them (DreamBooth, Ruiz et al. 2023, section 3.3). The adapter
therefore also trains on the base's own cells. The adapter must replace the base's laboratory.
Therefore those cells first take the colours and the sharpness of the training images: each cell the
colours of a training image of its class (eosinophils are red), on the background of any training
image. The few images of a class often share a background, which must not become a mark of the
class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

from cytosynth.cell_classes import class_prompt, narrower_classes
from services.common.models.pipelines import decode_latents
from services.trainer.augmentation.sharpness import match_sharpness
from services.trainer.augmentation.stain_transfer import CellStains, cell_stains_of, restain

if TYPE_CHECKING:
    from services.common.models.pipelines import Pipeline
    from services.trainer.compute.training_run import ProgressFn

PHASE_PRIOR = "generating cells with the base"
_NUM_STEPS, _GUIDANCE_SCALE = 8, 2.0
_BATCH_SIZE = 16


def known_classes(
    class_ids: Sequence[str], known: Sequence[str] | None
) -> dict[str, tuple[str, ...]]:
    """The base's names of these classes; unknown classes are left out.

    Args:
        class_ids: Class ids of the training images.
        known: Class ids of the base; None for a general base, which names none.
    """
    names = {each: narrower_classes(each) for each in sorted(set(class_ids))}
    found = {each: tuple(n for n in names[each] if n in (known or ())) for each in names}
    return {class_id: ids for class_id, ids in found.items() if ids}


@torch.no_grad()
def generate_prior_images(
    pipeline: Pipeline,
    names: Mapping[str, Sequence[str]],
    num_per_class: int,
    training_images: np.ndarray,
    training_class_ids: Sequence[str],
    seed: int,
    progress: ProgressFn,
) -> tuple[np.ndarray, list[str]]:
    """Generates cells with the base, in the stains of the training images.

    Args:
        pipeline: The base, without an adapter.
        names: Names to prompt with, by class id; several names of a class alternate.
        num_per_class: Images of each class.
        training_images: uint8 (N, S, S, 3). Each generated cell gets the stain of one of its class
            and the background of any of them, chosen at random. Sharpness is that of all.
        training_class_ids: N class ids, every class of ``names`` among them.
        seed: Seed of every random value.
        progress: Called for every batch; what it raises ends the generation.

    Returns:
        Images, uint8 (M, S, S, 3), and their M class ids.
    """
    asked = [
        (class_id, names[class_id][i % len(names[class_id])])
        for class_id in names
        for i in range(num_per_class)
    ]
    examples = torch.from_numpy(training_images).permute(0, 3, 1, 2).float() / 255
    stains, rng = cell_stains_of(examples), torch.Generator().manual_seed(seed)
    members = {c: [i for i, t in enumerate(training_class_ids) if t == c] for c in names}
    images: list[torch.Tensor] = []
    with _few_steps(pipeline):
        for start in range(0, len(asked), _BATCH_SIZE):
            progress(PHASE_PRIOR, start, len(asked), {})
            part = asked[start : start + _BATCH_SIZE]
            seeds = torch.randint(2**62, (len(part),), generator=rng).tolist()
            generated = _generate(pipeline, [class_prompt(name) for _, name in part], seeds)
            images.append(_restained(generated, [members[each] for each, _ in part], stains, rng))
    alike = match_sharpness(torch.cat(images), examples)
    pixels = (alike * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return pixels, [class_id for class_id, _ in asked]


def _generate(pipeline: Pipeline, prompts: list[str], seeds: list[int]) -> torch.Tensor:
    latents = pipeline(
        prompt=prompts,
        num_inference_steps=_NUM_STEPS,
        guidance_scale=_GUIDANCE_SCALE,
        generator=[torch.Generator().manual_seed(each) for each in seeds],
        output_type="latent",
    ).images
    return (decode_latents(pipeline, latents).float() / 2 + 0.5).clamp(0, 1).cpu()


def _restained(
    images: torch.Tensor, members: list[list[int]], stains: CellStains, rng: torch.Generator
) -> torch.Tensor:
    """Gives each image the stain of a member and any background."""
    behind = torch.randint(len(stains.background), (len(images),), generator=rng)
    of_class = [own[int(torch.randint(len(own), (1,), generator=rng))] for own in members]
    return restain(images, stains.background[behind], stains.stained[of_class])


@contextmanager
def _few_steps(pipeline: Pipeline) -> Iterator[None]:
    """Replaces the solver by UniPC (Zhao et al. 2023), for few steps."""
    from diffusers import UniPCMultistepScheduler

    before = pipeline.scheduler
    pipeline.scheduler = UniPCMultistepScheduler.from_config(before.config)
    try:
        yield
    finally:
        pipeline.scheduler = before
