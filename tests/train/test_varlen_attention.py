"""One kernel for a whole packed row: asked rightly, tried before it is trusted, left alone where it fails."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from babeltune.train import attention, varlen_attention
from babeltune.train.attention import block_attention

varlen = pytest.importorskip("torch.nn.attention.varlen", reason="this torch has no varlen_attn")

HEADS, KEY_HEADS, WIDTH = 6, 2, 16
LENGTHS = (1, 9, 30)
CPU = torch.device("cpu")


def documented(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> torch.Tensor:
    """What torch's documentation says of `varlen_attn`, (tokens, heads, width), on any device."""
    before, after = (side if side >= 0 else query.shape[0] for side in window_size)
    parts = []
    for begin, end in itertools.pairwise(cu_seq_q.tolist()):
        assert end - begin <= min(max_q, max_k)
        position = torch.arange(end - begin)
        ahead = position[None, :] - position[:, None]
        one = (x[begin:end].transpose(0, 1)[None] for x in (query, key, value))
        mask = (ahead <= after) & (-ahead <= before)
        parts.append(F.scaled_dot_product_attention(*one, attn_mask=mask, scale=scale, enable_gqa=enable_gqa))
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    return torch.cat(parts, dim=2)[0].transpose(0, 1)


def trial(window: int | None, width: torch.dtype = torch.bfloat16) -> bool:
    return varlen_attention._agrees.__wrapped__(CPU, width, HEADS, KEY_HEADS, WIDTH, window)


@pytest.mark.parametrize("window", [None, 5])
def test_a_packed_row_through_the_kernel_is_the_row_example_by_example(
    window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, n, sum(LENGTHS), WIDTH) for n in (HEADS, KEY_HEADS, KEY_HEADS))
    boundaries = torch.tensor([0, *LENGTHS]).cumsum(0).to(torch.int32)

    def attended(**more: Any) -> torch.Tensor:
        return block_attention(
            nn.Identity(), query, key, value, None, 0.0, 0.3, window, cu_seq_lens_q=boundaries, **more
        )[0]

    expected = attended()
    monkeypatch.setattr(attention, "varlen_serves", lambda *_: True)
    monkeypatch.setattr(varlen, "varlen_attn", documented)
    torch.testing.assert_close(attended(max_length_q=max(LENGTHS)), expected)
    torch.testing.assert_close(attended(), expected)


@pytest.mark.parametrize("window", [None, 5])
def test_a_right_kernel_passes_its_trial(window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", documented)
    assert trial(window)


def test_a_trial_inside_a_checkpointed_layer_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", documented)
    tried: list[bool] = []

    def layer(x: torch.Tensor) -> torch.Tensor:
        if not tried:
            tried.append(trial(None))
        return x.exp()

    x = torch.zeros(3, requires_grad=True)
    checkpoint(layer, x, use_reentrant=False).sum().backward()
    assert tried == [True]
    assert x.grad is not None
    assert x.grad.tolist() == [1, 1, 1]


def one_too_many(*tensors: Any, window_size: tuple[int, int], **rest: Any) -> torch.Tensor:
    return documented(*tensors, window_size=(window_size[0] + 1, 0), **rest)


def looks_ahead(*tensors: Any, window_size: tuple[int, int], **rest: Any) -> torch.Tensor:
    return documented(*tensors, window_size=(window_size[0], 1), **rest)


def no_gradient(*tensors: Any, **rest: Any) -> torch.Tensor:
    attended = documented(*tensors, **rest)
    return attended.detach() + 0 * attended


@pytest.mark.parametrize("wrong", [one_too_many, looks_ahead, no_gradient])
def test_a_kernel_that_is_wrong_is_not_used(
    wrong: Callable[..., torch.Tensor], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", wrong)
    assert not trial(5)
    assert "off by" in caplog.text


def test_where_the_kernel_does_not_run_examples_attend_one_by_one(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert not trial(None)  # torch has it for GPUs only
    assert "example by example" in caplog.text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_kernel_passes_its_trial() -> None:
    query, key = (torch.zeros(1, heads, 4, 64, device="cuda", dtype=torch.bfloat16) for heads in (9, 3))
    assert varlen_attention.varlen_serves(query, key, None)
    assert varlen_attention.varlen_serves(query, key, 5)
