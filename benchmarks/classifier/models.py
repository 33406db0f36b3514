"""Networks with random weights, for our stack and for its peers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.classifier.network import CONFIG_FILE, MODELS_FOLDER, WEIGHTS_FILE
from cytosynth.cell_classes import CELL_CLASSES
from cytosynth.phantoms import DEMO_HOSPITAL, render_phantom
from services.common.images.codec import encode_image
from services.common.models.classifier_config import ClassifierConfig
from services.common.models.classifiers import build_model, save_model
from services.common.models.clip_bases import resolve_clip_base
from services.common.resource_names import CLASSIFIERS
from services.common.store.artifacts import ArtifactStore

CLASS_IDS = tuple(sorted(CELL_CLASSES))[:8]
"""Sorted, so that answers by class and by logit have the same order."""
CLIP_BASE, CLIP_MODEL = "random-vit-b-32", "ViT-B-32"
CELL_PX, NUM_CELLS = 132, 16
"""Size at which a phantom's PNG has about 28 kB, and how many are sent in turn."""


@dataclass(frozen=True)
class BenchModel:
    """A network of the benchmark."""

    architecture: str
    size_px: int

    @property
    def key(self) -> str:
        """Name in the report: ``resnet18@64``."""
        return f"{self.architecture}@{self.size_px}"

    @property
    def artifact_id(self) -> str:
        """Id of the classifier in the store."""
        return f"bench-{self.architecture}-{self.size_px}"


MODELS = (BenchModel("resnet18", 64), BenchModel("resnet50", 224), BenchModel("clip", 224))


def write_cells(folder: Path) -> None:
    """Writes the PNG files that callers send."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(NUM_CELLS):
        cell_class = CLASS_IDS[number % len(CLASS_IDS)]
        phantom = render_phantom(cell_class, DEMO_HOSPITAL, number, CELL_PX)
        (folder / f"{number:02}.png").write_bytes(encode_image(phantom.image))


def write_clip_base(models_dir: Path) -> None:
    """Writes open_clip's ViT-B/32 with random weights as a CLIP base."""
    import open_clip

    folder = models_dir / CLIP_BASE
    folder.mkdir(parents=True, exist_ok=True)
    config = open_clip.get_model_config(CLIP_MODEL)
    preprocess = {
        "mean": list(open_clip.OPENAI_DATASET_MEAN),
        "std": list(open_clip.OPENAI_DATASET_STD),
    }
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
    )
    torch.manual_seed(0)
    state = open_clip.create_model(CLIP_MODEL, pretrained=None).state_dict()
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    manifest = {"name": CLIP_BASE, "kind": "clip_base", "digests": [], "phashes": []}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def write_models_dir(models_dir: Path, shipped: Path, with_clip: bool) -> None:
    """Makes a models folder of shipped bases and the random CLIP base."""
    models_dir.mkdir(parents=True)
    for folder in shipped.iterdir():
        (models_dir / folder.name).symlink_to(folder.resolve())
    if with_clip:
        write_clip_base(models_dir)


def write_model(model: BenchModel, folder: Path, models_dir: Path, seed: int = 0) -> None:
    """Writes config and weights of a network into ``folder``, for peers."""
    config = ClassifierConfig(model.architecture, CLASS_IDS, model.size_px)
    if model.architecture == "clip":
        base = resolve_clip_base(CLIP_BASE, models_dir)
        config = ClassifierConfig(
            "clip", CLASS_IDS, model.size_px, clip_base=CLIP_BASE, clip_revision=base.revision
        )
    torch.manual_seed(seed)
    network = build_model(config, models_dir)
    if model.architecture != "clip":
        _spread_answers(network)
    folder.mkdir(parents=True)
    (folder / CONFIG_FILE).write_text(json.dumps(config.to_dict()))
    (folder / WEIGHTS_FILE).write_bytes(save_model(network)["model.safetensors"])
    (folder / MODELS_FOLDER).symlink_to(models_dir.resolve())


def _spread_answers(network: torch.nn.Module) -> None:
    """Makes answers depend on the image.

    Without it residual branches are zero, and logits small.
    """
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith((".bn2.weight", ".bn3.weight")):
                parameter.fill_(0.2)
            elif name.endswith("fc.weight"):
                parameter.mul_(20.0)


def commit_artifact(folder: Path, store_uri: str, artifact_id: str) -> None:
    """Commits the network in ``folder`` to the store, as a trained classifier."""
    config = json.loads((folder / CONFIG_FILE).read_text())
    draft = ArtifactStore(store_uri).new_draft("local", CLASSIFIERS, artifact_id)
    draft.write(WEIGHTS_FILE, (folder / WEIGHTS_FILE).read_bytes())
    body = {
        "config": config,
        "center_crop": 1.0,
        "class_ids": config["class_ids"],
        "architecture": config["architecture"],
        "dataset": "datasets/none",
    }
    draft.commit({"parents": [], "metrics": {}, "base": "", "base_revision": "", "body": body})
