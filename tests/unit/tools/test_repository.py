"""The checks of the repository find what is planted for them."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """``tools/repository.py`` on an empty folder in which every file counts as tracked."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    module = importlib.import_module("repository")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(
        module,
        "tracked_files",
        lambda: sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()),
    )
    return module


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = folder / name.replace("__", "/")
        path = path.with_name(path.name + ".md")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_page_that_names_or_links_to_what_is_missing_is_found(
    repository: ModuleType, tmp_path: Path
) -> None:
    write(
        tmp_path,
        README="[there](docs/page.md) [gone](docs/lost.md#part)",
        docs__page="`docs/runbooks/Gone.md` and `docs/runbooks/` and [up](../README.md)",
        docs__runbooks__Here="`docs/page.md`; `elsewhere/x.py` is no path of ours",
    )
    write(tmp_path / "docs", **{"lab-notebook": "`docs/history.md`"})
    assert repository.docs_problems() == [
        "README.md links to docs/lost.md, which does not exist",
        "docs/page.md names docs/runbooks/Gone.md, which does not exist",
    ]


def test_a_requirement_of_any_extra_that_the_lock_lacks_is_found(
    repository: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "cytosynth"\ndependencies = ["rich>=15"]\n'
        '[project.optional-dependencies]\nreview = ["jinja2>=3"]\n'
        'services = ["cytosynth[review]", "torch>=2"]\n'
    )
    hashed = " \\\n    --hash=sha256:" + "0" * 64 + "\n"
    (tmp_path / "requirements.lock").write_text(f"rich==15.0{hashed}jinja2==2.9{hashed}")
    (tmp_path / "requirements-uv.lock").write_text("uv==0.13.9\n")
    assert repository.lock_problems() == [
        "uv==0.13.9 has no hash",
        "'jinja2>=3' is not met by the lock (2.9): run `make lock`",
        "'torch>=2' is not met by the lock (None): run `make lock`",
    ]
