"""The client of all three services behind one address."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc

from cytosynth.client.classifier import ClassifierClient
from cytosynth.client.deprecated import settings_or_keywords
from cytosynth.client.errors import invalid_argument
from cytosynth.client.generator import GeneratorClient
from cytosynth.client.settings import SynthesisSettings
from cytosynth.client.synthesis_folder import OnImage, SynthesisFolder, synthesize_to_folder
from cytosynth.client.trainer.client import TrainerClient


class Client(TrainerClient, GeneratorClient, ClassifierClient):
    """Datasets, adapters, classifiers, reports, jobs, synthesis and classification.

    Example:
        >>> with Client("127.0.0.1:50051") as client:
        ...     dataset = client.upload_dataset("cells", split=SplitSettings(shots=16))
        ...     adapter = client.fit_adapter(dataset.name).wait().result
        ...     settings = SynthesisSettings(adapter=adapter, seed=1)
        ...     client.synthesize_to_folder("out", {"myeloblast": 100}, settings)
    """

    def synthesize_to_folder(
        self,
        folder: str | Path,
        class_counts: Mapping[str, int],
        settings: SynthesisSettings | None = None,
        *,
        max_failures: int | None = None,
        on_progress: OnImage | None = None,
        **deprecated: Any,
    ) -> SynthesisFolder:
        """Fill an ImageFolder tree; interrupted, the same call again completes it.

        Args:
            folder: Made if it is missing.
            class_counts: Images per class.
            settings: As ``synthesize`` takes them.
            max_failures: As ``synthesize`` takes them.
            on_progress: Called with images done and images in all.
            deprecated: Fields of ``settings``, as the last release took them.
        """
        settings = settings_or_keywords(
            SynthesisSettings, settings, deprecated, "synthesize_to_folder"
        )
        return synthesize_to_folder(self, folder, class_counts, settings, max_failures, on_progress)


def tls_credentials(
    ca: str | Path,
    certificate: str | Path | None = None,
    key: str | Path | None = None,
) -> grpc.ChannelCredentials:
    """TLS credentials from PEM files; certificate and key for mutual TLS."""
    if (certificate is None) != (key is None):
        raise invalid_argument("tls", "certificate and key belong together", "give both or none")
    try:
        return grpc.ssl_channel_credentials(
            Path(ca).read_bytes(),
            Path(key).read_bytes() if key else None,
            Path(certificate).read_bytes() if certificate else None,
        )
    except OSError as error:
        raise invalid_argument(
            "tls", f"{error.filename} cannot be read: {error.strerror}", "see `cytosynth certs`"
        ) from None
