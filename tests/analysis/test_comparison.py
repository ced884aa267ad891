"""Verdicts, corrections and simultaneous intervals."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_study import eight_recipes

from babeltune.analysis.comparison import Comparison, adjusted_p, compare, corrected, verdict


def test_verdicts() -> None:
    assert verdict(-1.9, 0.5, margin=2) == "shown no worse"
    assert verdict(-1.9, -0.5, margin=2) == "shown no worse"
    assert verdict(-4.0, -0.5, margin=2) == "shown worse"
    assert verdict(-4.0, 0.5, margin=2) == "not decidable here"


def test_corrections_by_hand() -> None:
    p = [0.01, 0.04, 0.03]
    assert adjusted_p(p, "holm") == pytest.approx([0.03, 0.06, 0.06])
    assert adjusted_p(p, "fdr_bh") == pytest.approx([0.03, 0.04, 0.04])
    assert adjusted_p([], "holm") == []


def made_up(p: float, low: float, high: float, margin: float = 2.0) -> Comparison:
    return Comparison(
        *("a", "b", "overall"),
        *((low + high) / 2, low, high, 1.0, 20.0),
        p=p,
        p_adjusted=p,
        significant=p < 0.05,
        verdict=verdict(low, high, margin),
        provisional=False,
        detectable=3.0,
    )


def test_worse_is_shown_only_after_correction() -> None:
    """One pair in 28 whose own interval is below 0, as chance has it."""
    equal = [made_up(0.5, -3.0, 3.0)] * 27
    lucky, *others = corrected([made_up(0.01, -4.0, -0.5), *equal], "holm", 0.95)
    assert lucky.p_adjusted == pytest.approx(0.28)
    assert (lucky.significant, lucky.verdict) == (False, "not decidable here")
    assert {c.verdict for c in others} == {"not decidable here"}
    [alone, within] = corrected([made_up(0.01, -4.0, -0.5), made_up(0.2, -1.5, 0.5)], "holm", 0.95)
    assert (alone.significant, alone.verdict) == (True, "shown worse")
    assert within.verdict == "shown no worse"


def test_intervals_that_hold_at_once_say_themselves_what_is_shown() -> None:
    """Between Holm's and Dunnett's verdicts the interval that is printed decides."""
    random = np.random.default_rng(3)
    labels = [str(k) for k in range(9)]
    disagreed = 0
    for _ in range(40):
        found = compare(
            *(eight_recipes(random, truth=1.4), labels, list(range(1, 9)), [0] * 8, "overall"),
            margin=2,
            confidence=0.95,
            simultaneous=True,
        )
        for change in corrected(found, "holm", 0.95, simultaneous=True):
            is_clear = change.low > 0 or change.high < 0
            assert change.significant == is_clear
            assert change.verdict == verdict(change.low, change.high, 2)
            disagreed += is_clear != (change.p_adjusted <= 0.05)
    assert disagreed > 5


def test_intervals_against_untouched_hold_at_once() -> None:
    """Eight equal recipes: all eight intervals cover 0 in about 95 % of studies, single ones in fewer."""
    random = np.random.default_rng(0)
    together = alone = 0
    labels = [str(k) for k in range(9)]
    for _ in range(150):
        pairs = (eight_recipes(random), labels, list(range(1, 9)), [0] * 8, "overall")
        for simultaneous in (True, False):
            found = compare(*pairs, margin=2, confidence=0.95, simultaneous=simultaneous)
            hold = all(c.low <= 0 <= c.high for c in found)
            together += hold and simultaneous
            alone += hold and not simultaneous
    assert 0.90 <= together / 150 <= 0.99
    assert alone < together - 10
