"""The settings of all services are checked together, and quickly."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from cytosynth.service_methods import SERVICES
from services.common.settings import CommonSettings, SettingsError
from services.launch.service_settings import load_all, settings_class


def test_every_service_has_settings_of_its_own() -> None:
    classes = [settings_class(name) for name in SERVICES]
    assert len(set(classes)) == len(SERVICES)
    assert all(issubclass(one, CommonSettings) for one in classes)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("CYTOSYNTH_MAX_IMAGE_BYTES", "many", "is 'many': must be a valid integer"),
        ("CYTOSYNTH_LEASE_SECONDS", "0", "is '0': must be greater than 0.5"),
        ("CYTOSYNTH_STORE_URI", "cells", "is 'cells': must be a URI such as file:///data/store"),
        ("CYTOSYNTH_LEASE_SECOND", "9", "no such setting; is it CYTOSYNTH_LEASE_SECONDS?"),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        load_all(())
    assert name in str(refused.value)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_other_variables_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CYTOSYNTH_ADDRESS", "127.0.0.1:1")
    assert set(load_all(("CYTOSYNTH_ADDRESS",))) == set(SERVICES)
    with pytest.raises(SettingsError, match="CYTOSYNTH_ADDRESS: no such setting"):
        load_all(())


def test_settings_are_checked_without_torch_and_ray() -> None:
    code = (
        "import sys; from services.launch.service_settings import load_all; load_all(());"
        "print(*({'torch', 'ray', 'diffusers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    "command",
    [
        "services.operations.verify",
        "services.operations.backup store /x",
        "services.operations.drain_jobs --status",
        "services.common.deletions export",
        "services.common.database.migrate --check",
        "services.launch.one_service trainer",
    ],
)
def test_commands_name_a_wrong_setting_in_one_line(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CYTOSYNTH_MAX_IMAGE_BYTES", "many")
    monkeypatch.setattr(sys, "argv", command.split())
    with pytest.raises(SystemExit) as ended:
        import_module(command.split()[0]).main()
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith("error: CYTOSYNTH_MAX_IMAGE_BYTES is 'many': must be a valid integer")
