"""A thread's own random numbers are those of a process that is alone, and disturb nobody."""

from __future__ import annotations

import threading

import torch
from torch import nn

from services.trainer.compute.thread_local_rng import RandomOfThread


def draws() -> list[torch.Tensor]:
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Linear(5, 6), nn.Embedding(4, 5), nn.MultiheadAttention(8, 2)
    )
    nn.init.trunc_normal_(layers[1].weight)
    nn.init.orthogonal_(layers[2].weight)
    factories = [
        torch.randn(7),
        torch.rand(4),
        torch.randperm(9),
        torch.randint(9, (4,)),
        torch.randn_like(torch.zeros(3)),
        torch.multinomial(torch.ones(5), 3),
    ]
    return [*layers.state_dict().values(), *factories]


def test_they_are_those_of_the_global_generator_and_leave_it_alone() -> None:
    torch.manual_seed(5)
    expected = draws()
    before = torch.get_rng_state()
    with RandomOfThread(5):
        found = draws()
    assert all(map(torch.equal, found, expected))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_generator_that_is_named_is_used() -> None:
    with RandomOfThread(5):
        found = torch.rand(4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(found, torch.rand(4, generator=torch.Generator().manual_seed(1)))


def test_other_threads_change_nothing() -> None:
    with RandomOfThread(5):
        expected = draws()
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            torch.manual_seed(3)
            torch.rand(8)

    other = threading.Thread(target=disturb)
    other.start()
    try:
        for _ in range(10):
            with RandomOfThread(5):
                assert all(map(torch.equal, draws(), expected))
    finally:
        stop.set()
        other.join()
