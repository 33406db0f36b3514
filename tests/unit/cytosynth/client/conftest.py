"""A client of the toy services that does not wait between tries."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cytosynth.client import Client
from tests.support.servers.toy_services.server import ToyServices


@pytest.fixture
def client(toy: ToyServices, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    for module in ("generator", "trainer.jobs", "trainer.upload", "trainer.report_files"):
        monkeypatch.setattr(f"cytosynth.client.{module}.retry_delay", lambda failures: 0.01)
    with Client(toy.address, tenant="ward-3") as connected:
        yield connected
