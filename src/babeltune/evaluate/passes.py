"""Passes of a model over planned rows: tree masks, and the keys and values of a shared prefix.

A row (`trie.py`) is a tree of tokens behind a prefix that all rows share. The prefix is run once; its keys
and values are put before those of every row and never changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from babeltune.evaluate import trie

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Architectures whose attention is known, and tested, to take a tree mask. Others get a row for each request.
TREE_MODELS = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma3_text"})


def takes_trees(model: PreTrainedModel) -> bool:
    """Whether rows of this model may branch, and share a prefix."""
    return model.config.get_text_config().model_type in TREE_MODELS


class PrefixLayer(DynamicLayer):
    """One layer of a prefix's keys and values (1, heads, P, head_dim), read-only; None for an empty prefix.

    With `record`, the keys and values of the last batch run behind it stay in `own`.
    """

    def __init__(self, keys: torch.Tensor | None, values: torch.Tensor | None, *, record: bool) -> None:
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, keys is not None
        self.record = record
        self.own: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The prefix's keys and values with a batch's own after them."""
        if self.record:
            self.own = key_states, value_states
        if self.keys is None or self.values is None:
            return key_states, value_states
        rows = key_states.shape[0]
        return (
            torch.cat([self.keys.expand(rows, -1, -1, -1), key_states], dim=-2),
            torch.cat([self.values.expand(rows, -1, -1, -1), value_states], dim=-2),
        )


@dataclass(frozen=True)
class Prefix:
    """`length` tokens that stand before every row, as keys and values."""

    length: int
    layers: tuple[PrefixLayer, ...]

    @cached_property
    def cache(self) -> Cache:
        """The layers as models take them."""
        return Cache(layers=list(self.layers))


def run_prefix(model: PreTrainedModel, ids: Sequence[int], *, record: bool = False) -> Prefix:
    """Run what all rows start with. `record`: see `PrefixLayer`."""
    if not ids:
        layers = range(model.config.get_text_config().num_hidden_layers)
        return Prefix(0, tuple(PrefixLayer(None, None, record=record) for _ in layers))
    # Without the config: a sliding model's own cache would drop the keys that left the window.
    cache = DynamicCache()
    model(
        input_ids=torch.tensor([list(ids)], device=model.device),
        cache=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    computed: list[Any] = cache.layers
    return Prefix(len(ids), tuple(PrefixLayer(layer.keys, layer.values, record=record) for layer in computed))


def run_rows(model: PreTrainedModel, rows: Sequence[trie.Row], prefix: Prefix | None) -> torch.Tensor:
    """Logits (N, vocabulary) at the node of each target of each row, in order.

    `prefix` of None: rows don't branch and nothing stands before them, in a model that need not know trees.
    """
    device = model.device
    L = max(map(len, rows))
    ids_B_L = torch.zeros(len(rows), L, dtype=torch.long)
    positions_B_L = torch.zeros(len(rows), L, dtype=torch.long)
    for b, row in enumerate(rows):
        ids_B_L[b, : len(row)] = torch.frombuffer(row.ids, dtype=torch.int32)
        positions_B_L[b, : len(row)] = torch.frombuffer(row.depths, dtype=torch.int32)
    inputs: dict[str, Any] = {"input_ids": ids_B_L.to(device)}
    if prefix is not None:
        positions_B_L += prefix.length
        inputs["position_ids"] = positions_B_L.to(device)
        inputs["attention_mask"] = _masks(model, rows, positions_B_L, prefix.length)
        inputs["cache"] = prefix.cache
    row_N = torch.tensor([b for b, row in enumerate(rows) for _ in row.targets], device=device)
    node_N = torch.tensor([target.node for row in rows for target in row.targets], device=device)

    def only_predicting(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (args[0][row_N, node_N].unsqueeze(0), *args[1:])

    # Nodes differ from row to row, which `logits_to_keep` can't say. What a model does to logits (scaling,
    # soft caps) comes after its head and works on each position alone, so it holds for these too.
    head = model.get_output_embeddings()
    assert head is not None
    hook = head.register_forward_pre_hook(only_predicting)
    try:
        return model(**inputs, use_cache=False).logits[0]
    finally:
        hook.remove()


def windowed(
    model: PreTrainedModel, seen: torch.Tensor, query_at: torch.Tensor, key_at: torch.Tensor
) -> dict[str, torch.Tensor]:
    """What is visible in each type of the model's layers, given what is without windows (boolean).

    `query_at` and `key_at`: positions, which together broadcast to the shape of `seen`. Models with one kind
    of layers have one entry.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if window is None:
        return {"full_attention": seen}
    sliding = {"sliding_attention": seen & (query_at - key_at < window)}
    return sliding if getattr(config, "layer_types", None) is None else {"full_attention": seen, **sliding}


def as_model_takes(model: PreTrainedModel, masks: dict[str, torch.Tensor]) -> Any:
    """Masks by type of layer in the form that the model's forward takes: such a dict, or a tensor."""
    if getattr(model.config.get_text_config(), "layer_types", None) is None:
        (mask,) = masks.values()
        return mask
    return masks


def _masks(
    model: PreTrainedModel, rows: Sequence[trie.Row], positions_B_L: torch.Tensor, P: int
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Who sees whom, as additive masks: a row's nodes the prefix and their own ancestors."""
    B, L = positions_B_L.shape
    seen_B_1_L_K = torch.zeros(B, 1, L, P + L, dtype=torch.bool)
    for b, row in enumerate(rows):
        seen_B_1_L_K[b, 0, : len(row), :P] = True
        seen_B_1_L_K[b, 0, : len(row), P : P + len(row)] = torch.from_numpy(trie.visible(row))
    # Padding sees itself: a row of the softmax without any key is NaN.
    seen_B_1_L_K[:, 0, :, P:].diagonal(dim1=1, dim2=2).fill_(True)
    key_positions_B_K = torch.cat([torch.arange(P).expand(B, P), positions_B_L], dim=1)
    masks = windowed(
        model, seen_B_1_L_K, positions_B_L[:, None, :, None], key_positions_B_K[:, None, None, :]
    )
    return as_model_takes(model, {kind: _additive(mask, model) for kind, mask in masks.items()})


def _additive(seen_B_1_L_K: torch.Tensor, model: PreTrainedModel) -> torch.Tensor:
    mask = torch.zeros(seen_B_1_L_K.shape, dtype=model.dtype)
    return mask.masked_fill_(~seen_B_1_L_K, torch.finfo(model.dtype).min).to(model.device)
