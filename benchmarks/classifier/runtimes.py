"""Time per image of each runtime, and its distance from torch.

    python -m benchmarks.classifier.runtimes

Networks have random weights. Every runtime gets the same uint8 images and gives features and
logits. ONNX Runtime, and INT8 by its static quantization, need ``onnx`` and ``onnxruntime``, which
the lock does not hold: ``--packages`` names a folder with both. Writes ``out/bench/runtimes.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from scipy.special import softmax
from torch import nn

from services.classifier.runtimes.openvino_runtime import OpenVinoRuntime
from services.classifier.runtimes.runtime import Runtime, TorchRuntime
from services.common.models.classifier_config import ClassifierConfig
from services.common.models.classifiers import PixelClassifier, build_model
from services.common.models.image_classifier import ImageClassifier

CLASS_IDS = ("basophil", "blast", "eosinophil", "erythroblast", "lymphocyte", "monocyte")
NETWORKS = {"resnet18@64": 64, "resnet50@224": 224, "clip@224": 224}
BATCH_SIZES = (1, 8, 32)
CLIP_MODEL = "ViT-B-32"
CPU = torch.device("cpu")
_SECONDS = 2.0


class _Run:
    """A runtime made of a function."""

    def __init__(self, name: str, run: Callable[[np.ndarray], Any]) -> None:
        self.name, self._run = name, run

    def run(self, images_BHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        features_BD, logits_BC = self._run(images_BHWC)
        return np.asarray(features_BD), np.asarray(logits_BC)


def build(key: str, models_dir: Path) -> ImageClassifier:
    """A network with random weights whose answers depend on the image."""
    architecture = key.partition("@")[0]
    base = _write_clip_base(models_dir) if architecture == "clip" else ""
    torch.manual_seed(0)
    network = build_model(
        ClassifierConfig(architecture, CLASS_IDS, NETWORKS[key], base), models_dir
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # the last of a branch starts at 0
            nn.init.constant_(module.weight, 0.3)
    return network.eval()


def runtimes(network: ImageClassifier, num_threads: int, folder: Path) -> dict[str, Any]:
    """Makers of runtimes by name."""
    pixels = PixelClassifier(network)

    def in_torch(module: Callable[..., Any], name: str) -> Runtime:
        def run(images_BHWC: np.ndarray) -> Any:
            with torch.no_grad():
                return module(torch.from_numpy(images_BHWC))

        return _Run(name, run)

    def contiguous() -> Runtime:
        network.to(memory_format=torch.contiguous_format)
        return TorchRuntime(network, CPU)

    def channels_last() -> Runtime:
        network.to(memory_format=torch.channels_last)
        return TorchRuntime(network, CPU)

    return {
        "torch, contiguous weights": contiguous,
        "torch, channels last": channels_last,
        "torch.compile": lambda: in_torch(torch.compile(pixels), "torch.compile"),
        "openvino": lambda: OpenVinoRuntime(network, num_threads, 1),
        "onnxruntime": lambda: _onnxruntime(_export(network, folder), num_threads),
        "onnxruntime int8": lambda: _onnxruntime(
            _quantized(_export(network, folder), network.config.image_size), num_threads
        ),
        "openvino int8": lambda: _openvino_of(
            _quantized(_export(network, folder), network.config.image_size), num_threads
        ),
    }


def measure(runtime: Runtime, reference: Runtime, image_size: int) -> dict[str, Any]:
    """Milliseconds per image by batch size, and largest probability difference."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (max(BATCH_SIZES), image_size, image_size, 3), np.uint8)
    _, expected_BC = reference.run(images[:8])
    _, found_BC = runtime.run(images[:8])
    # Random weights give logits of any size; a spread of 1 keeps probabilities off 0 and 1.
    spread = expected_BC.std()
    found, expected = (softmax(logits / spread, axis=1) for logits in (found_BC, expected_BC))
    difference = np.abs(found - expected).max()
    per_image, cpu_per_image = {}, {}
    for size in BATCH_SIZES:
        batch = images[:size]
        runtime.run(batch)
        runtime.run(batch)
        taken: list[tuple[float, float]] = []
        until = time.perf_counter() + _SECONDS
        while len(taken) < 5 or (time.perf_counter() < until and len(taken) < 300):
            started, cpu_started = time.perf_counter(), time.process_time()
            runtime.run(batch)
            taken.append((time.perf_counter() - started, time.process_time() - cpu_started))
        per_image[str(size)] = round(1000 * statistics.median(t for t, _ in taken) / size, 3)
        cpu_per_image[str(size)] = round(1000 * min(cpu for _, cpu in taken) / size, 3)
    return {
        "ms_per_image": per_image,
        "least_cpu_ms_per_image": cpu_per_image,
        "probability_difference": float(f"{difference:.2g}"),
    }


