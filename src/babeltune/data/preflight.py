"""What is wrong with prepared data, found before any money is spent on training with it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import polars as pl
from transformers import PreTrainedTokenizerBase

from babeltune.data.chat import TODAY
from babeltune.data.prepare import NOTHING_TRAINED, PROMPT_TOO_LONG, Prepared
from babeltune.study.findings import Finding

# More answers than this cut by the length limit, and the model learns to stop in mid-sentence.
MOST_CUT = 0.01
# Tokens of a row that show what it begins with.
BEGINNING = 12


def preflight(
    prepared: Prepared, tokenizer: PreTrainedTokenizerBase, languages: Collection[str] = ()
) -> list[Finding]:
    """Reasons to refuse the data, or to think again, with the mixture as `where`; empty when all is well.

    `languages`: those of the study; one without training examples is noted.
    """
    summary = prepared.summary
    where = f"data {summary['name']}"
    return [
        *_nothing_trained(prepared, where),
        *_nothing_said(prepared, tokenizer, where),
        *_cut_answers(summary, where),
        *_ends(summary, tokenizer, where),
        *_doubled_bos(prepared, tokenizer, where),
        *_unwise(summary, where),
        *_missing_languages(summary, languages, where),
    ]


def _nothing_trained(prepared: Prepared, where: str) -> list[Finding]:
    findings = []
    if prepared.train.is_empty():
        findings.append(
            Finding("refuse", "no example is left to train on", where, _dropped_text(prepared.summary))
        )
    silent = prepared.train.filter(~pl.col("trained").list.any())
    hidden = prepared.summary["dropped"].get(NOTHING_TRAINED, 0)
    if silent.height or hidden:
        first = prepared.summary["first_dropped"].get(NOTHING_TRAINED) or f"id {silent['id'][0]}"
        findings.append(
            Finding(
                "refuse",
                f"{silent.height + hidden:,} examples have no trained token, the first {first}",
                where,
                "look at the marked sample: the chat template may hide the answers",
            )
        )
    return findings


def _nothing_said(prepared: Prepared, tokenizer: PreTrainedTokenizerBase, where: str) -> list[Finding]:
    """Languages whose every answer is empty: mostly a column taken for another."""
    languages = prepared.summary["train"]["languages"]
    silent = [
        code
        for code, counts in languages.items()
        if counts["examples"]
        and counts["empty_answers"] == counts["examples"]
        # One empty answer among others makes no conversation empty.
        and not _what_is_trained(prepared, code, tokenizer).strip()
    ]
    if not silent:
        return []
    message = f"every answer in {', '.join(silent)} is empty: nothing but the end of a turn would be learned"
    return [Finding("refuse", message, where, "`columns` says which column of the rows holds the answers")]


def _what_is_trained(prepared: Prepared, language: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """All that is trained on in a language, each token once, as text without special tokens."""
    tokens = prepared.train.filter(language=language).select("input_ids", "trained")
    trained = tokens.explode("input_ids", "trained").filter("trained")["input_ids"].unique()
    return str(tokenizer.decode(trained.to_list(), skip_special_tokens=True))


def _cut_answers(summary: dict[str, Any], where: str) -> list[Finding]:
    limit, shares = summary["max_length"], {}
    for code, counts in summary["train"]["languages"].items():
        cut = counts["cut"] + counts["too_long"]
        if cut:
            shares[code] = cut / (counts["examples"] + counts["too_long"])
    by_share = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    text = ", ".join(f"{code} {share:.2%}" for code, share in by_share)
    findings = []
    if any(share > MOST_CUT for share in shares.values()):
        message = f"max_length {limit} cuts more than {MOST_CUT:.0%} of the answers: {text}"
        findings.append(Finding("refuse", message, where, "raise `max_length`"))
    elif shares:
        findings.append(Finding("note", f"max_length {limit} cuts a few answers: {text}", where))
    too_long = summary["dropped"].get(PROMPT_TOO_LONG, 0)
    if too_long:
        first = summary["first_dropped"][PROMPT_TOO_LONG]
        message = f"{too_long:,} examples dropped, the {PROMPT_TOO_LONG}; the first: {first}"
        findings.append(Finding("warn", message, where))
    return findings


def _ends(summary: dict[str, Any], tokenizer: PreTrainedTokenizerBase, where: str) -> list[Finding]:
    ends = summary["turn_ends"]
    if not ends:
        return []
    if not any(end["special"] for end in ends):
        return [
            Finding(
                "refuse",
                f"no answer ends with an end-of-turn token (they end with {ends[0]['token']!r}), "
                "so the model would never learn to stop",
                where,
                "use a chat template that ends the assistant's turns with the end-of-sequence token",
            )
        ]
    other = [end["token"] for end in ends if end["special"] and end["id"] != tokenizer.eos_token_id]
    if other:
        return [
            Finding(
                "note",
                f"answers end with {other[0]!r}, the tokenizer's sequences with {tokenizer.eos_token!r}",
                where,
                "whatever serves the model must stop at both",
            )
        ]
    return []


def _doubled_bos(prepared: Prepared, tokenizer: PreTrainedTokenizerBase, where: str) -> list[Finding]:
    bos = tokenizer.bos_token_id
    if bos is None:
        return []
    ids = pl.col("input_ids").list
    doubled = prepared.train.filter(
        (ids.get(0, null_on_oob=True) == bos) & (ids.get(1, null_on_oob=True) == bos)
    )
    if doubled.is_empty():
        return []
    begins = " ".join(str(tokenizer.decode(doubled["input_ids"][0][:BEGINNING].to_list())).split())
    return [
        Finding(
            "refuse",
            f"{doubled.height:,} rows begin with two {tokenizer.bos_token!r}, such as “{begins} …”",
            where,
            "the chat template and the tokenizer both write it: remove it from the template",
        )
    ]


def _unwise(summary: dict[str, Any], where: str) -> list[Finding]:
    findings = [Finding("warn", note, where) for note in summary["notes"]]
    empty = summary["train"]["empty_answers"]
    if empty:
        findings.append(
            Finding("warn", f"{empty:,} examples have an empty answer", where, "`clean: true` drops them")
        )
    if not summary["held_out"]["examples"]:
        findings.append(
            Finding(
                "warn",
                "nothing is held out, so there is no held-out loss",
                where,
                "for example `held_out: 0.05`",
            )
        )
    template = summary["template"]
    if template and template["injected_system"]:
        findings.append(
            Finding(
                "note",
                f"the chat template puts a system message of its own: {template['injected_system']!r}",
                where,
            )
        )
    if template and template["is_dated"]:
        findings.append(
            Finding(
                "note",
                "the chat template writes today's date, for which it always gets "
                f"{TODAY:%d %B %Y}, in training and scoring",
                where,
            )
        )
    return findings


def _missing_languages(summary: dict[str, Any], languages: Collection[str], where: str) -> list[Finding]:
    trained = {code for code, counts in summary["train"]["languages"].items() if counts["examples"]}
    missing = sorted(set(languages) - trained)
    return [Finding("note", f"nothing to train on in {', '.join(missing)}", where)] if missing else []


def _dropped_text(summary: dict[str, Any]) -> str:
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in summary["dropped"].items())
    return f"dropped: {dropped}" if dropped else "add data"
