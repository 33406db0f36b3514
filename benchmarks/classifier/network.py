"""A network as the servers load it, with the decoding before it.

Imported by every peer, so it needs torch, Pillow and ``services.common.models`` only. LoRA is
merged into the layers, as somebody who serves the weights would do.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from services.common.models.classifier_config import ClassifierConfig
from services.common.models.classifiers import load_model

CONFIG_FILE, WEIGHTS_FILE, MODELS_FOLDER = "config.json", "model.safetensors", "models"


class Network:
    """Probabilities of decoded images, computed eagerly by torch.

    Args:
        folder: Folder that ``benchmarks.classifier.models.write_model`` wrote.
        num_threads: CPU threads of one batch.
    """

    def __init__(self, folder: Path, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        config = ClassifierConfig.from_dict(json.loads((folder / CONFIG_FILE).read_text()))
        models_dir = folder / MODELS_FOLDER
        self._model = load_model(config, (folder / WEIGHTS_FILE).read_bytes(), models_dir)
        _merge_lora(self._model)
        self.size_px = config.image_size
        self.class_ids = config.class_ids
        self.probabilities(np.zeros((1, self.size_px, self.size_px, 3), np.uint8))  # warm

    def decode(self, data: bytes) -> np.ndarray:
        """Pixels of one PNG: uint8 (size_px, size_px, 3)."""
        with Image.open(io.BytesIO(data)) as image:
            size = (self.size_px, self.size_px)
            return np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS))

    @torch.inference_mode()
    def probabilities(self, images_BHWC: np.ndarray) -> np.ndarray:
        """Class probabilities (B, classes), float32, of uint8 images."""
        pixels = torch.from_numpy(np.ascontiguousarray(images_BHWC)).permute(0, 3, 1, 2)
        return self._model.logits(pixels.float() / 255).softmax(dim=1).numpy()

    def classify(self, files: Sequence[bytes]) -> list[list[float]]:
        """Class probabilities of encoded images, computed as one batch."""
        answers = self.probabilities(np.stack([self.decode(file) for file in files]))
        return [[float(value) for value in row] for row in answers]


@torch.no_grad()
def _merge_lora(model: torch.nn.Module) -> None:
    for name, module in list(model.named_modules()):
        if hasattr(module, "merge") and hasattr(module, "get_base_layer"):
            module.merge()
            model.set_submodule(name, module.get_base_layer())
