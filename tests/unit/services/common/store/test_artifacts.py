"""One contract for all stores: write-once, whole or unseen, gone when deleted."""

import hashlib
import json
import os
import threading
import uuid
from pathlib import Path

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from services.common.errors import AlreadyExists, DataLoss, NotFound
from services.common.store.artifacts import ArtifactStore

MANIFEST = {"parents": ["datasets/d1"], "base": "cyto-small", "seed": 7}


@pytest.fixture(scope="session")
def s3():
    """An S3 server on loopback, to which the environment leads s3fs."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield
    server.stop()


@pytest.fixture(params=["file", "memory", "s3"])
def store(request, tmp_path) -> ArtifactStore:
    if request.param == "file":
        uri = f"file://{tmp_path}/store"
    elif request.param == "memory":
        uri = f"memory://{uuid.uuid4().hex}"
    else:
        request.getfixturevalue("s3")
        bucket = f"cells-{uuid.uuid4().hex}"
        fsspec.filesystem("s3").mkdir(bucket)
        uri = f"s3://{bucket}/prefix"
    return ArtifactStore(uri, cache_dir=tmp_path / "cache")


def make(store: ArtifactStore, id: str = "a1", tenant: str = "local", **manifest) -> str:
    draft = store.new_draft(tenant, "adapters", id)
    draft.write("shared/weights.safetensors", b"weights")
    draft.write("card.md", b"card")
    return draft.commit({**MANIFEST, **manifest})


def raw_bytes(store: ArtifactStore, path: str, data: bytes | None = None) -> bytes:
    """Reaches under the store, as a broken disk would."""
    full = f"tenants/{path}"
    if data is not None:
        store._files.write(full, data)
    return store._files.read(full)


def test_draft_does_not_exist_before_commit(store):
    draft = store.new_draft("local", "adapters", "a1")
    draft.write("card.md", b"card")
    assert not store.exists("local", "adapters", "a1")
    assert store.list("local", "adapters") == []
    for read in (store.get_manifest, store.manifest_digest, store.local_copy, store.delete):
        with pytest.raises(NotFound):
            read("local", "adapters", "a1")


def test_committed_artifact_says_what_it_is(store):
    digest = make(store)
    manifest = store.get_manifest("local", "adapters", "a1")
    assert manifest["name"] == "adapters/a1"
    assert (manifest["kind"], manifest["tenant"]) == ("adapters", "local")
    assert manifest["files"]["card.md"] == hashlib.sha256(b"card").hexdigest()
    assert {key: manifest[key] for key in MANIFEST} == MANIFEST
    assert store.manifest_digest("local", "adapters", "a1") == digest
    stored = raw_bytes(store, "local/adapters/a1/manifest.json")
    assert hashlib.sha256(stored).hexdigest() == digest


def test_files_come_back(store):
    make(store)
    assert store.read("local", "adapters", "a1", "card.md") == b"card"
    both = store.read_many("local", "adapters", "a1", ["card.md", "shared/weights.safetensors"])
    assert both["shared/weights.safetensors"] == b"weights"
    with pytest.raises(NotFound, match=r"no\.txt"):
        store.read("local", "adapters", "a1", "no.txt")


def test_tenants_do_not_see_each_other(store):
    make(store, tenant="lab-a")
    assert store.list("lab-b", "adapters") == []
    with pytest.raises(NotFound):
        store.read("lab-b", "adapters", "a1", "card.md")
    with pytest.raises(NotFound):
        store.delete("lab-b", "adapters", "a1")


def test_list_is_newest_first(store):
    for id in ("b", "a", "c"):
        make(store, id)
    assert [m["name"] for m in store.list("local", "adapters")] == [
        "adapters/c", "adapters/a", "adapters/b",
    ]  # fmt: skip


def test_commit_again_is_the_same_artifact_or_an_error(store):
    digest = make(store)
    assert make(store) == digest
    with pytest.raises(AlreadyExists):
        make(store, seed=8)
    with pytest.raises(AlreadyExists):
        store.new_draft("local", "adapters", "a1").write("card.md", b"other")
    with pytest.raises(AlreadyExists):
        store.new_draft("local", "adapters", "a1").write("new.md", b"new")
    assert store.read("local", "adapters", "a1", "card.md") == b"card"


def test_only_one_of_many_committers_wins(store):
    digests, refused = [], []

    def commit(seed: int) -> None:
        draft = store.new_draft("local", "adapters", "a1")
        barrier.wait()
        try:
            digests.append(draft.commit({"seed": seed}))
        except AlreadyExists:
            refused.append(seed)

    barrier = threading.Barrier(8)
    threads = [threading.Thread(target=commit, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(digests) == 1
    assert len(refused) == 7
    assert store.manifest_digest("local", "adapters", "a1") == digests[0]


def test_unfinished_draft_is_continued_after_a_restart(store):
    store.new_draft("local", "imageSets", "s1").write("0.png", b"zero")
    draft = store.new_draft("local", "imageSets", "s1")
    assert draft.exists("0.png")
    assert not draft.exists("1.png")
    assert draft.read("0.png") == b"zero"
    draft.write("1.png", b"one")
    assert draft.list() == ["0.png", "1.png"]
    draft.commit({})
    assert sorted(store.get_manifest("local", "imageSets", "s1")["files"]) == ["0.png", "1.png"]


def test_discarded_draft_leaves_nothing(store):
    draft = store.new_draft("local", "adapters", "a1")
    draft.write("card.md", b"card")
    draft.discard()
    assert draft.list() == []
    make(store)
    store.new_draft("local", "adapters", "a1").discard()
    assert store.exists("local", "adapters", "a1")


def test_file_overwritten_by_another_writer_stops_the_commit(store):
    draft = store.new_draft("local", "adapters", "a1")
    draft.write("card.md", b"mine")
    store.new_draft("local", "adapters", "a1").write("card.md", b"theirs")
    with pytest.raises(DataLoss):
        draft.commit({})
    assert not store.exists("local", "adapters", "a1")


def test_damaged_or_missing_file_is_noticed(store):
    make(store)
    raw_bytes(store, "local/adapters/a1/card.md", b"cast")
    with pytest.raises(DataLoss, match=r"card\.md"):
        store.read("local", "adapters", "a1", "card.md")
    store._files.remove("tenants/local/adapters/a1/card.md")
    with pytest.raises(DataLoss, match=r"card\.md"):
        store.read("local", "adapters", "a1", "card.md")


def test_deletion_proves_what_is_gone(store):
    digest = make(store)
    local = store.local_copy("local", "adapters", "a1")
    proof = store.delete("local", "adapters", "a1")
    files = {
        "card.md": hashlib.sha256(b"card").hexdigest(),
        "shared/weights.safetensors": hashlib.sha256(b"weights").hexdigest(),
        "manifest.json": digest,
    }
    lines = "".join(f"{path}\0{files[path]}\n" for path in sorted(files))
    assert proof["digest"] == hashlib.sha256(lines.encode()).hexdigest()
    assert (proof["name"], proof["num_objects"]) == ("adapters/a1", 3)
    assert not local.exists()
    assert store._files.list("tenants") == []
    for act in (store.get_manifest, store.delete, store.local_copy):
        with pytest.raises(NotFound):
            act("local", "adapters", "a1")
    with pytest.raises(NotFound):
        store.read("local", "adapters", "a1", "card.md")


def test_deletion_cut_short_hides_the_artifact_and_is_completed(store, monkeypatch):
    make(store)
    removed, remove = [], store._files.remove

    def remove_one_then_die(path: str) -> None:
        if len(removed) == 1:
            raise OSError("power cut")
        removed.append(path)
        remove(path)

    monkeypatch.setattr(store._files, "remove", remove_one_then_die)
    with pytest.raises(OSError, match="power cut"):
        store.delete("local", "adapters", "a1")
    assert not store.exists("local", "adapters", "a1")
    monkeypatch.setattr(store._files, "remove", remove)
    assert store.delete("local", "adapters", "a1")["num_objects"] == 3
    assert store._files.list("tenants") == []


def test_local_copy_has_every_file(store):
    make(store)
    folder = store.local_copy("local", "adapters", "a1")
    assert (folder / "shared/weights.safetensors").read_bytes() == b"weights"
    assert json.loads((folder / "manifest.json").read_bytes())["name"] == "adapters/a1"
    assert store.local_copy("local", "adapters", "a1") == folder


def test_sweep_removes_only_old_drafts(store):
    make(store, "whole")
    store.new_draft("local", "adapters", "draft").write("card.md", b"card")
    assert store.sweep_drafts(3600) == 0
    assert store.sweep_drafts(-1) == 1
    assert store.exists("local", "adapters", "whole")
    assert store.new_draft("local", "adapters", "draft").list() == []


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "manifest.json", "a\\b", "."]
)
def test_path_outside_the_draft_is_a_bug(store, path):
    with pytest.raises(ValueError, match="artifact path"):
        store.new_draft("local", "adapters", "a1").write(path, b"")


@pytest.mark.parametrize("tenant", ["", "..", "a/b", "A"])
def test_malformed_tenant_is_a_bug(store, tenant):
    with pytest.raises(ValueError, match="tenant"):
        store.list(tenant, "adapters")


def test_half_written_file_is_never_seen(tmp_path, monkeypatch):
    store = ArtifactStore(f"file://{tmp_path}")
    draft = store.new_draft("local", "adapters", "a1")

    def die(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(OSError, match="disk full"):
        draft.write("card.md", b"card")
    assert draft.list() == []
    assert [path for path in Path(tmp_path).rglob("*") if path.is_file()] == []


def test_a_store_that_cannot_be_asked_proves_no_deletion(tmp_path, monkeypatch):
    store = ArtifactStore(f"file://{tmp_path}/store")
    draft = store.new_draft("local", "adapters", "a1")
    draft.write("weights", b"w")
    draft.commit({"parents": []})

    def away(path: str, **_: object) -> None:
        raise ConnectionError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(store._files._fs, "info", away)
        with pytest.raises(ConnectionError):
            store.exists("local", "adapters", "a1")
        with pytest.raises(ConnectionError):
            store.delete("local", "adapters", "a1")
    assert store.exists("local", "adapters", "a1")
