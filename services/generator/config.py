"""Settings of the generator, read once from the environment."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from services.common.settings import CommonSettings


class GeneratorSettings(CommonSettings):
    """What the generator can be told; environment names are ``CYTOSYNTH_<NAME>``."""

    generator_batch_size: int = Field(16, ge=1, le=512)
    """Slots per batch. Part of what makes an image bit-identical: equal on all replicas."""
    generator_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Arithmetic of UNet and decoder; another one draws (slightly) other images."""
    generator_device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to sample; auto is CUDA where there is one."""
    generator_num_threads: int = Field(0, ge=0, le=1024)
    """CPU threads of one replica; 0 leaves it to torch (one per core)."""
    generator_max_num_images: int = Field(100_000, ge=1)
    """Most images that one request may ask for."""
    generator_max_concurrent_requests: int = Field(32, ge=1)
    """Streams served at once; more are told to come back (RESOURCE_EXHAUSTED)."""
    generator_shard_num_images: int = Field(64, ge=1)
    """Images that go to one replica at a time."""
    generator_num_replicas: int = Field(1, ge=1)
    """Sampler replicas; also the number of shards of one request in flight."""
    generator_replica_num_cpus: float = Field(1.0, ge=0)
    """CPUs that Ray reserves for a sampler replica."""
    generator_replica_num_gpus: float = Field(0.0, ge=0)
    """GPUs that Ray reserves for a sampler replica."""
    generator_max_loaded_adapters: int = Field(32, ge=1)
    """LoRA weights (one per class in the per-class layout) kept in a replica per base."""
    generator_max_loaded_bases: int = Field(2, ge=1)
    """Base models kept in a replica."""
    generator_recovery_seconds: float = Field(120.0, gt=0)
    """How long a stream replays lost shards without a new image before it gives up."""
