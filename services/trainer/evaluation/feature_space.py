"""Feature spaces, in which distances between images are measured.

A space is called by the name of a CLIP base (its image tower; Kynkäänniemi et al. 2023 show why
CLIP), or ``inception``: the Inception-v3 of FID (Heusel et al. 2017), whose weights an operator
has put into the folder ``inception-v3`` below the models folder. The folder holds either
``pt_inception-2015-12-05-6726825d.pth`` (of pytorch-fid; torch-fidelity has the same file by
another name) or ``model.safetensors`` of the same tensors, with a ``manifest.json`` whose
``files`` gives its SHA-256. Nothing is ever downloaded for a request.

Inception's features are taken as the network gives them. Training has shaped the direction of
CLIP's features only; their length is arbitrary (1,000 and more in our own), and all are scaled to
the length √D. Hence the kernel of KID, (x·y / D + 1)³, sees their cosine, which at length 1 would
hardly count. CMMD is defined on length 1 and normalizes features itself.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from services.common.errors import FailedPrecondition, InvalidArgument, shown
from services.common.models.clip_bases import ClipBase, list_clip_bases, resolve_clip_base
from services.common.store.file_digests import file_digest

if TYPE_CHECKING:
    import torch

    Network = Callable[[torch.Tensor], torch.Tensor]

FIELD = "settings.feature_space"
INCEPTION = "inception"
INCEPTION_FOLDER = "inception-v3"
INCEPTION_FILES = (
    "model.safetensors",
    "pt_inception-2015-12-05-6726825d.pth",
    "weights-inception-2015-12-05-6726825d.pth",
)
_INCEPTION_DIGEST = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""SHA-256 of the published ``.pth``."""
_BATCH_SIZE = 64


@dataclass(frozen=True)
class FeatureSource:
    """A feature space that is here, not loaded.

    Attributes:
        name: Name in requests.
        revision: SHA-256 of its weights; of a CLIP base, its revision.
        clip_base: The base whose image tower it is; None for Inception.
        weights: File of the Inception weights; None for CLIP.
    """

    name: str
    revision: str
    clip_base: ClipBase | None = None
    weights: Path | None = None

    def load(self, device: str = "cpu") -> FeatureSpace:
        """The space with its network on ``device``. Takes seconds.

        Raises:
            FailedPrecondition: If the weights are not of this network.
        """
        if self.clip_base is not None:
            return FeatureSpace(self.name, self.revision, _clip_tower(self.clip_base, device))
        assert self.weights is not None
        return FeatureSpace(self.name, self.revision, _inception(self.weights, device))


class FeatureSpaceName(TypedDict):
    """Name and revision of a feature space."""

    name: str
    revision: str


@dataclass(frozen=True)
class FeatureSpace:
    """A network that turns images into features.

    Attributes:
        name: Name in requests.
        revision: SHA-256 of what the network is made of.
        network: Features (B, D) of a batch, uint8 (B, 3, S, S).
    """

    name: str
    revision: str
    network: Network

    def features(
        self, images: NDArray[np.uint8], progress: Callable[[int, int], None] | None = None
    ) -> NDArray[np.float32]:
        """Features of images; the same images give the same ones.

        Each network resizes images to its own size. Real and synthetic images should come with
        the same S: an image that was made smaller before and larger again has lost detail, and
        every measure sees it (Parmar et al. 2022).

        Args:
            images: uint8 (N, S, S, 3), RGB, at least one.
            progress: Called before each batch with the images done and N; may raise to stop.

        Returns:
            float32 (N, D).

        Raises:
            ValueError: If the images are of another shape or type.
        """
        import torch

        square = images.ndim == 4 and images.shape[1] == images.shape[2] and images.shape[3] == 3
        if images.dtype != np.uint8 or not square or not len(images):
            problem = f"{images.dtype} of shape {images.shape}"
            raise ValueError(f"images must be uint8 of shape (N, S, S, 3), N > 0, not {problem}")
        found = []
        with torch.inference_mode():
            for start in range(0, len(images), _BATCH_SIZE):
                if progress is not None:
                    progress(start, len(images))
                batch = np.ascontiguousarray(images[start : start + _BATCH_SIZE])
                found.append(self.network(torch.from_numpy(batch).permute(0, 3, 1, 2)).cpu())
        return torch.cat(found).float().numpy()

    def to_dict(self) -> FeatureSpaceName:
        """JSON form, for reports."""
        return {"name": self.name, "revision": self.revision}


