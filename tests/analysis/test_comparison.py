"""Verdicts, corrections and simultaneous intervals."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_study import eight_recipes

from babeltune.analysis.comparison import adjusted_p, compare, verdict


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
