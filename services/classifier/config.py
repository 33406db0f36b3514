"""Settings of the classifier, read once from the environment."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from services.common.settings import CommonSettings


class ClassifierSettings(CommonSettings):
    """Settings of the classifier; environment names are ``CYTOSYNTH_<NAME>``."""

    classifier_max_images: int = Field(256, ge=1, le=4096)
    """Most images in one Classify call."""
    classifier_max_loaded_models: int = Field(4, ge=1, le=1024)
    """Classifiers kept in a replica; the least recently used is evicted."""
    classifier_max_concurrent_requests: int = Field(32, ge=1)
    """Concurrent calls of a replica; further ones are refused (RESOURCE_EXHAUSTED)."""
    classifier_device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to compute on; auto is CUDA if available, else the CPU."""
    classifier_num_threads: int = Field(0, ge=0, le=1024)
    """CPU threads of a replica; 0 is torch's default (one per core)."""
    classifier_num_replicas: int = Field(1, ge=1)
    """Replicas, each of which can serve every classifier."""
    classifier_replica_num_cpus: float = Field(0.5, ge=0)
    """CPUs that Ray reserves for a replica."""
    classifier_replica_num_gpus: float = Field(0.0, ge=0)
    """GPUs that Ray reserves for a replica."""
