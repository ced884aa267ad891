"""Comparing an answer in free text with references, by the rules of its language.

Normalisation and tokens follow MLQA (Lewis et al. 2020, https://aclanthology.org/2020.acl-main.653): lower
case, punctuation and articles dropped; words where a script separates them, single characters where it does
not, and both in mixed text. Dropped punctuation leaves no gap (711,988 is 711988), as in MLQA's own script.
Articles of languages that MLQA lacks are added. All references count: the best one.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from babeltune.evaluate.text import lower

_ARTICLES = {
    "en": "a an the",
    "es": "un una unos unas el la los las",
    "de": "ein eine einen einem eines einer der die das den dem des",
    "vi": "của là cái chiếc những",
    "fr": "un une des le la les",
    "it": "un uno una il lo la i gli le",
    "pt": "um uma uns umas o a os as",
    "ro": "un o unei unui",
    "el": "ο η το οι τα του της των τον την τους τις ένας μια μία ένα",
}
_ARTICLE_PATTERNS = {
    language: re.compile(rf"\b(?:{'|'.join(words.split())})\b") for language, words in _ARTICLES.items()
}
# The article is a prefix, written together with its word.
_ARTICLE_PATTERNS["ar"] = re.compile(r"\bال(?=\w)")

# Beside Unicode's punctuation what ASCII has of signs ($, +, ^ …), as in SQuAD's and MLQA's scripts.
_SIGNS = frozenset(string.punctuation)

# Written without spaces between words: Han, kana, Thai, Lao, Khmer, Burmese, Tibetan.
_UNSEGMENTED = re.compile(
    r"[\u0E00-\u0EFF\u0F00-\u0FFF\u1000-\u109F\u1780-\u17FF\u3005-\u3007\u3040-\u30FF\u31F0-\u31FF"
    r"\u3400-\u4DBF\u4E00-\u9FFF\uF900-\uFAFF\U00020000-\U0003FFFF]"
)


def normalise_answer(text: str, language: str) -> str:
    """Lower case, without punctuation, articles and surplus space."""
    text = lower(unicodedata.normalize("NFKC", text), language)
    text = "".join(char for char in text if unicodedata.category(char)[0] != "P" and char not in _SIGNS)
    pattern = _ARTICLE_PATTERNS.get(language)
    return " ".join((pattern.sub(" ", text) if pattern else text).split())


def answer_tokens(text: str, language: str) -> list[str]:
    """What F1 compares: words, or characters of scripts that do not separate words."""
    spaced = _UNSEGMENTED.sub(lambda match: f" {match[0]} ", normalise_answer(text, language))
    return spaced.split()


def exact_match(answer: str, references: Sequence[str], language: str) -> float:
    """1.0 if the normalised answer equals a normalised reference."""
    given = _joined(answer, language)
    return float(any(given == _joined(reference, language) for reference in references))


def f1(answer: str, references: Sequence[str], language: str) -> float:
    """Token F1 with the closest reference, 0 to 1."""
    return max(_f1(answer_tokens(answer, language), answer_tokens(text, language)) for text in references)


def chrf(answer: str, references: Sequence[str]) -> float:
    """Sentence chrF (sacrebleu's default: character order 6, beta 2), 0 to 1."""
    from sacrebleu.metrics.chrf import CHRF

    return CHRF().sentence_score(answer, list(references)).score / 100


def _joined(text: str, language: str) -> str:
    return " ".join(answer_tokens(text, language))


def _f1(given: list[str], wanted: list[str]) -> float:
    if not given or not wanted:
        return float(given == wanted)
    shared = sum((Counter(given) & Counter(wanted)).values())
    return 2 * shared / (len(given) + len(wanted))


def process_results(document: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """lm-eval's hook: exact match and F1 of one document's generated answer."""
    answer, references, language = results[0], document["references"], document["language"]
    return {"exact_match": exact_match(answer, references, language), "f1": f1(answer, references, language)}
