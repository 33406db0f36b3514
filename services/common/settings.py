"""Settings that every service reads from the environment, once, at start-up."""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from cytosynth.traces import check_endpoint

PREFIX = "CYTOSYNTH_"
REPOSITORY = Path(__file__).resolve().parents[2]


_REMOVED = {
    "CYTOSYNTH_GENERATOR_CUDA_GRAPHS": "CUDA graphs were removed; unset it",
    "CYTOSYNTH_GENERATOR_WINDOW_NUM_IMAGES": (
        "removed, as a reader that stops is held back by the shards in flight: unset it, "
        "or set CYTOSYNTH_GENERATOR_SHARDS_PER_REPLICA or CYTOSYNTH_GENERATOR_SHARD_NUM_IMAGES"
    ),
}
"""Variables that earlier versions read, and what to do instead."""


class SettingsError(ValueError):
    """A setting is wrong; the message names the environment variable."""


def refuse_unknown_variables(known: Iterable[str]) -> None:
    """Refuse mistyped variables, which would be passed over in silence.

    Args:
        known: Every ``CYTOSYNTH_…`` variable that anything reads.

    Raises:
        SettingsError: Naming each variable that nothing reads, and the nearest that something does.
    """
    known = sorted(known)
    lines = []
    for name in sorted(n for n in os.environ if n.startswith(PREFIX) and n not in known):
        near = difflib.get_close_matches(name, known, n=1)
        unknown = "no such setting" + (f"; is it {near[0]}?" if near else "")
        lines.append(f"{name}: {_REMOVED.get(name, unknown)}")
    if lines:
        raise SettingsError("; ".join(lines))


def sqlite_url(path: Path) -> str:
    """SQLAlchemy URL of a database file, whatever characters its path has."""
    return URL.create("sqlite", database=str(path)).render_as_string()


def _state_dir(known: dict[str, Any]) -> Path:
    """The folder among the fields read before, else the default."""
    folder: Path = known.get("state_dir", Path(".cytosynth"))
    return folder.absolute()


def _problem(error: ErrorDetails) -> str:
    """One wrong variable: its name, its value and what it must be."""
    name = PREFIX + "_".join(str(part) for part in error["loc"]).upper()
    said = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    said = said.partition(", unable to")[0]
    return f"{name} is {str(error['input'])[:100]!r}: {said}"


class CommonSettings(BaseSettings):
    """Settings that all services share; subclassed in each service's ``config.py``.

    Environment variables are ``CYTOSYNTH_<NAME>``.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    @property
    def num_servers(self) -> int:
        """Replicas that take calls, each with a port of its own."""
        return 1

    state_dir: Path = Field(default_factory=lambda: _state_dir({}))
    """Folder of the local stack, by default also of store and database."""
    store_uri: str = Field(default_factory=lambda known: f"file://{_state_dir(known)}/store")
    """fsspec URI of the artifact store: ``file://…``, ``s3://bucket/prefix`` or ``memory://…``."""
    database_url: str = Field(
        default_factory=lambda known: sqlite_url(_state_dir(known) / "jobs.db")
    )
    """SQLAlchemy URL of the job database: ``sqlite:///…`` or ``postgresql+psycopg://…``."""
    models_dir: Path = REPOSITORY / "models"
    """Folder of base models."""
    max_image_bytes: int = Field(20_000_000, gt=0)
    """Largest encoded image taken, bytes."""
    max_image_pixels: int = Field(50_000_000, gt=0)
    """Largest image taken, width times height."""
    max_message_bytes: int = Field(32 * 1024 * 1024, ge=1024 * 1024)
    """Largest gRPC message, bytes."""
    generator_address: str = "127.0.0.1:50051"
    """Where the trainer reaches the generator: the edge."""
    default_base: str = "cyto-small"
    """Diffusion base used when a request names none."""
    default_clip: str = "cyto-clip"
    """CLIP base used when a request names none."""
    traces_endpoint: str = ""
    """``http://host:port`` of a near OTLP gRPC collector; empty: no traces.

    The client, the edge, the services and the job runners all read this one setting. Empty, nothing
    of OpenTelemetry is loaded and nothing is sent (``docs/traces.md``).
    """

    metrics_dir: Path | None = None
    """Folder in which the processes of a machine or pod write their series; None: nowhere."""
    metrics_host: str = "127.0.0.1"
    """Address that one of them serves the series on; no TLS."""
    metrics_port: int = Field(0, ge=0, le=65535)
    """Port of the series, ``/metrics``; 0: not served (the local stack's supervisor serves)."""

    @field_validator("store_uri")
    @classmethod
    def _store_has_scheme(cls, uri: str) -> str:
        if "://" not in uri:
            raise ValueError("must be a URI such as file:///data/store or s3://bucket/prefix")
        return uri

    @field_validator("database_url")
    @classmethod
    def _database_is_known(cls, url: str) -> str:
        try:
            backend = make_url(url).get_backend_name()
        except ArgumentError as error:
            raise ValueError("must be a SQLAlchemy URL such as sqlite:///jobs.db") from error
        if backend not in ("sqlite", "postgresql"):
            raise ValueError("must be a sqlite:/// or postgresql+psycopg:// URL")
        return url

    @field_validator("metrics_port")
    @classmethod
    def _served_series_are_written(cls, port: int, known: ValidationInfo) -> int:
        if port and known.data.get("metrics_dir") is None:
            raise ValueError("needs CYTOSYNTH_METRICS_DIR, the folder of the series")
        return port

    @field_validator("traces_endpoint")
    @classmethod
    def _traces_go_to_a_collector(cls, endpoint: str) -> str:
        return check_endpoint(endpoint)

    @classmethod
    def variables(cls) -> list[str]:
        """Names of the environment variables that these settings read."""
        return [PREFIX + name.upper() for name in cls.model_fields]

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Reads the environment.

        Raises:
            SettingsError: Naming each variable that is wrong and why.
        """
        try:
            return cls(**overrides)
        except ValidationError as error:
            raise SettingsError("; ".join(map(_problem, error.errors()))) from None

    @classmethod
    def load_for(cls, parser: argparse.ArgumentParser) -> Self:
        """Reads the environment; a wrong variable ends the command with one line."""
        try:
            return cls.load()
        except SettingsError as error:
            parser.error(str(error))
