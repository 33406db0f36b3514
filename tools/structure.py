"""Checks of the tree's structure.  Each function lists problems, one line each."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import networkx

MAX_LINES = 350
MAX_FILES = 15
SOURCE_SUFFIXES = {".py", ".lua", ".sh", ".j2", ".js"}
FIRST_PARTY = ("benchmarks", "cytosynth", "deploy", "pretraining", "services", "tests", "tools")
TEST_KINDS = ("unit", "contract", "e2e", "chaos")
# Neither part imports anything of the other.
APART = (("deploy", "services"),)
_STUB_SUFFIXES = ("_pb2.py", "_pb2_grpc.py")
_ABOUT_THE_REPOSITORY = PurePosixPath("tests/unit/repository")


def sources(root: Path, tracked: Iterable[Path]) -> dict[PurePosixPath, str]:
    """Texts of the source files by path; generated ones are left out."""
    return {
        PurePosixPath(path): (root / path).read_text()
        for path in tracked
        if path.suffix in SOURCE_SUFFIXES and not path.name.endswith(_STUB_SUFFIXES)
    }


def import_problems(texts: Mapping[PurePosixPath, str]) -> list[str]:
    """Circles of imports, and imports between parts that stay apart.

    Imports in functions and for types count.
    """
    modules = {_module(path): text for path, text in texts.items() if _is_first_party(path)}
    graph = networkx.DiGraph(
        (importer, imported)
        for importer, text in modules.items()
        for imported in _imports(importer, text, modules)
    )
    circles = [
        f"imports go in a circle: {', '.join(sorted(circle))}"
        for circle in networkx.strongly_connected_components(graph)
        if len(circle) > 1
    ]
    crossings = [
        f"{importer} imports {imported}: {one} and {other} import nothing of each other"
        for importer, imported in graph.edges
        for one, other in APART
        if {importer.partition(".")[0], imported.partition(".")[0]} == {one, other}
    ]
    return sorted(circles) + sorted(crossings)


def size_problems(texts: Mapping[PurePosixPath, str]) -> list[str]:
    """Files and folders that are too large to read."""
    long = [
        f"{path} has {lines} lines; {MAX_LINES} are allowed: which second idea does it hold?"
        for path, text in texts.items()
        if (lines := text.count("\n")) > MAX_LINES
    ]
    counts = Counter(
        path.parent
        for path in texts
        if path.name != "__init__.py" and path.parts[-3:-1] != ("migrations", "versions")
    )
    full = [
        f"{folder} holds {count} source files; {MAX_FILES} are allowed: group them by role"
        for folder, count in counts.items()
        if count > MAX_FILES
    ]
    return sorted(long) + sorted(full)


def test_problems(texts: Mapping[PurePosixPath, str], folders: set[PurePosixPath]) -> list[str]:
    """Tests that lie elsewhere than what they test.

    ``tests/<kind>/<folder>/test_<topic>.py`` tests ``<folder>``.  The topic of a unit test begins
    with the name of that folder, or of a file or folder in it. Otherwise the test imports from the
    folder or names it.  Other kinds name a behaviour of the whole.
    """
    names: dict[PurePosixPath, set[str]] = defaultdict(set)
    for path in [*texts, *folders]:
        names[path.parent].add(path.name.partition(".")[0])
    problems = []
    for path, text in texts.items():
        if path.parts[0] != "tests" or path.parts[1] not in TEST_KINDS:
            continue
        folder = PurePosixPath(*path.parts[2:-1])
        if path.parent == _ABOUT_THE_REPOSITORY or len(path.parts) == 3:
            continue
        if folder not in folders:
            problems.append(f"{path}: there is no folder {folder} to test")
        elif path.parts[1] == "unit" and path.name.startswith("test_"):
            topic = path.stem.removeprefix("test_")
            known = any(
                f"{topic}_".startswith(f"{name}_") for name in names[folder] | {folder.name}
            )
            if not known and not re.search(rf"\b{folder.name}\b", text):
                problems.append(f"{path} tests nothing of {folder}: move it to what it tests")
    return sorted(problems)


def _is_first_party(path: PurePosixPath) -> bool:
    return path.suffix == ".py" and path.parts[0] in FIRST_PARTY


def _module(path: PurePosixPath) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _imports(importer: str, text: str, modules: Mapping[str, str]) -> set[str]:
    """First-party modules that a module imports.

    ``from package import submodule`` is an import of the submodule.
    """
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in modules else node.module)
    beside = importer.rpartition(".")[0]
    if beside == "tools":  # scripts, which import each other by their bare names
        found |= {f"tools.{name}" for name in found}
    return {name for name in found if name in modules and name != importer}
