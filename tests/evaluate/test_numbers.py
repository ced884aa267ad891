from __future__ import annotations

from decimal import Decimal

import pytest

from babeltune.evaluate.numbers import final_number, process_results


@pytest.mark.parametrize(
    "text", ["18", " 18.", "১৮টি", "౧౮", "๑๘ ดอลลาร์", "１８ドル", "**18**", "$18.00", "18,00 €", "= 18"]
)
def test_digits_of_every_script_and_what_surrounds_them(text: str):
    assert final_number(text) == 18


@pytest.mark.parametrize(
    "text",
    [
        "276000", "276,000", "276.000 Dollar", "276 000", "276\u202f000 $", "276\u00a0000", "2,76,000",
        "২,৭৬,০০০", "276，000美元", "276.000,00", "276,000.0", "276'000", "Fr. 276’000.00",
    ],
)  # fmt: skip
def test_thousands_in_every_style(text: str):
    assert final_number(text) == 276000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("16 - 3 - 4 = 9", "9"),
        ("9 eggs * $2 = $18", "18"),
        ("答案是-5", "-5"),
        ("about 15–18", "18"),
        ("10-3", "3"),
        ("2024 500", "500"),
        ("'18'", "18"),
        ("5'18", "18"),
        ("0,125", "0.125"),
        ("3.5", "3.5"),
        ("18²", "18"),
    ],
)
def test_the_last_number_counts(text: str, expected: str):
    assert final_number(text) == Decimal(expected)


def test_no_number_is_no_match():
    document = {"references": ["18"]}
    assert final_number("kumi na nane") is None
    assert process_results(document, [""]) == {"exact_match": 0.0}
    assert process_results(document, ["Jibu ni ১৮."]) == {"exact_match": 1.0}
    assert process_results(document, ["180"]) == {"exact_match": 0.0}
