"""``make check``: every check that needs no running service.

``python tools/check.py [step …]`` runs the named steps, by default all of them, prints a line for
each, and exits with 1 if one failed.  A step is a command or a function that lists problems.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import dockerfile
import manifests
import monitoring
import repository
import structure
import words

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

Step = list[str] | Callable[[], list[str]]


def _sources() -> dict[PurePosixPath, str]:
    return structure.sources(ROOT, repository.tracked_files())


def _folders() -> set[PurePosixPath]:
    return {PurePosixPath(folder) for file in repository.tracked_files() for folder in file.parents}


def _word_problems() -> list[str]:
    prose = words.prose(ROOT, repository.tracked_files())
    return [*words.word_problems(prose), *words.docstring_problems(_sources())]


STEPS: dict[str, Step] = {
    "format": ["ruff", "format", "--check", "--output-format", "concise", "."],
    "lint": ["ruff", "check", "--output-format", "concise", "."],
    "types": ["mypy"],
    "import rules": ["lint-imports", "--no-logo"],
    "protos format": ["buf", "format", "--diff", "--exit-code", "protos"],
    "protos lint": ["buf", "lint"],
    "protos breaking": ["buf", "breaking", "protos", "--against", "protos/baseline.binpb"],
    "stubs": repository.stub_problems,
    "lock": repository.lock_problems,
    "dockerfile": dockerfile.problems,
    "tree": repository.tree_problems,
    "imports": lambda: structure.import_problems(_sources()),
    "sizes": lambda: structure.size_problems(_sources()),
    "words": _word_problems,
    "tests' places": lambda: structure.test_problems(_sources(), _folders()),
    "docs": repository.docs_problems,
    "edge manifest": manifests.edge_problems,
    "manifests": manifests.overlay_problems,
    "monitoring": monitoring.monitoring_problems,
}


def run(step: Step) -> str:
    """Runs one step; returns what is wrong."""
    if callable(step):
        return "\n".join(step())
    command = [str(BIN / step[0]), *step[1:]]
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PATH": path, "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return (done.stdout.strip() or f"exit status {done.returncode}") if done.returncode else ""


def tell(name: str, problem: str, seconds: float) -> None:
    """Prints how a step ended."""
    print(f"{'FAILED' if problem else 'ok    '}  {name}  ({seconds:.1f} s)", flush=True)
    if name == "manifests":
        print("".join(f"    {notice}\n" for notice in manifests.notices()), end="", flush=True)
    if problem:
        print("    " + problem.replace("\n", "\n    "), flush=True)


def main(names: list[str]) -> int:
    """Runs the steps of these names, or all; returns the exit status."""
    unknown = [name for name in names if name not in STEPS]
    if unknown:
        print(f"unknown step {unknown[0]!r}; the steps are: {', '.join(STEPS)}")
        return 2
    asked = names or list(STEPS)
    failed: list[str] = []
    told = threading.Lock()

    def do(those: list[str]) -> None:
        for name in those:
            start = time.monotonic()
            problem = run(STEPS[name])
            with told:
                tell(name, problem, time.monotonic() - start)
                if problem:
                    failed.append(name)

    # Commands on one core, our own functions on another: types take as long as all the rest.
    commands = [name for name in asked if not callable(STEPS[name])]
    with ThreadPoolExecutor(1) as beside:
        others = beside.submit(do, commands)
        do([name for name in asked if name not in commands])
        others.result()
    if failed:
        print(f"\nmake check: {len(failed)} of {len(asked)} failed: {', '.join(failed)}")
        return 1
    print("\nmake check: all passed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
