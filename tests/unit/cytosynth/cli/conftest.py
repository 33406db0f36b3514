"""Commands against the toy services, with a state directory of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from cytosynth.cli import main
from tests.support.servers.toy_services.server import Cyto, ToyServices


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CYTOSYNTH_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("CYTOSYNTH_ADDRESS", raising=False)


@pytest.fixture
def cells(folder: Path) -> Path:
    return folder


@pytest.fixture
def cyto(toy: ToyServices, capsys: pytest.CaptureFixture[str]) -> Cyto:
    """Run a command against the toy services; gives exit code, stdout, stderr."""

    def run(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([*map(str, args), "--address", toy.address])
        return code, *capsys.readouterr()

    return run
