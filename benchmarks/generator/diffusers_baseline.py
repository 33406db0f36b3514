"""Today's script for synthetic cells, measured batch by batch.

As the code of CytoDiff (arXiv 2507.05063) does it: the pipeline built anew for every class,
``load_lora_weights``, batches of 10, 50 steps, guidance 2.0, PNG to disk.  In its best honest
form: without gradients, in the fastest of float32 and bfloat16, with one thread or all.  The time
to load is left out, as a class of thousands of images hardly notices it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

from cytosynth.cell_classes import class_prompt
from services.common.models.lora import WEIGHTS_FILE
from services.common.models.pipelines import decode_latents
from services.generator.presets import PRESETS

BATCH = 10
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class BaselineScript:
    """The script, ready for its next batch."""

    def __init__(
        self, base: Path, adapters: dict[str, bytes], dtype: str, num_threads: int
    ) -> None:
        """``adapters``: LoRA files by class, used in turn; ``dtype``: one of ``DTYPES``."""
        self._base, self._dtype, self._num_threads = base, DTYPES[dtype], num_threads
        self._classes: Iterator[tuple[str, bytes]] = cycle(adapters.items())
        self._num_batches = 0

    def images_per_second(self) -> float:
        """Rate of one batch of the next class, files included, loading not."""
        class_id, weights = next(self._classes)
        torch.set_num_threads(self._num_threads)
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            pipeline = self.load(Path(folder), weights)
            self.generate(pipeline, class_id, Path(folder), num_steps=1)  # kernels chosen
            started = time.monotonic()
            self.generate(pipeline, class_id, Path(folder), PRESETS["paper"].num_steps)
            return BATCH / (time.monotonic() - started)

    def load(self, folder: Path, weights: bytes) -> Any:
        """The pipeline with the adapter, whose file is written to ``folder``."""
        from diffusers import DDIMScheduler, StableDiffusionPipeline

        (folder / WEIGHTS_FILE).write_bytes(weights)
        pipeline = StableDiffusionPipeline.from_pretrained(
            self._base, dtype=self._dtype, safety_checker=None, use_safetensors=True
        )
        config = pipeline.scheduler.config
        pipeline.scheduler = DDIMScheduler.from_config(config, clip_sample=False)
        pipeline.load_lora_weights(folder, weight_name=WEIGHTS_FILE)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def generate(self, pipeline: Any, class_id: str, out: Path, num_steps: int) -> None:
        """One batch, as PNG files in ``out``."""
        # The pipeline's own decoding hands AutoencoderDC, which cyto-small has, arguments that it
        # does not take (diffusers 0.42).
        batch = pipeline(
            [class_prompt(class_id)] * BATCH,
            num_inference_steps=num_steps,
            guidance_scale=PRESETS["paper"].guidance_scale,
            generator=torch.Generator().manual_seed(self._num_batches),
            output_type="latent",
        )
        self._num_batches += 1
        pixels = decode_latents(pipeline, batch.images)
        for i, image in enumerate(pipeline.image_processor.postprocess(pixels, "pil")):
            image.save(out / f"{i}.png")
