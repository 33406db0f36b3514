"""Fixtures of client, command line and workflows: toy services and toy cells."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers.toy_services.server import ToyServices, toy_services


@pytest.fixture
def toy() -> Iterator[ToyServices]:
    with toy_services() as services:
        yield services


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of blast (first bytes 200…), two of mono (10…)."""
    root = tmp_path / "cells"
    for class_id, num_images, first_byte in (("blast", 3, 200), ("mono", 2, 10)):
        (root / class_id).mkdir(parents=True)
        for number in range(num_images):
            (root / class_id / f"{number}.png").write_bytes(bytes([first_byte + number, 1, 2]))
    return root
