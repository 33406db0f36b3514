"""Settings of the generator, read once from the environment."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from services.common.processor import computes_in_bfloat16
from services.common.settings import CommonSettings
from services.generator.autoscale import AutoscaleSettings


class GeneratorSettings(CommonSettings):
    """Settings of the generator; environment variables are ``CYTOSYNTH_<NAME>``."""

    generator_num_slots: int = Field(24, ge=4, le=512)
    """UNet evaluations per step, on all replicas.

    Part of what makes an image bit-identical. A GPU
    wants 64; a CPU is a tenth faster at 24 than at 16, and more makes single images slower."""
    generator_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of UNet and decoder; another one gives (slightly) other images.

    Auto is bfloat16 on CUDA and on CPUs that compute in it, else float32; name one where machines
    differ."""
    generator_compile: bool = False
    """Use torch.compile: faster steps after a minute of compiling.

    A CPU needs a C++ compiler."""
    generator_decode_batch_size: int = Field(4, ge=1, le=64)
    """Images decoded at a time."""
    generator_device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to sample on; auto is CUDA where there is one."""
    generator_num_threads: int = Field(0, ge=0, le=1024)
    """CPU threads of one replica; 0: as many as Ray reserves CPUs."""
    generator_max_num_images: int = Field(100_000, ge=1)
    """Most images that one request may ask for."""
    generator_max_concurrent_requests: int = Field(32, ge=1)
    """Streams served at once; more are told to come back (RESOURCE_EXHAUSTED)."""
    generator_shard_num_images: int = Field(16, ge=1)
    """Images of a request that go to one replica together."""
    generator_shards_per_replica: int = Field(6, ge=1)
    """Shards of bulk work given to each running replica.

    The rest waits in the front. A reader that stops holds its request back after so many shards
    for each replica at most."""
    generator_interactive_num_images: int = Field(16, ge=0)
    """Requests of at most so many images go before larger ones."""
    generator_min_replicas: int = Field(1, ge=0)
    """Sampler replicas that always run; 0 scales to zero."""
    generator_max_replicas: int = Field(1, ge=1)
    """Sampler replicas at most; equal to the least, their number is fixed."""
    generator_warm_replicas: int = Field(0, ge=0)
    """Replicas kept for a while after the last work, above the least."""
    generator_warm_seconds: float = Field(900.0, ge=0)
    """Time for which warm replicas stay, seconds."""
    generator_target_seconds: float = Field(600.0, gt=0)
    """Time in which replicas should work off the backlog, seconds."""
    generator_downscale_delay_seconds: float = Field(60.0, ge=0)
    """Time for which fewer replicas must suffice before any stops, seconds."""
    generator_assumed_evaluations_per_second: float = Field(100.0, gt=0)
    """UNet evaluations per second of one replica, until one has been measured."""
    generator_replica_num_cpus: float = Field(1.0, ge=0)
    """CPUs that Ray reserves for a sampler replica."""
    generator_replica_num_gpus: float = Field(0.0, ge=0)
    """GPUs that Ray reserves for a sampler replica."""
    generator_adapter_memory_mb: int = Field(512, ge=1)
    """Memory for loaded adapters and their prompts per base, MB.

    The least recently used are evicted. Two adapters on their way and a copy for each row of the
    batch come on top.
    """
    generator_max_loaded_bases: int = Field(3, ge=1)
    """Bases kept in a replica; a distillation LoRA counts as another."""
    generator_recovery_seconds: float = Field(120.0, gt=0)
    """Time without a new image after which a stream stops replaying, seconds."""

    @property
    def autoscale(self) -> AutoscaleSettings:
        """Settings of the autoscaling."""
        return AutoscaleSettings(
            min_replicas=self.generator_min_replicas,
            max_replicas=self.generator_max_replicas,
            warm_replicas=self.generator_warm_replicas,
            warm_seconds=self.generator_warm_seconds,
            target_seconds=self.generator_target_seconds,
            evaluations_per_second=self.generator_assumed_evaluations_per_second,
            downscale_delay_seconds=self.generator_downscale_delay_seconds,
        )

    @model_validator(mode="after")
    def _autoscale_is_consistent(self) -> Self:
        self.autoscale  # noqa: B018 (raises)
        return self

    @property
    def dtype(self) -> str:
        """``generator_dtype``, "auto" resolved for this machine."""
        if self.generator_dtype != "auto":
            return self.generator_dtype
        cuda = self.generator_device == "cuda" or self.generator_replica_num_gpus > 0
        return "bfloat16" if cuda or computes_in_bfloat16() else "float32"
