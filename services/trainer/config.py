"""Settings of the trainer, read once from the environment (prefix ``CYTOSYNTH_``)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from services.common.images.codec import ImageLimits
from services.common.settings import CommonSettings


class TrainerSettings(CommonSettings):
    """Settings of the trainer's front and its job runners."""

    #: How long a runner may miss heartbeats before another takes its job over, seconds.
    lease_seconds: float = Field(default=15.0, gt=0.5, le=3600)
    #: Time between a runner's heartbeats, seconds; also how fast a cancel is noticed.
    heartbeat_seconds: float = Field(default=0.5, gt=0.05, le=60)
    #: Least time between two checkpoints of a job, seconds.
    checkpoint_seconds: float = Field(default=20.0, ge=0, le=86400)
    #: An idle runner ends, and frees its memory, after this many seconds.
    runner_idle_seconds: float = Field(default=60.0, ge=1, le=86400)
    #: How long the local stack waits, when it is stopped, for running jobs to save a checkpoint.
    drain_seconds: float = Field(default=20.0, ge=0, le=3600)
    #: A runner that was started before this file was written releases its job and leases no other:
    #: for a host that is about to end, while the others go on.
    drain_file: Path | None = None
    #: CPU and GPU share that one runner reserves with Ray, and the number of runners.
    runner_num_cpus: float = Field(default=1.0, ge=0, le=512)
    runner_num_gpus: float = Field(default=0.0, ge=0, le=64)
    num_runners: int = Field(default=1, ge=1, le=256)
    #: Threads a runner computes with; 0: torch decides.
    runner_num_threads: int = Field(default=0, ge=0, le=512)
    #: Device that a runner computes on; "auto" takes a GPU if the process sees one.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    #: Folders that ImportDataset may read, as URI prefixes, comma-separated; ``{tenant}`` stands
    #: for the caller's tenant. The default is a drop folder per tenant inside the store, so that no
    #: laboratory can name another's images or a file of the server.
    import_uri_prefixes: Annotated[tuple[str, ...], NoDecode] = ("{store_uri}/imports/{tenant}",)
    #: Limits of one dataset.
    max_dataset_images: int = Field(default=200_000, ge=2)
    max_dataset_bytes: int = Field(default=200_000_000_000, ge=1_000_000)
    #: An upload that sends nothing for this long is ended, seconds.
    upload_idle_seconds: float = Field(default=120.0, gt=0, le=86400)

    @field_validator("import_uri_prefixes", mode="before")
    @classmethod
    def _split_prefixes(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    def torch_device(self) -> str:
        """The torch device of a runner; may import torch."""
        if self.device != "auto":
            return self.device
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def image_limits(self) -> ImageLimits:
        """Limits of one image file."""
        return ImageLimits(max_bytes=self.max_image_bytes, max_pixels=self.max_image_pixels)
