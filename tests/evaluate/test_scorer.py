"""The scorer against lm-eval's own `hf` backend, on models small enough to run both in a moment."""

from __future__ import annotations

import random
import string
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models import huggingface
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from babeltune.errors import Interrupted, TaskError
from babeltune.evaluate import plain_attention
from babeltune.evaluate.scorer import Scorer

HFLM: Any = huggingface.HFLM  # its decorators hide its signature
Tiny = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def instance(kind: Any, *arguments: Any) -> Instance:
    return Instance(kind, {}, arguments, 0)


def words(count: int) -> str:
    return " ".join("".join(random.choices(string.ascii_lowercase, k=4)) for _ in range(count))


def pairs(shots: int, contexts: int = 5) -> list[Instance]:
    random.seed(1)
    start = words(shots)
    return [
        instance("loglikelihood", context, f" {words(k + 1)}")
        for context in (f"{start}{words(4 + 3 * i)}" for i in range(contexts))
        for k in range(3)
    ]


def assert_equal_scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: list[Instance]
) -> None:
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4).loglikelihood(asked, disable_tqdm=True)
    ours = Scorer(model, tokenizer).loglikelihood(asked)
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in theirs], abs=1e-3)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert len({round(value, 2) for value, _ in ours}) > len(asked) / 2


@pytest.mark.parametrize("shots", [0, 20])
def test_loglikelihoods_equal_lm_evals(tiny: Tiny, shots: int):
    assert_equal_scores(*tiny, pairs(shots))


def test_loglikelihoods_equal_lm_evals_in_other_architectures(tiny: Tiny, another_model: PreTrainedModel):
    """Prefix (about 60 tokens), contexts and branches are longer than the sliding windows (8 tokens)."""
    assert_equal_scores(another_model, tiny[1], pairs(12, contexts=3))


