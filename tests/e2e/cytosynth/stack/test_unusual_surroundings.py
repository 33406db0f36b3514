"""One stack in adverse surroundings: folder names, proxies, TMPDIR, removed files."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cytosynth.stack import stack as local_stack
from cytosynth.stack.runtime_dir import LINK, LONGEST_PARENT
from cytosynth.stack.state import StackFiles

REPOSITORY = Path(__file__).resolve().parents[4]
TOYS = "tests.support.servers.toy_apps:build_apps"
START_SECONDS = 240.0
DEAD_PROXY = "http://127.0.0.1:9"
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
NAME = """Study: AML #1 50% "a" 'b' $HOME ?x=1 & {c} \\ é\n"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[local_stack.StackInfo]:
    folder = tmp_path_factory.mktemp("unusual") / NAME
    folder.mkdir()
    temporary = tmp_path_factory.mktemp("t" * (LONGEST_PARENT + 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TMPDIR", str(temporary))
        patch.setenv("PYTHONPATH", str(REPOSITORY))  # the toys
        for name in PROXIES:
            patch.setenv(name, DEAD_PROXY)
            patch.setenv(name.upper(), DEAD_PROXY)
        yield local_stack.up(0, timeout_seconds=START_SECONDS, apps=TOYS)
        local_stack.down()


def _wait(state: str, state_dir: Path) -> local_stack.StackStatus:
    deadline = time.monotonic() + 60
    while (status := local_stack.status(state_dir)).state != state:
        assert time.monotonic() < deadline, status
        time.sleep(0.2)
    return status


def test_it_starts_and_keeps_its_files_together(stack: local_stack.StackInfo) -> None:
    assert local_stack.status(stack.state_dir).state == "running"
    files = StackFiles(stack.state_dir)
    assert stack.state_dir == Path.cwd() / ".cytosynth"
    deadline = time.monotonic() + 30  # Envoy writes its log every ten seconds
    while '"listener":"edge"' not in files.access_log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert {path.name for path in Path.cwd().parent.iterdir()} == {NAME}
    assert {path.name for path in Path.cwd().iterdir()} == {".cytosynth"}


def test_a_cleaned_temporary_folder_is_made_again(stack: local_stack.StackInfo) -> None:
    assert stack.runtime_dir is not None
    link = stack.runtime_dir / LINK
    before = link.lstat().st_ctime_ns
    shutil.rmtree(stack.runtime_dir, ignore_errors=True)  # the supervisor may be quicker
    deadline = time.monotonic() + 30
    while not link.is_dir() or link.lstat().st_ctime_ns == before:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert os.path.samefile(link, StackFiles(stack.state_dir).ray)
    assert local_stack.status(stack.state_dir).state == "running"


def test_files_that_cannot_be_brought_back_end_it_with_the_reason(
    stack: local_stack.StackInfo,
) -> None:
    for session in StackFiles(stack.state_dir).ray.glob("session_*"):
        if not session.is_symlink():
            session.rename(session.with_name("moved"))
    status = _wait("stopped", stack.state_dir)
    assert "ended by itself: Ray's files in" in status.detail
    assert "were removed while the stack ran" in status.detail
    local_stack.down(stack.state_dir)
    assert local_stack.status(stack.state_dir).detail == "Not running."


def test_a_wrong_setting_is_named_before_anything_starts(
    stack: local_stack.StackInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CYTOSYNTH_MAX_IMAGE_BYTES", "many")
    with pytest.raises(local_stack.StartupFailed) as failed:
        local_stack.up(0, state_dir=tmp_path, timeout_seconds=START_SECONDS)
    first, second = str(failed.value).splitlines()
    assert first == (
        "The stack did not start: CYTOSYNTH_MAX_IMAGE_BYTES is 'many': must be a valid integer"
    )
    assert second == f"The log is {failed.value.log_path}"
    assert "Ray" not in failed.value.log_path.read_text()
    assert local_stack.status(tmp_path).num_processes == 0
