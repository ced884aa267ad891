"""Attention functions of our own inside a transformers model: switching to them, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from transformers import AttentionInterface

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def attention_switch(
    model: PreTrainedModel, functions: Mapping[str, Callable[..., Any]]
) -> Iterator[Callable[[str | None], None]]:
    """Gives `use(name)`, which switches the model to one of `functions`; None is its own, as at the end."""
    own = model.config._attn_implementation or "eager"
    for name, function in functions.items():
        AttentionInterface.register(name, function)
    current = own

    def use(name: str | None) -> None:
        nonlocal current
        wanted = name or own
        if wanted != current:
            model.set_attn_implementation(wanted)
            current = wanted

    try:
        yield use
    finally:
        use(None)


def refuse_unknown(function: str, asked: Mapping[str, Any], harmless: Collection[str]) -> None:
    """What a model passes along might change the result, unless it is known not to.

    Raises:
        NotImplementedError: something is asked (not None) that is not `harmless`.
    """
    unknown = [name for name, given in asked.items() if given is not None and name not in harmless]
    if unknown:
        raise NotImplementedError(f"{function} does not know {', '.join(unknown)}")
