"""Sockets have short paths, and come back when somebody cleans temporary folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cytosynth.stack.runtime_dir import (
    LINK,
    LONGEST_PARENT,
    is_runtime_dir,
    link_files,
    make_runtime_dir,
    touch_link,
)
from cytosynth.stack.state import StackError


def test_a_long_or_odd_tmpdir_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("t" * LONGEST_PARENT)
    long.mkdir()
    for named in (long, Path("/tmp/a b"), Path("/nowhere")):
        monkeypatch.setenv("TMPDIR", str(named))
        made = make_runtime_dir(tmp_path / ("x" * LONGEST_PARENT))
        try:
            assert is_runtime_dir(made)
            assert len(str(made.parent)) <= LONGEST_PARENT
            assert made.stat().st_mode & 0o777 == 0o700
        finally:
            made.rmdir()


def test_a_short_state_directory_comes_first() -> None:
    root = make_runtime_dir(Path("/" + "x" * LONGEST_PARENT))
    try:
        made = make_runtime_dir(root)
        assert made.parent == root
        made.rmdir()
    finally:
        root.rmdir()


def test_without_any_short_folder_the_remedy_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(prefix: str, dir: Path) -> str:
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("cytosynth.stack.runtime_dir.tempfile.mkdtemp", refuse)
    with pytest.raises(StackError) as failed:
        make_runtime_dir(tmp_path)
    assert str(failed.value) == (
        f"No folder with a path of at most {LONGEST_PARENT} characters can be written for "
        f"sockets (TMPDIR is {tmp_path}); set TMPDIR to such a folder."
    )


def test_a_removed_link_is_made_again(tmp_path: Path) -> None:
    files = tmp_path / "state" / "ray"
    files.mkdir(parents=True)
    runtime_dir = tmp_path / "cyto-x"
    assert link_files(runtime_dir, files)
    assert not link_files(runtime_dir, files)
    os.utime(runtime_dir / LINK, (0, 0), follow_symlinks=False)
    touch_link(runtime_dir)
    assert (runtime_dir / LINK).lstat().st_mtime > 0
    (runtime_dir / LINK).unlink()
    runtime_dir.rmdir()
    assert link_files(runtime_dir, files)
    assert (runtime_dir / LINK).samefile(files)


def test_a_link_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "cyto-x").write_text("")
    with pytest.raises(StackError, match="cyto-x/ray cannot be made: "):
        link_files(tmp_path / "cyto-x", tmp_path)
