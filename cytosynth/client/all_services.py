"""The client of all three services behind one address."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc

from cytosynth.client.classifier import ClassifierClient
from cytosynth.client.errors import invalid_argument
from cytosynth.client.generator import GeneratorClient
from cytosynth.client.synthesis_folder import OnImage, SynthesisFolder, synthesize_to_folder
from cytosynth.client.trainer.client import TrainerClient


class Client(TrainerClient, GeneratorClient, ClassifierClient):
    """Datasets, adapters, classifiers, reports, jobs, synthesis and classification.

    Example:
        >>> with Client("127.0.0.1:50051") as client:
        ...     dataset = client.upload_dataset("cells", shots=16)
        ...     adapter = client.fit_adapter(dataset.name).wait().result
        ...     client.synthesize_to_folder("out", {"myeloblast": 100}, adapter=adapter)
    """

    def synthesize_to_folder(
        self,
        folder: str | Path,
        class_counts: Mapping[str, int],
        *,
        on_progress: OnImage | None = None,
        **request: Any,
    ) -> SynthesisFolder:
        """Fill an ImageFolder tree; interrupted, the same call again completes it."""
        return synthesize_to_folder(self, folder, class_counts, on_progress=on_progress, **request)


def tls_credentials(
    ca: str | Path,
    certificate: str | Path | None = None,
    key: str | Path | None = None,
) -> grpc.ChannelCredentials:
    """Credentials from PEM files: the authority, and for mutual TLS certificate and key."""
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
