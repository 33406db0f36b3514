"""Stores on full disks: nothing half-written, nothing lost, deletions make room."""

from __future__ import annotations

import errno
from pathlib import Path

import fsspec
import pytest

from services.common.errors import NotFound, ResourceExhausted
from services.common.storage_errors import storage_error
from services.common.store.artifacts import ArtifactStore
from tests.support.full_disk import Refused, fill, small_disk


def make(store: ArtifactStore, id: str, data: bytes) -> None:
    draft = store.new_draft("local", "adapters", id)
    draft.write("weights", data)
    draft.commit({"parents": []})


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_a_full_disk_keeps_what_was_there_and_a_deletion_makes_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 512 * 1024) as disk:
        store = ArtifactStore(f"file://{disk}/store")
        make(store, "small", b"w" * 100_000)
        fill(disk)
        draft = store.new_draft("local", "adapters", "big")
        with pytest.raises(OSError) as caught:
            draft.write("weights", b"w" * 50_000)
        assert caught.value.errno == errno.ENOSPC
        assert isinstance(storage_error(caught.value), ResourceExhausted)
        draft.discard()
        assert files(disk / "store") == {"weights", "manifest.json"}
        assert store.read("local", "adapters", "small", "weights") == b"w" * 100_000
        assert store.delete("local", "adapters", "small")["num_objects"] == 2
        make(store, "big", b"w" * 50_000)
        assert store.read("local", "adapters", "big", "weights") == b"w" * 50_000


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_refused_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store = ArtifactStore(f"file://{tmp_path}/store")
    make(store, "small", b"w")
    refused = Refused(monkeypatch, tmp_path / "store", number)
    refused.on = True
    draft = store.new_draft("local", "adapters", "big")
    with pytest.raises(OSError) as caught:
        draft.write("weights", b"w")
    assert caught.value.errno == number and storage_error(caught.value) is not None
    draft.discard()
    assert store.folders("local", "adapters") == ["small"]
    store.delete("local", "adapters", "small")
    with pytest.raises(NotFound):
        store.delete("local", "adapters", "small")
    assert not files(tmp_path)


def test_a_local_copy_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore("memory://full-disk-copy", cache_dir=tmp_path / "cache")
    make(store, "a1", b"w")

    def refuse(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", refuse)
        with pytest.raises(OSError, match="No space left"):
            store.local_copy("local", "adapters", "a1")
    assert not files(tmp_path) and not list(tmp_path.rglob(".partial-*"))
    assert (store.local_copy("local", "adapters", "a1") / "weights").read_bytes() == b"w"
    fsspec.filesystem("memory").rm("/full-disk-copy", recursive=True)