def resolve_feature_space(name: str, models_dir: Path) -> FeatureSource:
    """The feature space of this name, without loading it (or torch).

    Args:
        name: Name of a CLIP base, or ``inception``.
        models_dir: Folder of the models.

    Raises:
        InvalidArgument: If there is none, listing those that there are.
        FailedPrecondition: If the weights of Inception are not here or not the right ones.
    """
    bases = list_clip_bases(models_dir)
    if name == INCEPTION:
        weights = _inception_weights(models_dir / INCEPTION_FOLDER, bases)
        return FeatureSource(name, file_digest(weights), weights=weights)
    if name not in bases:
        listed = ", ".join([*bases, INCEPTION])
        raise InvalidArgument(
            FIELD, f"no feature space is called {shown(name)}", f"name one of: {listed}"
        )
    base = resolve_clip_base(name, models_dir, FIELD)
    return FeatureSource(name, base.revision, clip_base=base)


def _inception_weights(folder: Path, clip_bases: list[str]) -> Path:
    found = [folder / name for name in INCEPTION_FILES if (folder / name).is_file()]
    if not found:
        remedy = (
            f"let its operator put {INCEPTION_FILES[1]} into the folder {INCEPTION_FOLDER} of the "
            f"models, or name a CLIP base: {', '.join(clip_bases) or 'none is here'}"
        )
        raise FailedPrecondition(FIELD, "the server has no Inception weights", remedy)
    weights = found[0]
    try:
        manifest: Any = json.loads((folder / "manifest.json").read_text())
        said = str(manifest["files"][weights.name])
    except (OSError, ValueError, KeyError, TypeError):
        said = _INCEPTION_DIGEST if weights.suffix == ".pth" else ""
    if file_digest(weights) != said:
        problem = "the Inception weights are not those of their manifest or, without one, of FID"
        raise FailedPrecondition(FIELD, problem, "let its operator restore them")
    return weights


def _clip_tower(base: ClipBase, device: str) -> Network:
    import torch
    from torch.nn import functional as F

    from services.common.models.clip_classifier import load_clip

    clip = load_clip(base).eval().to(device)
    size = clip.visual.image_size
    height_width = (size, size) if isinstance(size, int) else tuple(size)
    mean, std = (
        torch.tensor(values, device=device).view(1, 3, 1, 1)
        for values in (clip.visual.image_mean, clip.visual.image_std)
    )

    def network(images: torch.Tensor) -> torch.Tensor:
        pixels = images.to(device).float() / 255
        if tuple(pixels.shape[2:]) != height_width:
            pixels = F.interpolate(pixels, height_width, mode="bicubic", antialias=True).clamp(0, 1)
        features = F.normalize(clip.encode_image((pixels - mean) / std).float(), dim=-1)
        return features * features.shape[1] ** 0.5

    return network


def _inception(weights: Path, device: str) -> Network:
    import torch
    from safetensors.torch import load_file
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        if weights.suffix == ".safetensors":
            state = load_file(weights)
        else:
            state = torch.load(weights, map_location="cpu", weights_only=True)
        # torch-fidelity unpickles whatever file it is given. It is given our own copy of tensors
        # that were read without unpickling anything else.
        copy = io.BytesIO()
        torch.save(state, copy)
        copy.seek(0)
        extractor = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], copy).to(device)
    except Exception as error:  # of many kinds, and their texts may hold a path
        problem = "the Inception weights do not load"
        raise FailedPrecondition(FIELD, problem, "let its operator restore them") from error

    def network(images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = extractor(images.to(device))[0]
        return features

    return network
