import pytest

from babeltune.evaluate.answers import answer_tokens, chrf, exact_match, f1, process_results


@pytest.mark.parametrize(
    ("text", "language", "tokens"),
    [
        ("The Denver Broncos!", "en", ["denver", "broncos"]),
        ("der Hund", "de", ["hund"]),
        ("黑豹队的防守", "zh", list("黑豹队的防守")),
        ("NFL联盟", "zh", ["nfl", "联", "盟"]),
        ("ทีมรับ", "th", list("ทีมรับ")),
        ("العربية الفصحى", "ar", ["عربية", "فصحى"]),
        ("İSTANBUL'da", "tr", ["istanbulda"]),
        ("711,988 – well-known", "en", ["711988", "wellknown"]),
        ("$5 + 2^3", "en", ["5", "23"]),
    ],
)
def test_tokens_follow_the_script(text: str, language: str, tokens: list[str]):
    assert answer_tokens(text, language) == tokens


def test_f1_gives_credit_inside_unsegmented_text():
    assert exact_match("黑豹队防守", ["黑豹队的防守"], "zh") == 0
    assert f1("黑豹队防守", ["黑豹队的防守"], "zh") == pytest.approx(2 * 5 / 11)
    assert 0 < f1("ทีมรับของ", ["ทีมรับ"], "th") < 1


def test_marks_inside_a_word_leave_no_gap():
    """As in MLQA's own script, which drops punctuation and ASCII's signs."""
    assert exact_match("711988", ["711,988"], "es") == 1
    assert f1("5 million", ["$5 million"], "en") == 1
    assert exact_match("Newtons laws", ["Newton's laws"], "en") == 1


def test_every_reference_counts():
    document = {"references": ["308", "three hundred"], "language": "en"}
    assert process_results(document, ["Three hundred."]) == {"exact_match": 1.0, "f1": 1.0}


def test_an_article_inside_a_word_stays():
    assert answer_tokens("theater", "en") == ["theater"]
    assert answer_tokens("مالي", "ar") == ["مالي"]


def test_empty_answer_scores_nothing():
    assert f1("", ["x"], "en") == 0
    assert chrf("", ["x"]) == 0
    assert chrf("habari gani", ["habari gani"]) == pytest.approx(1)
