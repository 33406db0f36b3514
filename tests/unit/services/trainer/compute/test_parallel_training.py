"""Parts side by side: complete, in order, nothing that outlives its job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from services.common.errors import (
    Cancelled,
    DomainError,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
)
from services.trainer.compute.parallel_training import num_workers, run_in_processes
from services.trainer.compute.training_run import Interrupted
from tests.support.toy_parts import ToyPart, begin, begun, lines, wait_until


def run(folder: Path, *parts: ToyPart, supervise: Any = lambda messages: False) -> None:
    run_in_processes(parts, partial(begin, folder), 2, supervise)


def test_every_part_is_carried_out_once_after_those_it_waits_for(tmp_path: Path) -> None:
    told: list[str] = []

    def supervise(messages: list[str]) -> bool:
        told.extend(messages)
        return False

    parts = [
        ToyPart("images", do="meet"),
        ToyPart("later", after=("images",)),
        ToyPart("beside", do="meet"),
        *(ToyPart(f"last-{number}", after=("later", "beside")) for number in range(4)),
    ]
    run(tmp_path, *parts, supervise=supervise)
    order = [(words[0], words[1]) for words in lines(tmp_path)]
    assert sorted(begun(tmp_path)) == sorted(part.name for part in parts)
    for part in parts:
        for name in part.after:
            assert order.index(("end", name)) < order.index(("begin", part.name))
    assert len({words[-1] for words in lines(tmp_path)}) == 2, "processes are used again"
    assert set(told) <= {part.name for part in parts} and "images" in told


@pytest.mark.parametrize(
    ("do", "expected"),
    [
        ("refuse", InvalidArgument("settings.arms", "is wrong", "send another")),
        ("break", RuntimeError("fails: Unpicklable: 1 and 2")),
    ],
)
def test_the_first_error_comes_back_whole_and_ends_the_other_parts(
    tmp_path: Path, do: str, expected: Exception
) -> None:
    parts = [ToyPart("long", do="work"), ToyPart("fails", do=do), ToyPart("never")]
    with pytest.raises(type(expected), match=str(expected)) as caught:
        run(tmp_path, *parts)
    assert "never" not in begun(tmp_path)
    assert ["end", "long"] not in [words[:2] for words in lines(tmp_path)]
    if isinstance(expected, DomainError):
        assert isinstance(caught.value, DomainError)
        assert caught.value.to_dict() == expected.to_dict()


def test_a_full_disk_of_a_process_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(ResourceExhausted, match="storage is full"):
        run(tmp_path, ToyPart("writes", do="fill"))


def test_a_job_whose_process_is_killed_may_be_tried_again(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"process was killed, .*; try again"):
        run(tmp_path, ToyPart("long", do="work"), ToyPart("dies", do="die"))
    wait_until(lambda: not any(map(is_alive, pids(tmp_path))))


def test_a_cancel_ends_the_parts_that_run(tmp_path: Path) -> None:
    def supervise(messages: list[str]) -> bool:
        if begun(tmp_path):
            raise Cancelled
        return False

    with pytest.raises(Cancelled):
        run(tmp_path, ToyPart("long", do="work"), ToyPart("too", do="work"), supervise=supervise)
    assert not any(words[0] == "end" for words in lines(tmp_path))


def test_draining_lets_every_part_that_runs_save_its_state(tmp_path: Path) -> None:
    parts = [ToyPart("a", do="work"), ToyPart("b", do="work"), ToyPart("never")]
    with pytest.raises(Interrupted):
        run(tmp_path, *parts, supervise=lambda _: len(begun(tmp_path)) == 2)
    saved = [words[1] for words in lines(tmp_path) if words[0] == "saved"]
    assert sorted(saved) == ["a", "b"] and "never" not in begun(tmp_path)


def test_a_part_that_waits_for_none_of_the_others_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="waits for parts that are not there"):
        run(tmp_path, ToyPart("a", after=("unknown",)))


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    job = subprocess.Popen([sys.executable, "-m", "tests.support.toy_parts", str(tmp_path)])
    try:
        wait_until(lambda: len(begun(tmp_path)) == 2)
    finally:
        os.kill(job.pid, signal.SIGKILL)
        job.wait()
    wait_until(lambda: not any(map(is_alive, pids(tmp_path))))
    before = lines(tmp_path)
    time.sleep(0.3)
    assert lines(tmp_path) == before, "nothing is written any more"


def test_a_gpu_does_one_at_a_time() -> None:
    assert num_workers("cuda") == 1
    assert num_workers("cpu") == min(8, torch.get_num_threads())


def pids(folder: Path) -> set[int]:
    return {int(words[-1]) for words in lines(folder)}


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
