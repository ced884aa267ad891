"""What reading lm-eval's own tasks through has shown: which form a name means, and what is wrong with it.

Proofs are in `docs/tasks.md` and `tests/evaluate/test_defects.py`. Nothing heavy is imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

FORMS: Final = {
    "afrixnli": re.compile(r"afrixnli_native_direct_([a-z]{3})"),
    "afrimmlu": re.compile(r"afrimmlu_direct_([a-z]{3})_prompt_2"),
    "afrimgsm": re.compile(r"afrimgsm_([a-z]{3})_prompt_1"),
    "mlqa": re.compile(r"mlqa_([a-z]{2})_\1"),
    "pawsx": re.compile(r"paws_(de|en|es|fr|ja|ko|zh)"),
}
"""Names under which lm-eval has several forms of one set, or cross-lingual pairs: the subtasks meant, each
with the language's code. Taken together they would count one item several times, or English as the language
(the `translate` forms are English text)."""

# By the name's beginning; the longest that fits counts.
_NOTES: Final = {
    "xcopa": "drops the premise's last letter in th and ta, lowers İ to two characters in tr, and asks for "
    "effects where the rows show causes in th, tr, sw, it and id; `xcopa` does none of this",
    "xnli": "scores the validation split; `No` is a number's in ar, `Also` says `so` in eleven languages; "
    "`xnli` has neither and scores the test split",
    "xquad": "reads answers by English rules (zh and th get F1 only for exact matches) and counts the first "
    "reference only; `xquad` follows the language",
    "belebele": "examples come from the items scored; `belebele` keeps them apart",
    "mgsm_direct": "asks for the `Answer` in English in bn, ja, ru, sw, te, th and zh; `mgsm` asks in the "
    "language",
    "afrixnli": "read in one form of five: the language's own words (`native_direct`), Latin `?` in Amharic, "
    "and an empty prompt before the whole text",
    "afrimmlu": "read in one prompt of five, in English; it asks for a letter and scores the answers' texts, "
    "so long answers are at a disadvantage",
    "afrimgsm": "read in one prompt of five, in English; examples would come from the items scored; marks "
    "are dropped before comparing, so 18.00 counts as 1800; digits of other scripts don't count",
    "global_mmlu_full": "the cue is English in every language; most languages are machine-translated",
    "global_mmlu": "the cue is English in every language; examples are drawn anew for each item",
    "paws": "leaves rows without a translation (`NS`) in, with labels that differ between languages; "
    "`paws-x` leaves them out",
}


def note(name: str, config: Mapping[str, Any], num_fewshot: int | None) -> str | None:
    """What to know of lm-eval's `name` before believing its scores, or None.

    `config`: the YAML of one of its subtasks. `num_fewshot`: what the study asks for.
    """
    fitting = [start for start in _NOTES if name == start or name.startswith(f"{start}_")]
    notes = [_NOTES[max(fitting, key=len)]] if fitting else []
    shown = examples_shown(config.get("num_fewshot"), num_fewshot)
    if shown and not notes and shown_split(config) == scored_split(config):
        notes.append("examples come from the items scored")
    if num_fewshot is not None and shown != num_fewshot:
        notes.append("lm-eval fixes it at no examples, so none are shown")
    elif num_fewshot is None and shown:
        notes.append(f"shows {shown} examples, as lm-eval has it")
    return "; ".join(notes) or None


def examples_shown(own: int | None, asked: int | None) -> int:
    """How many examples lm-eval shows for a task that says `own` where a user asks for `asked`.

    A task that says 0 is never overruled: most such tasks have no examples but the items scored.
    """
    return own or 0 if asked is None or own == 0 else asked


def scored_split(config: Mapping[str, Any]) -> str | None:
    """The split that lm-eval scores."""
    return config.get("test_split") or config.get("validation_split")


def shown_split(config: Mapping[str, Any]) -> str | None:
    """The split that lm-eval takes examples from; None if they are written in the YAML."""
    fewshot = config.get("fewshot_config") or {}
    if "samples" in fewshot:
        return None
    return (
        config.get("fewshot_split")
        or fewshot.get("split")
        or config.get("training_split")
        or config.get("validation_split")
        or config.get("test_split")
    )