def _write_clip_base(models_dir: Path) -> str:
    """Writes open_clip's ViT-B/32 with random weights; gives the base's name."""
    import open_clip

    folder = models_dir / "random-clip"
    if folder.is_dir():
        return folder.name
    folder.mkdir(parents=True)
    preprocess = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    config = {"model_cfg": open_clip.get_model_config(CLIP_MODEL), "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    state = open_clip.create_model(CLIP_MODEL, pretrained=None).state_dict()
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    (folder / "manifest.json").write_text(json.dumps({"name": folder.name, "kind": "clip_base"}))
    return folder.name


def _export(network: ImageClassifier, folder: Path) -> Path:
    path = folder / "network.onnx"
    if not path.exists():
        size = network.config.image_size
        example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
        with torch.no_grad():
            torch.onnx.export(
                PixelClassifier(network),
                (example,),
                str(path),
                input_names=["images"],
                dynamic_axes={"images": {0: "batch"}},
                dynamo=False,
            )
    return path


def _onnxruntime(path: Path, num_threads: int) -> Runtime:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return _Run("onnxruntime", lambda images: session.run(None, {"images": images}))


def _openvino_of(path: Path, num_threads: int) -> Runtime:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": num_threads, "ENABLE_CPU_PINNING": False}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    return _Run("openvino", lambda images: list(compiled([images]).values()))


def _quantized(path: Path, image_size: int) -> Path:
    """INT8 by static quantization on noise, with operators OpenVINO reads."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Noise(CalibrationDataReader):
        def __init__(self) -> None:
            rng = np.random.default_rng(1)
            shape = (8, image_size, image_size, 3)
            self._left = [rng.integers(0, 256, shape, np.uint8) for _ in range(4)]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return {"images": self._left.pop()} if self._left else None

    target, prepared = path.with_suffix(".int8.onnx"), path.with_suffix(".prepared.onnx")
    if not target.exists():
        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared), str(target), Noise(), per_channel=True, activation_type=QuantType.QUInt8
        )
    return target


def main() -> None:
    """Measures all runtimes with one thread and with all cores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/bench/runtimes.json"))
    parser.add_argument("--packages", help="folder with onnx and onnxruntime")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, os.cpu_count() or 1])
    arguments = parser.parse_args()
    if arguments.packages:
        sys.path.append(arguments.packages)
    warnings.simplefilter("ignore")
    figures: dict[str, Any] = {"cpu": platform.processor(), "cores": os.cpu_count()}
    figures["torch"] = torch.__version__
    with tempfile.TemporaryDirectory() as root:
        for key in arguments.networks:
            folder = Path(root) / key
            folder.mkdir()
            network = build(key, Path(root))
            reference = TorchRuntime(network, CPU)
            for threads in dict.fromkeys(arguments.threads):
                torch.set_num_threads(threads)
                table = figures.setdefault(key, {}).setdefault(f"{threads} threads", {})
                for name, make in runtimes(network, threads, folder).items():
                    try:
                        table[name] = measure(make(), reference, NETWORKS[key])
                    except Exception as error:  # quoted in the report, as the others go on
                        table[name] = {"error": f"{type(error).__name__}: {error}"[:300]}
                    print(key, threads, name, json.dumps(table[name]), flush=True)
    figures["load_average_after"] = round(os.getloadavg()[0], 2)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
