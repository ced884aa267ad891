from __future__ import annotations

from babeltune.report import words


def test_signs_and_missing_figures() -> None:
    assert [words.signed(x) for x in (2.14, -0.44, 0.01, -0.01, None)] == ["+2.1", "−0.4", "0.0", "0.0", "–"]
    assert words.number(-1234.5) == "−1,234.5"


def test_bounds_hold_as_they_are_printed() -> None:
    assert [words.at_most(x) for x in (0.0, 0.7, 1.65, 1.7, 2.0, 2.04, 1234.01, None)] == [
        *("0.0", "0.7", "1.7", "1.7", "2.0", "2.1", "1,234.1", "–")
    ]
    assert words.at_most(0.001) == "0.1"


def test_amounts() -> None:
    assert [words.count(x) for x in (17_891_328, 512, 7e9, None)] == ["17.9 M", "512", "7 G", "–"]
    assert [words.duration(x) for x in (3.24, 59.6, 250, 11_100)] == [
        "3.2 s",
        "60 s",
        "4 min 10 s",
        "3 h 05 min",
    ]
    assert [words.size(x) for x in (1.5 * 2**30, 300 * 2**20)] == ["1.5 GiB", "300 MiB"]
    assert [words.hours(x) for x in (0.1234, 3.14, 31.4, 310.2)] == ["0.12 h", "3.1 h", "31.4 h", "310 h"]
    assert words.listed(["a", "b", "c"]) == "a, b and c"
