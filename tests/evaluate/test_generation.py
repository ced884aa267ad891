"""Generation against lm-eval's `hf` backend, and against itself with other numbers of slots."""

from __future__ import annotations

import random
import string
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models import huggingface
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from babeltune.errors import TaskError
from babeltune.evaluate.continuous import generate_tokens
from babeltune.evaluate.generation import _Ends, generate
from babeltune.evaluate.passes import takes_trees
from babeltune.evaluate.scorer import Scorer

HFLM: Any = huggingface.HFLM  # its decorators hide its signature
Tiny = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def words(count: int) -> str:
    return " ".join("".join(random.choices(string.ascii_lowercase, k=4)) for _ in range(count))


def prompts(examples: int) -> list[str]:
    """Three passages with up to three questions each, behind the same examples."""
    random.seed(5)
    start = words(examples)
    return [
        f"{start} {passage} {words(1 + question)}"
        for passage in (words(4), words(9), words(14))
        for question in range(3)
    ]


@pytest.mark.parametrize("examples", [0, 12])
def test_answers_equal_lm_evals_in_other_architectures(
    tiny: Tiny, another_model: PreTrainedModel, examples: int
):
    """Prefix (about 60 tokens), passages, questions and answers are longer than the windows (8 tokens)."""
    asked = [
        Instance("generate_until", {}, (prompt, {"until": [stop], "do_sample": False, "max_gen_toks": 20}), 0)
        for prompt in prompts(examples)
        for stop in ("\n", "e")
    ]
    # Where the two disagree, `hf` goes on after the tokenizer's end of text until its whole batch has ended.
    assert another_model.generation_config is not None
    another_model.generation_config.eos_token_id = tiny[1].eos_token_id
    theirs = HFLM(pretrained=another_model, tokenizer=tiny[1], batch_size=4).generate_until(
        asked, disable_tqdm=True
    )
    assert Scorer(another_model, tiny[1]).generate_until(asked) == theirs
    assert len(set(theirs)) > 2


def test_a_models_own_repetition_penalty_counts_as_in_lm_evals(tiny: Tiny, another_model: PreTrainedModel):
    config = another_model.generation_config
    assert config is not None
    config.eos_token_id, config.repetition_penalty = tiny[1].eos_token_id, 1.5
    asked = [
        Instance("generate_until", {}, (prompt, {"until": ["\n"], "max_gen_toks": 20}), 0)
        for prompt in prompts(12)
    ]
    # One at a time, as there padding is penalised too.
    theirs = HFLM(pretrained=another_model, tokenizer=tiny[1], batch_size=1)
    answers = Scorer(another_model, tiny[1]).generate_until(asked)
    assert answers == theirs.generate_until(asked, disable_tqdm=True)
    config.repetition_penalty = None
    assert answers != Scorer(another_model, tiny[1]).generate_until(asked)


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_answers_do_not_depend_on_the_number_of_slots(tiny: Tiny, another_model: PreTrainedModel, slots: int):
    if not takes_trees(another_model):
        pytest.skip("decodes by its own `generate`")
    contexts = [tiny[1].encode(prompt) for prompt in prompts(12)]
    asked: dict[str, Any] = {
        "max_new_tokens": 16,
        "is_end": lambda tokens: tokens[-1] % 7 == 0,
        "on_step": lambda _: None,
    }
    together = generate_tokens(another_model, contexts, slots=len(contexts), **asked)
    assert generate_tokens(another_model, contexts, slots=slots, **asked) == together
    assert len({len(tokens) for tokens in together}) > 1


def test_equal_contexts_get_equal_answers(tiny: Tiny):
    model, tokenizer = tiny
    ids = tokenizer.encode(prompts(3)[0])
    kwargs = {"until": ["\n"], "max_gen_toks": 8}
    one, other = generate(model, tokenizer, [(ids, kwargs)] * 2, max_length=512, on_batch=lambda *_: None)
    (alone,) = generate(model, tokenizer, [(ids, kwargs)], max_length=512, on_batch=lambda *_: None)
    assert one == other == alone


def test_the_models_own_attention_is_back_afterwards(tiny: Tiny):
    model, tokenizer = tiny
    before = model.config._attn_implementation
    with pytest.raises(RuntimeError, match="stop"):
        generate_tokens(
            model,
            [tokenizer.encode("abc")],
            max_new_tokens=4,
            is_end=lambda tokens: raise_stop() if len(tokens) > 1 else False,
            on_step=lambda _: None,
        )
    assert model.config._attn_implementation == before


def raise_stop() -> bool:
    raise RuntimeError("stop")


def test_a_stop_string_over_several_tokens_ends_an_answer(tiny: Tiny):
    model, tokenizer = tiny
    ends = _Ends(model, tokenizer, ["।\n"])  # four byte-level tokens
    for text, ended in (("abcd।\n", True), ("abcd।", False), ("।\nabcdef", False)):
        assert ends(tokenizer.encode(text, add_special_tokens=False)) == ended


def test_contexts_leave_room_for_the_answer(tiny: Tiny):
    """A context longer than the model keeps its right end."""
    model, tokenizer = tiny
    kwargs = {"until": ["\n"], "max_gen_toks": 12}
    right = tokenizer.encode("b" * 500)
    long, short = (
        generate(model, tokenizer, [(ids, kwargs)], max_length=512, on_batch=lambda *_: None)
        for ids in (tokenizer.encode("a" * 900) + right, right)
    )
    assert long == short


def test_more_new_tokens_than_the_model_has_room_for_are_refused(tiny: Tiny):
    with pytest.raises(TaskError, match="room for 512"):
        generate(*tiny, [([1], {"max_gen_toks": 512})], max_length=512, on_batch=lambda *_: None)
