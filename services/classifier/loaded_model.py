"""A classifier version in memory, ready to answer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from services.classifier.batching.flows import RgbImage, Scores
from services.classifier.batching.service_times import ServiceTimes
from services.classifier.runtimes.choosing import choose_runtime
from services.classifier.runtimes.runtime import Runtime
from services.classifier.runtimes.warm_up import warm_up
from services.common.answers.answer_model import AnswerModel
from services.common.answers.storage import load_answer_model
from services.common.models.classifier_config import ClassifierConfig
from services.common.resource_names import CLASSIFIERS
from services.common.store.artifacts import ArtifactStore

if TYPE_CHECKING:
    import torch

    from services.classifier.config import ClassifierSettings
    from services.common.models.image_classifier import ImageClassifier

WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True)
class LoadedModel:
    """A version in memory, with its preprocessing.

    Attributes:
        tenant: Owner.
        classifier_id: Id of the classifier.
        manifest_digest: SHA-256 (hex) of its manifest.
        network: Network in eval mode, on ``device``.
        config: Classes and input size.
        center_crop: Share of the smaller of height and width that is kept, centred.
        device: Device of the network.
        runtime: What computes the scores.
        answers: Turns scores into answers.
        times: Measured times of batches.
    """

    tenant: str
    classifier_id: str
    manifest_digest: str
    network: ImageClassifier
    config: ClassifierConfig
    center_crop: float
    device: torch.device
    runtime: Runtime
    answers: AnswerModel
    times: ServiceTimes

    @property
    def lane(self) -> tuple[str, str]:
        """Tenant and version: their images are computed together."""
        return self.tenant, self.classifier_id

    def scores(self, images: Sequence[RgbImage], size: int) -> list[Scores]:
        """Scores of up to ``size`` prepared images, in a batch of ``size``."""
        batch_BHWC = np.zeros((size, *images[0].shape), np.uint8)
        batch_BHWC[: len(images)] = images
        features_BD, logits_BC = self.runtime.run(batch_BHWC)
        return [
            Scores(logits_C, features_D)
            for logits_C, features_D, _ in zip(logits_BC, features_BD, images, strict=False)
        ]


class ModelLoader:
    """Reads classifier versions from the store."""

    def __init__(self, store: ArtifactStore, settings: ClassifierSettings) -> None:
        self._store, self._settings = store, settings

    def load(self, tenant: str, classifier_id: str) -> LoadedModel:
        """Reads a version and warms it up; takes seconds.

        Raises:
            NotFound: If the version does not exist.
            DataLoss: If its files are damaged.
            FailedPrecondition: If its CLIP base was changed or removed.
        """
        import torch  # takes seconds and hundreds of MB, which listing does not need

        from services.common.models.classifiers import load_model

        settings = self._settings
        num_threads = settings.classifier_num_threads or os.cpu_count() or 1
        torch.set_num_threads(num_threads)
        manifest = self._store.get_manifest(tenant, CLASSIFIERS, classifier_id)
        body = manifest["body"]
        config = ClassifierConfig.from_dict(body["config"])

        def read(path: str) -> bytes:
            return self._store.read(tenant, CLASSIFIERS, classifier_id, path)

        network = load_model(config, read(WEIGHTS_FILE), settings.models_dir)
        network.fold()
        asked = settings.classifier_device
        cuda = asked == "cuda" or (asked == "auto" and torch.cuda.is_available())
        device = torch.device("cuda" if cuda else "cpu")
        runtime = choose_runtime(
            settings.classifier_runtime,
            network.to(device),
            device,
            num_threads,
            settings.num_compute_threads,
        )
        return LoadedModel(
            tenant=tenant,
            classifier_id=classifier_id,
            manifest_digest=self._store.manifest_digest(tenant, CLASSIFIERS, classifier_id),
            network=network,
            config=config,
            center_crop=float(body["center_crop"]),
            device=device,
            runtime=runtime,
            answers=load_answer_model(body, read),
            times=warm_up(runtime, config.image_size),
        )
