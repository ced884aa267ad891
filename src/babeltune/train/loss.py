"""The loss: negative log-likelihood of the trained tokens, in nats, summed.

Summed over a row, not averaged: the caller divides by the trained tokens of the whole update, so that
packing, accumulation and the number of devices change nothing. The output layer runs only where the next
token is trained, a chunk at a time, so that logits never take more than a chunk's memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from babeltune.train.attention import Packing
from babeltune.train.batches import Row
from babeltune.train.example_attention import product_width

# Positions a chunk of an output layer that is not trained: 256 × 50k vocabulary in 16 bits is 25 MB.
HEAD_CHUNK = 256
# Of these so many at a time are widened to float32 on a CPU, so that softmax works in its cache.
SOFTMAX_ROWS = 16


@dataclass(frozen=True)
class Forward:
    """How to run one model on packed rows.

    `chunked_head`: the output layer is its matrix and nothing else (no soft cap, no scale), so it may be
    applied to chunks of hidden states; where not, the model's own forward does it, at the trained places.
    """

    model: nn.Module
    causal: PreTrainedModel
    packing: Packing
    chunked_head: bool


def forward_for(model: nn.Module, packing: Packing) -> Forward:
    """Look at a (PEFT-wrapped or bare) causal model once, before it runs on rows."""
    causal = cast("PreTrainedModel", model.get_base_model() if isinstance(model, PeftModel) else model)
    return Forward(model, causal, packing, chunked_head=_head_is_its_matrix(causal, packing))


def row_nll(forward: Forward, row: Row) -> torch.Tensor:
    """The summed loss of one row, a float32 scalar that gradients flow from."""
    arguments = _arguments(row, forward.packing)
    if forward.chunked_head:
        hidden_T_D = forward.causal.get_decoder()(**arguments).last_hidden_state[0]
        head = cast(nn.Linear, forward.causal.get_output_embeddings())
        hidden_N_D = hidden_T_D.index_select(0, row.source_N)
        return cast(torch.Tensor, _ChunkedNll.apply(hidden_N_D, head.weight, row.target_N))
    logits_N_V = forward.causal(**arguments, logits_to_keep=row.source_N).logits[0]
    return F.cross_entropy(logits_N_V.float(), row.target_N, reduction="sum")


def _arguments(row: Row, packing: Packing) -> dict[str, Any]:
    """What a packed row is to a transformers model."""
    arguments: dict[str, Any] = {
        "input_ids": row.ids_1_T,
        "position_ids": row.positions_1_T,
        # transformers detects packed rows only without a cache and without a mask.
        "use_cache": False,
        "attention_mask": None,
    }
    if packing == "blocks":
        arguments["cu_seq_lens_q"] = arguments["cu_seq_lens_k"] = row.boundaries
        arguments["max_length_q"] = arguments["max_length_k"] = row.longest
    return arguments


class _ChunkedNll(torch.autograd.Function):
    """Summed cross-entropy of `hidden @ weight.T`, its gradients taken along with each chunk's logits.

    The loss is a sum, so its gradient is known up to one factor as soon as the logits are; nothing of
    vocabulary size has to be kept or computed again (as Liger's fused linear cross-entropy does).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_N_D: torch.Tensor, weight_V_D: torch.Tensor, target_N: torch.Tensor
    ) -> torch.Tensor:
        width = product_width(hidden_N_D.device.type, weight_V_D.dtype)
        matrix_V_D = weight_V_D.to(width)
        wants_hidden, wants_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        grad_hidden_N_D = torch.empty_like(hidden_N_D) if wants_hidden else None
        grad_weight_V_D: torch.Tensor | None = None
        total = hidden_N_D.new_zeros((), dtype=torch.float32)
        positions = chunk_positions(matrix_V_D, trained=wants_weight)
        for start in range(0, len(target_N), positions):
            chunk = slice(start, start + positions)
            hidden_C_D = hidden_N_D[chunk].to(width)
            logits_C_V = hidden_C_D @ matrix_V_D.T
            total += _nll_leaving_gradient(logits_C_V, target_N[chunk], wanted=wants_hidden or wants_weight)
            if grad_hidden_N_D is not None:
                grad_hidden_N_D[chunk] = (logits_C_V @ matrix_V_D).to(hidden_N_D.dtype)
            if wants_weight:
                of_chunk_V_D = (logits_C_V.T @ hidden_C_D).to(weight_V_D.dtype)
                grad_weight_V_D = (
                    of_chunk_V_D if grad_weight_V_D is None else grad_weight_V_D.add_(of_chunk_V_D)
                )
        ctx.save_for_backward(grad_hidden_N_D, grad_weight_V_D)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (factor,) = grad_outputs
        grad_hidden_N_D, grad_weight_V_D = ctx.saved_tensors
        return (
            grad_hidden_N_D * factor.to(grad_hidden_N_D.dtype) if grad_hidden_N_D is not None else None,
            # In place, as it is the largest of all.
            grad_weight_V_D.mul_(factor) if grad_weight_V_D is not None else None,
            None,
        )


def chunk_positions(matrix_V_D: torch.Tensor, *, trained: bool) -> int:
    """How many positions go through the output layer at once.

    Each chunk goes once through the whole float32 gradient of a trained matrix, so there are to be few: their
    logits may take as much memory as that gradient does.
    """
    if not trained:
        return HEAD_CHUNK
    return max(HEAD_CHUNK, 4 * matrix_V_D.shape[1] // matrix_V_D.element_size())


def _nll_leaving_gradient(logits_C_V: torch.Tensor, target_C: torch.Tensor, *, wanted: bool) -> torch.Tensor:
    """A chunk's summed negative log-likelihood; if `wanted`, its gradient is left where the logits were.

    log Σ exp follows from the largest logit and its probability, which can't underflow; so the vocabulary
    is not gone through a second time, as log-softmax would.
    """
    total = logits_C_V.new_zeros((), dtype=torch.float32)
    rows = SOFTMAX_ROWS if logits_C_V.device.type == "cpu" else HEAD_CHUNK
    for logits_R_V, target_R in zip(logits_C_V.split(rows), target_C.split(rows), strict=True):
        wide_R_V = logits_R_V.float()
        probability_R_V = wide_R_V.softmax(dim=-1)
        log_sum_R = wide_R_V.amax(dim=-1) - probability_R_V.amax(dim=-1).log()
        total += (log_sum_R - wide_R_V.gather(1, target_R[:, None])[:, 0]).sum()
        if wanted:
            # The softmax is the gradient but for a 1.
            probability_R_V[torch.arange(len(target_R), device=target_R.device), target_R] -= 1
            logits_R_V.copy_(probability_R_V)
    return total


def _head_is_its_matrix(causal: PreTrainedModel, packing: Packing) -> bool:
    """Whether logits are exactly `output_embeddings(last_hidden_state)`: tried on a few tokens."""
    head = causal.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None or causal.get_decoder() is causal:
        return False
    place_4 = torch.arange(4, device=next(causal.parameters()).device)
    row = Row(place_4[None], place_4[None], place_4.new_tensor([0, 4]).int(), 4, place_4[:3], place_4[1:])
    arguments = _arguments(row, packing)
    with evaluating(causal), torch.no_grad():
        hidden_1_T_D = causal.get_decoder()(**arguments).last_hidden_state
        return torch.equal(head(hidden_1_T_D), causal(**arguments).logits)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode (no dropout) inside, the mode before it afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
