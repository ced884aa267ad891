"""Packed rows, the chunked output layer and accumulation change nothing but speed."""

from __future__ import annotations

import polars as pl
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from tiny_training import ARCHITECTURES, build, frame
from torch import nn

from babeltune.train import loss
from babeltune.train.attention import Packing, attention_of, block_attention, packing_for
from babeltune.train.batches import Examples, build_row
from babeltune.train.loss import forward_for, row_nll

EXAMPLES = Examples.from_frame(frame(6, seed=3, shortest=4, longest=25))


def unpacked_loss(model: nn.Module) -> torch.Tensor:
    """The reference, written independently: transformers' plain forward, one example at a time."""
    total = torch.zeros(())
    for index in range(len(EXAMPLES)):
        span = slice(EXAMPLES.offsets[index], EXAMPLES.offsets[index + 1])
        ids = torch.from_numpy(EXAMPLES.ids[span])
        labels = torch.where(torch.from_numpy(EXAMPLES.targets[span]), ids, -100)
        logits = model(input_ids=ids[None]).logits[0]
        total = total + F.cross_entropy(logits[:-1], labels[1:], ignore_index=-100, reduction="sum")
    return total


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def with_adapter(model: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    return get_peft_model(model, config)  # pyright: ignore[reportArgumentType]


def packed_loss(model: nn.Module, packing: Packing) -> torch.Tensor:
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    with attention_of(causal, packing):  # type: ignore[arg-type]
        forward = forward_for(model, packing)
        nll = row_nll(forward, build_row(EXAMPLES, range(len(EXAMPLES)), "cpu"))
        nll.backward()
    return nll.detach()


@pytest.mark.parametrize("packing", ["blocks", "native"])
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_packed_row_equals_its_examples(
    kind: str, packing: Packing, adapted: bool, checkpointed: bool
) -> None:
    model: nn.Module = build(kind)
    if checkpointed:
        model.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    if adapted:
        model = with_adapter(model)
    model.train()
    assert max(EXAMPLES.lengths) > 2 * 8, "windows must be shorter than the examples"
    reference = unpacked_loss(model)
    reference.backward()
    expected = gradients(model)
    packed = packed_loss(model, packing)
    torch.testing.assert_close(packed, reference.detach(), rtol=1e-5, atol=1e-5)
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(found[name] / scale, gradient / scale, rtol=0, atol=1e-5, msg=name)


def test_a_leak_between_examples_would_show() -> None:
    """The test above is worth something: without boundaries the loss differs clearly."""
    model = build("llama")
    row = build_row(EXAMPLES, range(len(EXAMPLES)), "cpu")
    with torch.no_grad():
        leaking = row_nll(forward_for(model, "single"), row)
        logits = model(
            input_ids=row.ids_1_T, use_cache=False, attention_mask=torch.ones_like(row.ids_1_T)
        ).logits
        leaking_too = F.cross_entropy(logits[0, row.source_N], row.target_N, reduction="sum")
    # Without boundaries transformers packs by positions; an all-ones mask turns that off without a word.
    torch.testing.assert_close(leaking, unpacked_loss(model).detach(), rtol=1e-5, atol=1e-5)
    assert abs(float(leaking_too) - float(leaking)) > 0.1


def test_the_output_layer_in_chunks_equals_it_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama", tie_word_embeddings=True)
    whole = packed_loss(model, "blocks")
    expected = gradients(model)
    monkeypatch.setattr(loss, "chunk_positions", lambda matrix, trained: 5)
    chunked = packed_loss(model, "blocks")
    torch.testing.assert_close(chunked, whole)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [torch.bfloat16, torch.float32])
def test_the_logits_of_a_trained_matrix_take_no_more_than_its_gradient(width: torch.dtype) -> None:
    matrix = torch.empty(2000, 576, dtype=width)
    positions = loss.chunk_positions(matrix, trained=True)
    assert positions * 2000 * width.itemsize == matrix.numel() * 4
    assert loss.chunk_positions(matrix[:, :8], trained=True) == loss.HEAD_CHUNK
    assert loss.chunk_positions(matrix, trained=False) == loss.HEAD_CHUNK


def test_an_output_layer_that_is_more_than_a_matrix_goes_through_the_model() -> None:
    model = build("gemma2", final_logit_softcapping=2.0, attn_logit_softcapping=None, sliding_window=64)
    assert not forward_for(model, "native").chunked_head
    reference = unpacked_loss(model)
    torch.testing.assert_close(packed_loss(model, "native"), reference.detach(), rtol=1e-5, atol=1e-5)


def test_models_that_nobody_checked_are_not_packed(caplog: pytest.LogCaptureFixture) -> None:
    assert packing_for(build("llama"), packing=True) == "blocks"
    assert packing_for(build("llama"), packing=False) == "single"
    assert packing_for(build("gemma2"), packing=True) == "native"
    assert packing_for(build("olmo2"), packing=True) == "single"
    assert "olmo2" in caplog.text


@pytest.mark.parametrize(
    "asked", [{"softcap": 30.0}, {"s_aux": torch.zeros(4)}, {"position_bias": torch.zeros(1)}]
)
def test_attention_that_blocks_do_not_know_is_refused(asked: dict) -> None:
    query = torch.zeros(1, 4, 6, 8)
    boundaries = torch.tensor([0, 2, 6], dtype=torch.int32)
    block_attention(nn.Identity(), query, query, query, None, cu_seq_lens_q=boundaries, softcap=None)
    with pytest.raises(NotImplementedError, match=next(iter(asked))):
        block_attention(nn.Identity(), query, query, query, None, cu_seq_lens_q=boundaries, **asked)


def test_attention_is_given_back_as_it_was() -> None:
    model = build("llama")
    ids = torch.arange(10)[None]
    before = model(input_ids=ids).logits
    with attention_of(model, "blocks"), pytest.raises(NotImplementedError):
        model(input_ids=ids)
    torch.testing.assert_close(model(input_ids=ids).logits, before, rtol=0, atol=0)


def test_accumulated_gradients_equal_the_whole_batch() -> None:
    model = build("llama")
    packed_loss(model, "blocks")
    whole = gradients(model)
    with attention_of(model, "blocks"):
        forward = forward_for(model, "blocks")
        for members in ([0], [1, 2], [3, 4, 5]):
            row_nll(forward, build_row(EXAMPLES, members, "cpu")).backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-4, atol=1e-5)


def test_a_token_that_nothing_predicts_is_never_trained() -> None:
    rows = frame(40, seed=5)
    rows = rows.with_columns(
        # Raw text trains on every token; a row whose only trained token is its first trains none.
        trained=pl.when(pl.col("id") == "7")
        .then(pl.col("trained").list.eval(pl.int_range(pl.len()) == 0))
        .otherwise(pl.col("trained").list.eval(pl.element().is_not_null()))
    )
    examples = Examples.from_frame(rows)
    kept = rows.filter(pl.col("id") != "7")
    assert examples.trained_counts.tolist() == (kept["input_ids"].list.len() - 1).to_list()
    assert not examples.targets[examples.offsets[:-1]].any()
    assert examples.languages == tuple(kept["language"])
