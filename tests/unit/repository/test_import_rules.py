"""Import rules that import-linter cannot state."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
# The rooms that know Ray (2) and gRPC (1); every other module is domain (0).
OUTER = {"app": 2, "runner": 2, "service": 1, "messages": 1, "receive_dataset": 1}
# What stands on the ground imports nothing of its service.
GROUND = (
    "services.generator.engine",
    "services.trainer.augmentation",
    "services.trainer.evaluation",
)
HEAVY = ("torch", "diffusers", "transformers", "open_clip", "torchvision", "peft")
FRONTS = [
    f"services.{service}.{module}"
    for service in ("classifier", "generator", "trainer")
    for module in ("config", "service", "app")
] + ["cytosynth.client", "cytosynth.cli"]


def _modules() -> list[Path]:
    return [
        path
        for service in ("classifier", "generator", "trainer")
        for path in sorted((ROOT / "services" / service).rglob("*.py"))
    ]


def _imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith("services.")}


@pytest.mark.parametrize(
    "path",
    _modules(),
    ids=lambda path: str(path.relative_to(ROOT).with_suffix("")),
)
def test_imports_point_inward(path: Path) -> None:
    room = OUTER.get(path.stem, 0)
    outward = {
        name
        for name in _imported(path)
        if (ROOT / name.replace(".", "/")).with_suffix(".py").is_file()
        and OUTER.get(name.rsplit(".", 1)[1], 0) > room
    }
    assert not outward, f"{path.relative_to(ROOT)} imports outward: {sorted(outward)}"


@pytest.mark.parametrize("package", GROUND)
def test_what_stands_on_the_ground_imports_nothing_of_its_service(package: str) -> None:
    paths = sorted((ROOT / package.replace(".", "/")).rglob("*.py"))
    assert paths
    above = {
        f"{path.stem}: {name}"
        for path in paths
        for name in _imported(path)
        if not f"{name}.".startswith((f"{package}.", "services.common."))
    }
    assert not above


def test_fronts_start_without_loading_models() -> None:
    code = f"""
import importlib, sys
for front in {FRONTS}:
    importlib.import_module(front)
    loaded = [name for name in {HEAVY} if name in sys.modules]
    if loaded:
        sys.exit(f"{{front}} loads {{loaded}} on import")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
