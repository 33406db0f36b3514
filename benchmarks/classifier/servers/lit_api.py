"""LitServe's API, which its workers import.

Annotations are no strings here, since LitServe hands that of ``request`` to FastAPI.
"""

from pathlib import Path
from typing import Annotated, Any

import litserve
import numpy as np
from fastapi import Body

from benchmarks.classifier.network import Network


class Api(litserve.LitAPI):
    """PNG in, list of probabilities out.

    Args:
        folder: Folder of the network.
        num_threads: Threads of one batch.
        options: Options of ``LitAPI``.
    """

    def __init__(self, folder: Path, num_threads: int, **options: Any) -> None:
        super().__init__(**options)
        self._folder, self._num_threads = folder, num_threads
        self._network: Network | None = None

    def setup(self, device: str) -> None:
        """Load the network in the worker."""
        self._network = Network(self._folder, self._num_threads)

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/png")]) -> Any:
        """Decode one PNG."""
        assert self._network is not None
        return self._network.decode(request)

    def batch(self, inputs: list[Any]) -> Any:
        """Stack decoded images."""
        return np.stack(inputs)

    def predict(self, images: Any) -> Any:
        """Probabilities of a batch."""
        assert self._network is not None
        return self._network.probabilities(images)

    def unbatch(self, output: Any) -> Any:
        """Rows of a batch."""
        return list(output)

    def encode_response(self, output: Any) -> list[float]:
        """Numbers as JSON takes them."""
        return [float(value) for value in output]
