"""Group normalisation of small images in 16 bits on a CPU."""

from __future__ import annotations

import copy

import pytest
import torch

from services.generator.engine.group_norm import SmallImageGroupNorm, replace_group_norms


@pytest.mark.parametrize("shape", [(3, 8, 5, 7), (2, 8, 32, 32), (2, 8, 12)])
@torch.no_grad()
def test_it_is_as_exact_as_the_one_it_replaces(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    exact = torch.nn.GroupNorm(4, 8)
    torch.nn.init.normal_(exact.weight)
    torch.nn.init.normal_(exact.bias)
    narrow = copy.deepcopy(exact).bfloat16()
    x = torch.randn(shape).bfloat16()
    if x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    wide = torch.nn.functional.group_norm(
        x.float(), 4, narrow.weight.float(), narrow.bias.float(), narrow.eps
    )
    ours = SmallImageGroupNorm(narrow)(x)
    assert ours.dtype == torch.bfloat16
    error, former = ((y.float() - wide).abs().max() for y in (ours, narrow(x)))
    assert error <= former
    if x.ndim == 4:
        assert ours.is_contiguous(memory_format=torch.channels_last)


def test_only_16_bit_norms_are_replaced() -> None:
    model = torch.nn.Sequential(
        torch.nn.GroupNorm(2, 4), torch.nn.Sequential(torch.nn.GroupNorm(2, 4).bfloat16())
    )
    replace_group_norms(model)
    assert isinstance(model[0], torch.nn.GroupNorm)
    assert isinstance(model[1][0], SmallImageGroupNorm)
    assert model[1][0].base.weight.dtype == torch.bfloat16
