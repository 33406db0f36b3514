"""OpenVINO on the CPU: the traced network, for batches of any size."""

from __future__ import annotations

import threading
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from services.common.models.image_classifier import ImageClassifier


class OpenVinoRuntime:
    """A network as OpenVINO runs it."""

    name = "openvino"

    def __init__(self, network: ImageClassifier, num_threads: int, num_streams: int) -> None:
        """Converts and compiles a network; takes seconds.

        Args:
            network: In eval mode, on the CPU.
            num_threads: Threads of all batches together.
            num_streams: Batches computed at once.

        Raises:
            ImportError: If OpenVINO is not installed.
            Exception: Of many kinds, if the network cannot be converted.
        """
        import openvino

        # The decoder owns the weights, which the compiled model may share.
        self._decoder, converted = _converted(network)
        self._compiled = openvino.Core().compile_model(
            converted,
            "CPU",
            {
                "INFERENCE_NUM_THREADS": num_threads,
                "NUM_STREAMS": num_streams,
                # What the CPU offers beyond float32 would cost parity.
                "INFERENCE_PRECISION_HINT": "f32",
                # Several processes share the cores; pinned threads would meet on the same ones.
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._of_thread = threading.local()

    def run(self, images_BHWC: NDArray[np.uint8]) -> tuple[np.ndarray, np.ndarray]:
        """Features (B, D) and logits (B, C), float32, of RGB images."""
        request: Any = getattr(self._of_thread, "request", None)
        if request is None:
            request = self._of_thread.request = self._compiled.create_infer_request()
        request.infer([np.ascontiguousarray(images_BHWC)], share_inputs=True)
        # Copies, because the next batch of this thread writes into the same memory.
        features_BD = request.get_output_tensor(0).data.copy()
        logits_BC = request.get_output_tensor(1).data.copy()
        return features_BD, logits_BC


def _converted(network: ImageClassifier) -> tuple[Any, Any]:
    """OpenVINO model of uint8 images_BHWC, and its weights' owner."""
    # Not openvino.convert_model, which counts its uses for the vendor.
    import torch
    from openvino import PartialShape
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    from services.common.models.classifiers import PixelClassifier

    size = network.config.image_size
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes that become constants, as is meant
        traced = torch.jit.trace(PixelClassifier(network), example, check_trace=False)
    front_end = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced)
    model = front_end.convert(front_end.load(decoder))
    model.reshape(PartialShape([-1, size, size, 3]))
    return decoder, model
