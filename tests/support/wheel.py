"""The project's wheel, and environments that hold nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_BUILT_FROM = ("cytosynth", "services", "pyproject.toml", "README.md", "LICENSE")


def build_wheel(folder: Path) -> Path:
    """Builds the wheel from a copy of the sources; needs no network."""
    source = folder / "source"
    for name in _BUILT_FROM:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            source.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps"]
    subprocess.run([*command, "--wheel-dir", folder, source], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """Install the wheel into an empty environment; return its programs' folder.

    Packages come from uv's cache, or else from the site's mirror; the test skips without both.
    """
    venv.create(folder, symlinks=True)
    programs = folder / "bin"
    uv = [sys.executable, str(ROOT / "tools/site_installer.py"), "uv", "pip", "install", "--quiet"]
    uv += ["--python", str(programs / "python"), "--compile-bytecode"]
    uv += ["--constraint", str(ROOT / "requirements.lock"), str(wheel)]
    for where in (["--offline"], []):
        done = subprocess.run([*uv, *where], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return programs
    pytest.skip(f"packages are neither in uv's cache nor on a mirror: {done.stderr[-300:]}")


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
