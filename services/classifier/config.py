"""Settings of the classifier, read once from the environment."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field

from services.common.settings import CommonSettings


class ClassifierSettings(CommonSettings):
    """Settings of the classifier; environment names are ``CYTOSYNTH_<NAME>``."""

    @property
    def num_servers(self) -> int:
        """Replicas that take calls, each with a port of its own."""
        return self.classifier_num_replicas

    classifier_max_images: int = Field(256, ge=1, le=4096)
    """Most images in one Classify call."""
    classifier_max_loaded_models: int = Field(4, ge=1, le=1024)
    """Classifiers kept in a replica; the least recently used is evicted."""
    classifier_max_concurrent_requests: int = Field(1024, ge=1)
    """Concurrent calls of a replica; long before, calls are refused by their estimated wait."""
    classifier_device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to compute on; auto is CUDA if available, else the CPU."""
    classifier_runtime: Literal["auto", "torch", "openvino"] = "auto"
    """What computes the networks; auto is OpenVINO on the CPU, if installed, else torch.

    Probabilities of OpenVINO are held to those of torch when a version is loaded.
    """
    classifier_num_threads: int = Field(1, ge=0, le=1024)
    """CPU threads that compute one batch, which suffer where other work shares the CPU.

    0 is one per core.
    """
    classifier_compute_threads: int = Field(0, ge=0, le=64)
    """Batches that a replica computes at once; 0: one per core, at most 8, or 1 on a GPU."""
    classifier_decode_threads: int = Field(0, ge=0, le=64)
    """Images that a replica decodes at once; 0: one for two cores, at most 4."""
    classifier_batch_wait_ms: float = Field(5.0, ge=0, le=1000)
    """Longest wait of an image for others of its batch that are still decoded."""
    classifier_queue_wait_ms: float = Field(0.0, ge=0, le=600_000)
    """Estimated wait above which calls are refused, but for bursts; 0: as long as some batches."""
    classifier_stream_window: int = Field(32, ge=1, le=1024)
    """Images of one ClassifyStream call in flight."""
    classifier_num_replicas: int = Field(1, ge=1)
    """Replicas, each of which can serve every classifier."""
    classifier_replica_num_cpus: float = Field(0.5, ge=0)
    """CPUs that Ray reserves for a replica."""
    classifier_replica_num_gpus: float = Field(0.0, ge=0)
    """GPUs that Ray reserves for a replica."""

    @property
    def num_compute_threads(self) -> int:
        """Batches that a replica computes at once."""
        if self.classifier_compute_threads:
            return self.classifier_compute_threads
        has_gpu = self.classifier_replica_num_gpus > 0 or self.classifier_device == "cuda"
        return 1 if has_gpu else min(8, _num_cores())

    @property
    def num_decode_threads(self) -> int:
        """Images that a replica decodes at once."""
        return self.classifier_decode_threads or max(1, min(4, _num_cores() // 2))


def _num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
