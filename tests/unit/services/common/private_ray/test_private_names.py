"""Private names of Ray, kept in one folder to ease upgrades."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[5]
HOME = ROOT / "services" / "common" / "private_ray"
SOURCES = [
    path
    for folder in ("services", "cytosynth", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not path.is_relative_to(HOME)
]


def private_names(text: str) -> Iterator[str]:
    """A module's imported, read or passed Ray names with one leading underscore."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] == "ray":
                yield from _private(f"{module}.{alias.name}" for alias in node.names)
            case ast.Import():
                yield from _private(alias.name for alias in node.names)
            case ast.Attribute():
                yield from _private([ast.unparse(node)])
            case ast.Call() if ast.unparse(node.func).startswith(("ray.", "serve.")):
                for keyword in node.keywords:
                    if keyword.arg and keyword.arg.startswith("_"):
                        yield f"{ast.unparse(node.func)}({keyword.arg}=)"


def _private(names: Iterator[str] | list[str]) -> Iterator[str]:
    for name in names:
        first, *rest = name.split(".")
        if first in ("ray", "serve") and any(
            part.startswith("_") and not part.startswith("__") for part in rest
        ):
            yield name


@pytest.mark.parametrize(
    "text",
    [
        "import ray._private.worker",
        "from ray.serve._private import default_impl",
        "from ray import _raylet",
        "ray._private.worker._global_node",
        "ray.init(_temp_dir='x')",
    ],
)
def test_a_private_name_is_seen(text: str) -> None:
    assert list(private_names(text))


def test_public_names_are_let_through() -> None:
    assert not list(private_names("import ray\nray.init(address='local')\nray.__version__"))


def test_they_stand_in_one_folder() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in SOURCES
        for name in private_names(path.read_text())
    }
    assert found == set()


def test_only_one_is_used() -> None:
    texts = [path.read_text() for path in HOME.glob("*.py")]
    assert [name for text in texts for name in private_names(text)] == ["ray.init(_temp_dir=)"]
