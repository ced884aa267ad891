"""The generative form of multiple-choice tasks: choices get letters, the model writes the answer.

It is the only form for models that give no log-likelihoods, as most do behind an API. The prompt is the other
form's, with the choices under it and the language's word for "answer" as the cue. A letter or a choice's own
words count as the answer.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import regex

from babeltune.evaluate.answers import answer_tokens
from babeltune.evaluate.documents import Document, answer_document

LETTERS = "ABCD"

# The word for "answer" before the colon; other languages get the English one.
ANSWER = {
    "ar": "الجواب", "bg": "Отговор", "cs": "Odpověď", "da": "Svar", "de": "Antwort", "el": "Απάντηση",
    "en": "Answer", "es": "Respuesta", "et": "Vastus", "fi": "Vastaus", "fr": "Réponse", "he": "תשובה",
    "hi": "उत्तर", "hu": "Válasz", "id": "Jawaban", "it": "Risposta", "ja": "答え", "ko": "정답",
    "nb": "Svar", "nl": "Antwoord", "pl": "Odpowiedź", "pt": "Resposta", "ro": "Răspuns", "ru": "Ответ",
    "sv": "Svar", "sw": "Jibu", "ta": "பதில்", "te": "సమాధానం", "th": "คำตอบ", "tr": "Cevap", "ur": "جواب",
    "vi": "Đáp án", "zh": "答案", "zh-Hant": "答案",
}  # fmt: skip

# A letter that stands alone: no part of a word in Latin letters (Có, C'est), though other scripts write
# theirs right beside it (答案是B。). "A" before a word in small letters is a word in many languages.
_ALONE = regex.compile(r"(?<![\p{Latin}\d])(?:[B-D]|A(?!\s+\p{Ll}))(?![\p{Latin}\d]|['’]\p{Latin})")
# Other scripts' letters of the same look, for answers that are nothing but one letter.
_LOOKALIKES = str.maketrans("АВСΑΒ", "ABCAB")


def lettered(text: str, choices: Sequence[str], language: str) -> str:
    """The prompt with the choices listed under it, ending in the cue."""
    listed = "\n".join(f"{letter}: {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return f"{text}\n{listed}\n{ANSWER.get(language, ANSWER['en'])}:"


def generative(document: Document) -> Document:
    """A document with choices as one that is answered in writing."""
    language, choices = document["language"], document["choices"]
    asked = lettered(document["text"], choices, language)
    written = answer_document(document["item"], language, asked, [LETTERS[document["gold"]]])
    return {**written, "choices": choices}


def chosen(answer: str, choices: Sequence[str], language: str) -> str | None:
    """The letter of the choice that an answer names, or None."""
    answer = unicodedata.normalize("NFKC", answer).strip()
    bare = "".join(char for char in answer if unicodedata.category(char)[0] in "LN")
    letters = LETTERS[: len(choices)]
    if len(bare) == 1 and (letter := bare.upper().translate(_LOOKALIKES)) in letters:
        return letter
    given = answer_tokens(answer, language)
    # The first word is enough where no other choice begins with it: "Yes" of "Yes, he left".
    begun = [
        letter
        for letter, choice in zip(letters, choices, strict=True)
        if given and answer_tokens(choice, language)[: len(given)] == given
    ]
    if len(begun) == 1:
        return begun[0]
    found = _ALONE.search(answer)
    return found[0] if found and found[0] in letters else None


def process_results(document: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """lm-eval's hook: whether the answer names the right choice."""
    letter = chosen(results[0], document["choices"], document["language"])
    return {"acc": float(letter == document["references"][0])}