def test_attention_in_parts_changes_nothing(
    tiny: Tiny, another_model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(plain_attention, "SCORES_AT_ONCE", 1)
    for model in (tiny[0], another_model):
        assert_equal_scores(model, tiny[1], pairs(12, contexts=3))


def test_a_model_has_its_own_attention_again_afterwards(tiny: Tiny):
    before = tiny[0].config._attn_implementation
    with pytest.raises(Interrupted):
        Scorer(*tiny, should_stop=lambda: True).loglikelihood(pairs(3))
    assert tiny[0].config._attn_implementation == before != plain_attention.PLAIN_ATTENTION


def test_a_model_with_an_adapter_is_scored_with_it(tiny_model_dir: Path, tiny: Tiny):
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    settings = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    torch.manual_seed(0)
    adapted: Any = get_peft_model(base, settings).eval()
    asked = pairs(20)
    assert_equal_scores(adapted, tiny[1], asked)
    with adapted.disable_adapter():
        untouched = Scorer(adapted, tiny[1]).loglikelihood(asked)
    assert untouched != Scorer(adapted, tiny[1]).loglikelihood(asked)


def test_empty_contexts_and_texts_longer_than_the_model(tiny: Tiny):
    random.seed(2)
    long = words(200)
    asked = [instance("loglikelihood", "", " abc"), instance("loglikelihood", long, " yes"), *pairs(0, 2)]
    assert_equal_scores(*tiny, asked)


def test_one_token_continuations_share_their_whole_context(tiny: Tiny):
    asked = [instance("loglikelihood", "Which letter is it", choice) for choice in "ABCD"]
    assert_equal_scores(*tiny, asked)


def test_rolling_loglikelihood_equals_lm_evals(tiny: Tiny):
    random.seed(3)
    asked = [instance("loglikelihood_rolling", words(n)) for n in (3, 150, 300)]
    theirs = HFLM(pretrained=tiny[0], tokenizer=tiny[1]).loglikelihood_rolling(asked, disable_tqdm=True)
    assert Scorer(*tiny).loglikelihood_rolling(asked) == pytest.approx(theirs, abs=1e-2)


def test_an_empty_text_has_a_rolling_loglikelihood_of_zero(tiny: Tiny):
    assert Scorer(*tiny).rolling(["", "abc", ""])[::2] == [0.0, 0.0]


def test_generation_equals_lm_evals(tiny: Tiny):
    random.seed(4)
    kwargs = [{"until": [stop], "do_sample": False, "max_gen_toks": 24} for stop in ("\n", "e")]
    asked = [instance("generate_until", words(n), dict(kwargs[n % 2])) for n in (2, 9, 3, 4, 30, 5)]
    theirs = HFLM(pretrained=tiny[0], tokenizer=tiny[1], batch_size=3).generate_until(
        asked, disable_tqdm=True
    )
    ours = Scorer(*tiny).generate_until(asked)
    assert ours == theirs
    assert len(set(ours)) > 2


def test_sampling_is_refused(tiny: Tiny):
    with pytest.raises(TaskError, match="sampling"):
        Scorer(*tiny).generate_until(
            [instance("generate_until", "a", {"do_sample": True, "temperature": 0.7})]
        )


def test_scores_have_equal_bits_whatever_was_scored_before(tiny: Tiny):
    asked = pairs(20)
    first = Scorer(*tiny).loglikelihood(asked)
    scorer = Scorer(*tiny)
    scorer.loglikelihood(pairs(3, 9))
    scorer.generate_until([instance("generate_until", "abc", {"max_gen_toks": 4})])
    assert scorer.loglikelihood(asked) == first


def test_scores_do_not_depend_on_company(tiny: Tiny):
    asked = pairs(20)
    together = [value for value, _ in Scorer(*tiny).loglikelihood(asked)]
    alone = [Scorer(*tiny).loglikelihood([one])[0][0] for one in asked]
    assert together == pytest.approx(alone, abs=1e-3)


def test_the_loss_leaves_the_prompt_out(tiny: Tiny):
    """lm-eval moves a context's last line break into the continuation and scores it; the loss must not."""
    model, tokenizer = tiny
    (nats,) = Scorer(model, tokenizer).loss([("Say it:\n", "habari")])
    ids = tokenizer("Say it:\nhabari", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logprobs = model(ids).logits[0].log_softmax(-1)
    expected = -sum(logprobs[i - 1, ids[0, i]].item() for i in range(8, 14))
    assert nats == pytest.approx(expected, abs=1e-4)


def test_a_reference_longer_than_the_model_is_scored_whole(tiny: Tiny):
    """In parts of half the model's length, each after as many tokens as there is room for."""
    model, tokenizer = tiny
    random.seed(6)
    prompt, reference = "Say it: ", words(60)
    scorer = Scorer(model, tokenizer)
    scorer.max_length = 100
    ids = torch.tensor([tokenizer.encode(prompt + reference)])
    first, expected = len(tokenizer.encode(prompt)), 0.0
    for start in range(first, ids.shape[1], 50):
        end = min(start + 50, ids.shape[1])
        part = ids[:, max(0, end - 101) : end]
        with torch.no_grad():
            logprobs = model(part[:, :-1]).logits[0].log_softmax(-1)
        expected -= sum(
            logprobs[i - 1, part[0, i]].item() for i in range(part.shape[1] - end + start, part.shape[1])
        )
    (nats,) = scorer.loss([(prompt, reference)])
    assert ids.shape[1] - first > 2 * scorer.max_length
    assert nats == pytest.approx(expected, rel=1e-4)


def test_a_choice_longer_than_the_model_is_refused(tiny: Tiny):
    scorer = Scorer(*tiny)
    scorer.max_length = 20
    with pytest.raises(TaskError, match="and the model takes 20"):
        scorer.loglikelihood([instance("loglikelihood", "a", f" {words(9)}")])


def test_bos_can_be_left_to_the_template(tiny: Tiny):
    model, tokenizer = tiny

    class AddsBos:
        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
            return [0] * add_special_tokens + tokenizer.encode(text, add_special_tokens=False)

    adds: Any = AddsBos()
    assert Scorer(model, adds).tok_encode("a")[0] == 0
    assert Scorer(model, adds).tok_encode("<|endoftext|>a").count(0) == 1
    assert 0 not in Scorer(model, adds, bos=False).tok_encode("a")


def test_it_stops_between_batches(tiny: Tiny):
    seen: list[tuple[int, int]] = []
    scorer = Scorer(*tiny, on_progress=lambda *p: seen.append(p), should_stop=lambda: bool(seen))
    with pytest.raises(Interrupted):
        scorer.loglikelihood(pairs(0))
    assert seen == [(0, 15)]
