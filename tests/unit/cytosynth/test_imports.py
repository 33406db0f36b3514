"""Imports of client and command line: on every platform, nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

# What Windows or macOS lack, and what the client does not bring along or need.
_BLOCKED = """
import builtins, os, sys

class Blocked:
    names = {"fcntl", "termios", "pwd", "grp", "torch", "ray", "numpy", "PIL", "cryptography",
             "jinja2", "starlette", "uvicorn", "yaml", "sqlalchemy", "pydantic", "services"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in Blocked.names:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Blocked())
if hasattr(os, "sched_getaffinity"):
    del os.sched_getaffinity
"""


@pytest.mark.parametrize(
    "module",
    [
        "cytosynth.client",
        "cytosynth.cli.app",
        "cytosynth.cli.stack_session",
        "cytosynth.cli.pipeline_view",
        "cytosynth.workflows.pipeline",
        "cytosynth.workflows.study",
    ],
)
def test_it_imports_without_posix_and_without_the_services(module: str) -> None:
    code = f"{_BLOCKED}\nimport {module}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
