"""``pip install cytosynth``: small, quick, the client alone, on every platform."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cytosynth import extras
from cytosynth.cli import main
from cytosynth.stack import stack as local_stack
from deploy.images.select_requirements import Lock
from tests.support.servers.toy_services.server import toy_services
from tests.support.wheel import ROOT, build_wheel, install, size_of

MAX_INSTALLED_BYTES = 60_000_000
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
POSIX_ONLY = ("fcntl", "grp", "posix", "pty", "pwd", "resource", "spwd", "syslog", "termios", "tty")
# Imports the modules of the wheel as an installation without extras on Windows would.
IMPORT_ALL = """
import builtins, json, os, sys
wheel, posix_only, known, extras = json.loads(sys.argv[1])
sys.path.insert(0, wheel)
real_import = builtins.__import__

def importing(name, globals=None, *arguments, **named):
    importer = (globals or {}).get("__name__", "")
    top = name.partition(".")[0]
    if importer.partition(".")[0] == "cytosynth" and not (named or arguments[2:3] or [0])[0]:
        if top in posix_only:
            raise SystemExit(f"{importer} imports {top}, which Windows has not")
        if top not in known and top not in sys.stdlib_module_names:
            raise ModuleNotFoundError(name, name=name)
    return real_import(name, globals, *arguments, **named)

# Others may use what their platform has; they are loaded before it goes.
import grpc, google.protobuf, multiprocessing, psutil, rich, subprocess, tempfile, typer
for name in ("fork", "getuid", "geteuid", "getsid", "killpg", "sched_getaffinity", "setsid"):
    delattr(os, name)
builtins.__import__ = importing
import zipfile
lacking = {}
for file in sorted(zipfile.ZipFile(wheel).namelist()):
    if file.endswith(".py") and not file.endswith("__main__.py"):
        module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        try:
            __import__(module)
        except ModuleNotFoundError as missing:
            lacking[module] = missing.name.partition(".")[0]
print(json.dumps(lacking))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(wheel, tmp_path_factory.mktemp("installed") / "environment")


def modules_of(distributions: set[str]) -> set[str]:
    """Top-level modules of these distributions."""
    return {
        module
        for module, names in packages_distributions().items()
        if {canonicalize_name(name) for name in names} & distributions
    }


def names_of(requirements: list[str]) -> set[str]:
    """Names of the distributions that are required."""
    return {canonicalize_name(Requirement(line).name) for line in requirements}


def test_the_wheel_holds_cytosynth_and_nothing_beside_it(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {
        "cytosynth",
        f"cytosynth-{PROJECT['version']}.dist-info",
    }
    assert {"cytosynth/py.typed", "cytosynth/cli/app.py"} <= set(names)
    assert any(name.endswith((".j2", ".html")) for name in names)


def test_every_module_needs_no_posix_and_names_the_extra_that_it_lacks(wheel: Path) -> None:
    lock = Lock((ROOT / "requirements.lock").read_text())
    known = sorted(modules_of(lock.closure(names_of(PROJECT["dependencies"]))) | {"cytosynth"})
    told = json.dumps([str(wheel), POSIX_ONLY, known, extras.EXTRAS])
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, told], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lacking = json.loads(done.stdout)
    assert set(lacking.values()) <= set(extras.EXTRAS)
    optional = (
        "cytosynth.evaluation",
        "cytosynth.image_files",
        "cytosynth.phantoms",
        "cytosynth.review",
        "cytosynth.stack.certs",
        "cytosynth.workflows.cell_sheet",
        "cytosynth.workflows.demo",
    )
    assert {module: lacking[module] for module in lacking if not module.startswith(optional)} == {}


@pytest.mark.parametrize("extra", ["certs", "evaluation", "phantoms", "review", "traces"])
def test_every_package_of_an_extra_leads_to_it(extra: str) -> None:
    for name in names_of(PROJECT["optional-dependencies"][extra]):
        modules = modules_of({name}) & set(extras.EXTRAS)
        assert modules, name
        assert all(extra in extras.EXTRAS[module] for module in modules), name


def test_a_missing_extra_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in [name for name in sys.modules if name.startswith("cytosynth.phantoms")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy.ndimage", None)
    assert main(["phantoms", "--out", str(tmp_path / "cells")]) == 1
    told = capsys.readouterr().err
    assert told == "cytosynth: scipy is not installed; run: pip install 'cytosynth[phantoms]'\n"


@pytest.mark.parametrize("command", [["up"], ["demo"], ["run", "--data", "cells", "--out", "out"]])
def test_without_the_services_their_commands_say_what_to_do(
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(local_stack.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("CYTOSYNTH_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("CYTOSYNTH_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / "cells/blast").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"cells/blast/{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + name.encode())
    assert main(command) == 1
    told = capsys.readouterr().err.strip()
    assert told.startswith("cytosynth: The services are not installed here: run 'make setup'")
    assert "\n" not in told
    assert not (tmp_path / "state").exists()


def test_an_empty_environment_is_small_and_has_neither_torch_nor_ray(programs: Path) -> None:
    (packages,) = programs.parent.glob("lib/python*/site-packages")
    assert size_of(packages) <= MAX_INSTALLED_BYTES
    assert not [p for p in packages.iterdir() if p.name in ("torch", "ray", "numpy", "services")]


def test_the_installed_client_is_imported_within_a_second(programs: Path) -> None:
    code = "import time; t = time.perf_counter(); import cytosynth.client, cytosynth.cli.app; "
    command = [programs / "python", "-c", code + "print(time.perf_counter() - t)"]
    seconds = [float(subprocess.check_output(command, cwd=programs)) for _ in range(5)]
    assert min(seconds) < 1.0


def test_the_installed_command_classifies(programs: Path, tmp_path: Path) -> None:
    image = tmp_path / "cell.png"
    image.write_bytes(bytes([200]))
    with toy_services() as toy:
        done = subprocess.run(
            [programs / "cytosynth", "classify", image, "--address", toy.address, "--json"],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "blast" in done.stdout
