"""What several test files use: bases to draw with or train on, and a browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser import browser  # noqa: F401 (a fixture)

if TYPE_CHECKING:
    from services.common.bases import Base


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bases "tiny" and "tiny-xl", each with a second decoder."""
    from tests import fakes  # brings torch, which most tests do without

    folder = tmp_path_factory.mktemp("models")
    fakes.write_tiny_decoder(fakes.write_tiny_base(folder, "tiny"))
    fakes.write_tiny_decoder(fakes.write_tiny_xl_base(folder, "tiny-xl"))
    return folder


@pytest.fixture(scope="module")
def base(models_dir: Path) -> Base:
    """The base "tiny"."""
    from services.common.bases import resolve_base

    return resolve_base("tiny", models_dir)
