"""Attention of short examples by plain products equals torch's own, gradients too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from babeltune.train import attention
from babeltune.train.attention import block_attention
from babeltune.train.short_attention import BLOCK, PADDED_TO, short_attention

HEADS, KEY_HEADS, WIDTH = 6, 2, 8
# One below, at and above a padded length, a single token, twice the same; one, two and three blocks.
LENGTHS = (PADDED_TO - 1, 1, PADDED_TO, PADDED_TO + 1, 7, 7, BLOCK, 2 * BLOCK - 3, 2 * BLOCK + 1)


Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def tensors(dtype: torch.dtype = torch.float64) -> Three:
    generator = torch.Generator().manual_seed(0)

    def drawn(heads: int) -> torch.Tensor:
        tensor = torch.randn(1, heads, sum(LENGTHS), WIDTH, generator=generator, dtype=torch.float64)
        return (3 * tensor).to(dtype).requires_grad_()

    return drawn(HEADS), drawn(KEY_HEADS), drawn(KEY_HEADS)


def reference(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None
) -> torch.Tensor:
    """Each example by itself through torch's attention, keys repeated and the mask written out."""
    blocks = []
    for parts in zip(*(x.split(LENGTHS, dim=2) for x in (query, key, value)), strict=True):
        position = torch.arange(parts[0].shape[2])
        behind = position[:, None] - position[None, :]
        seen = (behind >= 0) & (behind < (window or len(position)))
        key_, value_ = (x.repeat_interleave(HEADS // KEY_HEADS, dim=1) for x in parts[1:])
        blocks.append(F.scaled_dot_product_attention(parts[0], key_, value_, attn_mask=seen, scale=0.3))
    return torch.cat(blocks, dim=2).transpose(1, 2)


def packed(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None, dropout: float = 0.0
) -> torch.Tensor:
    boundaries = torch.tensor([0, *LENGTHS]).cumsum(0).to(torch.int32)
    attended, _ = block_attention(
        nn.Identity(), query, key, value, None, dropout, 0.3, window, cu_seq_lens_q=boundaries
    )
    return attended


@pytest.fixture
def memory_holds_nan() -> Iterator[None]:
    """What is allocated and not written reads NaN: results must not depend on it."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("memory_holds_nan")
@pytest.mark.parametrize("window", [None, 5, BLOCK + 9])
@pytest.mark.parametrize("longest", [512, 10, 0])
def test_any_mixture_of_short_and_long_examples_equals_torch(
    longest: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "LONGEST", longest)
    ours, theirs = tensors(), tensors()
    found, expected = packed(*ours, window), reference(*theirs, window)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for ours_, theirs_ in zip(ours, theirs, strict=True):
        torch.testing.assert_close(ours_.grad, theirs_.grad)


def test_in_16_bits_it_is_as_near_to_exact_as_torch() -> None:
    exact = reference(*tensors(), None)

    def off(attended: torch.Tensor) -> float:
        return float(((attended.double() - exact).norm() / exact.norm()).detach())

    narrow = tensors(torch.bfloat16)
    assert off(packed(*narrow, None)) < 2 * off(reference(*narrow, None))


def test_under_autocast_queries_in_float32_meet_narrow_values() -> None:
    query, key, value = tensors(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attended = short_attention(query, key, value.bfloat16(), (sum(LENGTHS),), 0.3, None)
    attended.sum().backward()
    assert attended.dtype == torch.bfloat16
    assert query.grad is not None
    assert query.grad.dtype == torch.float32


def test_dropout_is_left_to_torch() -> None:
    torch.manual_seed(0)
    inputs = tensors()
    assert not torch.allclose(packed(*inputs, None, dropout=0.5), packed(*inputs, None))
