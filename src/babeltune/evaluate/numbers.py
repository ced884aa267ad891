"""The number that an answer comes to, in whatever digits and style of grouping its language writes numbers.

Digits of all scripts count (18, ১৮, ౧౮, ๑๘, １８). Numbers in words do not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

# Sign and digits. Spaces (plain, no-break, thin, narrow) and apostrophes belong to a number only where they
# part groups of three; a minus sign follows no digit or letter, as a dash between numbers does.
_NUMBER = re.compile(
    r"((?<![\dA-Za-z])[-−])?"
    r"((?<!\d)\d{1,3}(?:[ \u00a0\u2009\u202f'’]\d{3})+(?!\d)(?:[.,．，]\d+)?|\d+(?:[.,．，]\d+)*)"
)
_SPACES = re.compile(r"[ \u00a0\u2009\u202f'’]")
_MARKS = re.compile(r"[.,．，]")


def final_number(text: str) -> Decimal | None:
    """The last number in a text; None if there is none."""
    found = _NUMBER.findall(text)
    if not found:
        return None
    sign, digits = found[-1]
    return -_value(digits) if sign else _value(digits)


def process_results(document: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """lm-eval's hook: whether the answer's final number is the reference's."""
    given = final_number(results[0])
    return {"exact_match": float(given is not None and given == final_number(document["references"][0]))}


def _value(digits: str) -> Decimal:
    """A number as written: three digits after the last mark are thousands, other counts are decimals.

    So 70.000 and 70,000 are one number in every language, as are 18.50 and 18,50; Indian grouping (2,76,000)
    counts as well.
    """
    digits = _SPACES.sub("", digits)
    groups, marks = _MARKS.split(digits), set(_MARKS.findall(digits))
    is_whole = len(groups) == 1 or (
        len(marks) == 1
        and 1 <= int(groups[0]) <= 999
        and len(groups[-1]) == 3
        and all(len(group) in (2, 3) for group in groups[1:-1])
    )
    whole, rest = (groups, "") if is_whole else (groups[:-1], f".{groups[-1]}")
    return Decimal("".join(whole) + rest)
