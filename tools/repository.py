"""Checks of the repository itself.  Each function lists problems, one line each."""

from __future__ import annotations

import itertools
import re
import subprocess
import tempfile
import tomllib
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import protos

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements.lock", "requirements-uv.lock")
MAX_FILE_BYTES = 25_000_000
PICKLED = {".ckpt", ".pickle", ".pkl", ".pt", ".pth"}
INDEX_URL = re.compile(r"https?://\S+/simple|--(extra-)?index-url|--find-links")
STUB_SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")
# History: names what has gone.
NOTEBOOK = Path("docs/lab-notebook.md")


def tracked_files() -> list[Path]:
    """Every file that git tracks or would track, relative to the root."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    return sorted(Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file())


def stub_problems() -> list[str]:
    """Stubs that are stale, missing or without a proto."""
    committed = {path for path in tracked_files() if path.name.endswith(STUB_SUFFIXES)}
    with tempfile.TemporaryDirectory() as folder:
        fresh = protos.generate(Path(folder))
        stale = [
            f"{stub} is out of date: run `make protos`"
            for stub in fresh
            if stub not in committed
            or (ROOT / stub).read_bytes() != (Path(folder) / stub).read_bytes()
        ]
    return stale + [f"{stub} has no proto: delete it" for stub in sorted(committed - set(fresh))]


def lock_problems() -> list[str]:
    """Requirements that the lock does not meet, and pins without a hash."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = itertools.chain.from_iterable(project["optional-dependencies"].values())
    wanted = [
        line
        for line in (*project["dependencies"], *extras)
        if Requirement(line).name != project["name"]
    ]
    text = "".join((ROOT / lock).read_text() for lock in LOCKS)
    pins = re.findall(
        r"^([\w.-]+)==([^\s;\\]+)([^\\\n]*)((?:\\\n +--hash=sha256:[0-9a-f]{64} ?)*)", text, re.M
    )
    versions = {
        canonicalize_name(name): version
        for name, version, marker, _ in pins
        if "python_full_version >=" not in marker
    }
    problems = [f"{name}=={version} has no hash" for name, version, _, hashes in pins if not hashes]
    for line in wanted:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate(dict(default_environment())):
            continue
        version = versions.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version):
            problems.append(f"{line!r} is not met by the lock ({version}): run `make lock`")
    return problems


def tree_problems() -> list[str]:
    """Files that must not be committed.

    Refused are index URLs, pickled weights, large files and generic names.
    """
    problems = []
    for path in tracked_files():
        if (ROOT / path).stat().st_size > MAX_FILE_BYTES:
            problems.append(f"{path} is over {MAX_FILE_BYTES // 1_000_000} MB")
        if path.suffix in PICKLED:
            problems.append(f"{path} is a pickle: keep weights in safetensors")
        if path.name == "utils.py":
            problems.append(f"{path}: name a module for what it makes")
        if path.suffix in {".lock", ".toml", ".txt", ".cfg"} or path.name == "Makefile":
            hit = INDEX_URL.search((ROOT / path).read_text())
            if hit:
                problems.append(f"{path} names a package index: {hit.group()}")
    return problems


def docs_problems() -> list[str]:
    """Missing paths that a page names or links to."""
    problems = []
    files = tracked_files()
    known = {str(path) for path in files} | {str(parent) for f in files for parent in f.parents}
    roots = {path.parts[0] for path in files}
    for page in files:
        if page.suffix != ".md" or page == NOTEBOOK:
            continue
        text = (ROOT / page).read_text()
        for name in re.findall(r"`([\w.\-/]+/[\w.\-/]*)`", text):
            if name.split("/")[0] in roots and name.rstrip("/") not in known:
                problems.append(f"{page} names {name}, which does not exist")
        for link in re.findall(r"\]\(([\w.\-/]+)(?:#[\w-]*)?\)", text):
            if not (ROOT / page.parent / link).exists():
                problems.append(f"{page} links to {link}, which does not exist")
    return problems
