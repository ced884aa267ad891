"""A score and a reason out of a judge's free text. Nothing in it is run, and nothing is guessed.

Servers may ignore `response_format`, so a reply is read as text: a JSON object with a score first, then a
number after the word for it, then a reply that is nothing but a number. What is ambiguous (a range, a share
of ten, two different numbers) or outside 0 to 1 is no score.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MOST_REASON_CHARACTERS = 1000

_SPACE = r"[^\S\n]*"
_NOT_ONE = r"(?!1(?:\.0+)?(?!\d|\.\d))\d"
# A number by itself: not part of a longer one, of a range ("0 to 1"), a percentage, the number of a list's
# entry ("1. First …"), or on a scale of the judge's own ("8/10", "4 out of 5", "8分, 满分10分").
_NUMBER = (
    rf"(?P<number>[-+]?(?:\d*\.\d+|\d+(?!{_SPACE}[.、)]{_SPACE}\S)))(?![\d.,]*\d)"
    rf"(?!{_SPACE}(?:%|(?:[-–—~〜]|to\b|到|至){_SPACE}\.?\d))"
    rf"(?!{_SPACE}(?:/|out of){_SPACE}{_NOT_ONE})"
    rf"(?!{_SPACE}分?[\s,(]*满分\D?{_NOT_ONE})"
)
# The label may be quoted, bold or bracketed, and so may the number.
_LABELLED = re.compile(
    r"(?:\b(?:score|rating|grade)|评分|得分|分数|打分)[\s\"'`*_>\])]*(?:[:=]|\bis\b|为|是)[\s\"'`*_<\[(]*"
    + _NUMBER,
    re.IGNORECASE,
)
_ALONE = re.compile(rf"{_NUMBER}{_SPACE}(?:/{_SPACE}1(?:\.0+)?|分)?\s*\.?")
# What a reasoning model thinks before it answers is not its answer, least of all where it got no further.
_THOUGHT = re.compile(r"^.*</think>|<think>.*", re.DOTALL)


@dataclass(frozen=True)
class Verdict:
    """`score`: 0 to 1. `reason`: the judge's words, empty where it gave none."""

    score: float
    reason: str


def read_verdict(reply: str, *, cut_off: bool = False) -> Verdict | None:
    """What a reply says; None where it says no score for certain. Of several JSON objects the last counts.

    `cut_off`: the reply reached the longest that it may have. Only an object counts then, begun or whole:
    what else stands there may be thoughts without a mark.
    """
    text = _THOUGHT.sub("", reply)
    objects = [found for found in _json_objects(text) if "score" in found]
    if objects:
        score = _share(objects[-1]["score"])
        reason = objects[-1].get("reason")
        return _verdict(score, reason if isinstance(reason, str) else "")
    if cut_off and not text.lstrip().removeprefix("```json").lstrip("`\n ").startswith("{"):
        return None
    # Full-width digits and colons, as Chinese text has them, become plain ones.
    text = unicodedata.normalize("NFKC", text)
    labelled = {_share(found["number"]) for found in _LABELLED.finditer(text)}
    if labelled:
        return _verdict(labelled.pop(), text) if len(labelled) == 1 else None
    alone = _ALONE.fullmatch(text.strip(" \n\t*`\"'"))
    return _verdict(_share(alone["number"]), "") if alone else None


def _verdict(score: float | None, reason: str) -> Verdict | None:
    return None if score is None else Verdict(score, " ".join(reason.split())[:MOST_REASON_CHARACTERS])


def _json_objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in a text, in order; not those inside others."""
    decoder = json.JSONDecoder()
    start = text.find("{")
    while start >= 0:
        try:
            found, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            if isinstance(found, dict):
                yield found
        start = text.find("{", end)


def _share(value: Any) -> float | None:
    """A number from 0 to 1 (a text may hold it), or None."""
    if isinstance(value, str):
        alone = _ALONE.fullmatch(unicodedata.normalize("NFKC", value).strip())
        value = float(alone["number"]) if alone else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= 1 else None
