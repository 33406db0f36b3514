"""Pretrained model of a classifier: CLIP base, ResNet base or none.

Light to import: the trainer's front checks requests with it and never trains.
"""

from __future__ import annotations

from pathlib import Path

from services.common.models.clip_bases import FIELD as CLIP_FIELD
from services.common.models.clip_bases import ClipBase, resolve_clip_base
from services.common.models.resnet_bases import FIELD as RESNET_FIELD
from services.common.models.resnet_bases import ResNetBase, resolve_resnet_base
from services.trainer.classifiers.recipe import Hyperparameters


def classifier_base(
    hparams: Hyperparameters, models_dir: Path, field: str = ""
) -> ClipBase | ResNetBase | None:
    """The base a classifier starts from; None: random weights.

    Args:
        hparams: Hyperparameters of the classifier.
        models_dir: Folder of the embedded models.
        field: Request field, for errors; empty: that of a classifier's request.

    Raises:
        InvalidArgument: If there is no such base, or it is of another architecture.
        FailedPrecondition: If its manifest does not say where its weights lie.
    """
    if hparams.clip_base:
        return resolve_clip_base(hparams.clip_base, models_dir, field or CLIP_FIELD)
    if hparams.resnet_base:
        name, architecture = hparams.resnet_base, hparams.architecture
        return resolve_resnet_base(name, architecture, models_dir, field or RESNET_FIELD)
    return None


def describe_base(base: ClipBase | ResNetBase) -> tuple[str, str]:
    """Name and remedy for errors about a base that saw test images."""
    if isinstance(base, ClipBase):
        return (
            f"CLIP base {base.name}",
            "use a CLIP base that has not, for example cyto-clip-phantoms",
        )
    remedy = "use a ResNet base that has not, or leave it empty"
    return f"ResNet base {base.name}", remedy
