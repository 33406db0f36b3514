"""Trainings beside one another: all are done, and one that fails stops the others."""

from __future__ import annotations

import threading

import pytest
import torch

from services.trainer.compute.mixed_precision import mixed_precision
from services.trainer.compute.parallel_training import Stopped, num_workers, run_side_by_side


def test_every_part_is_done_once_each_on_one_core() -> None:
    before, found = torch.get_num_threads(), []
    both = threading.Barrier(2, timeout=20)

    def part(number: int) -> None:
        if number < 2:
            both.wait()  # only two at a time get past
        found.append((number, torch.get_num_threads()))

    parts = [lambda number=number: part(number) for number in range(6)]
    run_side_by_side(parts, 2, threading.Event())
    assert sorted(found) == [(number, 1) for number in range(6)]
    assert torch.get_num_threads() == before


def test_one_worker_does_them_in_their_order_in_the_calling_thread() -> None:
    found: list[tuple[int, int]] = []
    parts = [lambda n=n: found.append((n, threading.get_ident())) for n in range(3)]
    run_side_by_side(parts, 1, threading.Event())
    assert found == [(n, threading.get_ident()) for n in range(3)]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_error_comes_out_and_the_rest_is_not_begun(workers: int) -> None:
    stop, done = threading.Event(), []

    def failing() -> None:
        raise KeyError("the first")

    def long() -> None:
        assert stop.wait(20)
        raise Stopped

    parts = [failing, long, *[lambda: done.append(1)] * 5]
    with pytest.raises(KeyError, match="the first"):
        run_side_by_side(parts, workers, stop)
    assert not done


def test_a_gpu_does_one_at_a_time() -> None:
    assert num_workers("cuda") == 1
    assert num_workers("cpu") == min(8, torch.get_num_threads())


def test_attention_stays_plain_while_another_thread_trains() -> None:
    cpu, first_left = torch.device("cpu"), threading.Event()
    inside = threading.Barrier(2, timeout=20)
    seen: list[bool] = []

    def early() -> None:
        with mixed_precision(cpu):
            inside.wait()
        first_left.set()

    def late() -> None:
        with mixed_precision(cpu):
            inside.wait()
            assert first_left.wait(20)
            seen.append(torch.backends.cuda.flash_sdp_enabled())

    before = torch.backends.cuda.flash_sdp_enabled()
    run_side_by_side([early, late], 2, threading.Event())
    assert before and seen == [False], "as long as one thread is inside"
    assert torch.backends.cuda.flash_sdp_enabled(), "and as it was when all have left"
