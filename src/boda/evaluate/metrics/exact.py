"""Whether a short Korean answer says what the reference says, apart from spelling form, punctuation and sentence ending."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection

_OPEN = "".join(map(chr, range(ord("가"), ord("힣") + 1, 28)))  # syllables that end in a vowel
_AFTER_CONSONANT, _AFTER_VOWEL = f"[^{_OPEN}]", f"[{_OPEN}]|[^가-힣]"
# Sentence endings of "it is X", and the last letter that X must have.
ENDINGS = {
    "입니다": ".",
    "이에요": _AFTER_CONSONANT,
    "예요": _AFTER_VOWEL,
    "에요": "이",  # 고양이에요, a frequent spelling of 고양이예요
    "이다": _AFTER_CONSONANT,
    "다": _AFTER_VOWEL,
}
_SENTENCE_END = re.compile(r"[.。!]\s*[\"'”’」』)]*\s*$")


def clean(text: str) -> str:
    """NFC, lower case, single spaces, no punctuation around; punctuation inside (3.5, 키 캡: 2) stays."""
    text = re.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).strip().casefold()
    marks = [each for each in text if each.isspace() or (unicodedata.category(each).startswith("P") and each not in "#%&*@")]
    return text.strip("".join(marks)) or text  # an answer that is nothing but a sign ("#", "?") is that sign


def stems(text: str, sentence: bool) -> set[str]:
    """What a cleaned answer may be naming: itself, and itself without an ending of "it is X".

    Only in a sentence, with a full stop, is a bare 다 after a vowel an ending: 바다 (sea) is a word, 사과다. is a sentence.
    """
    found = {text}
    for ending, last in ENDINGS.items():
        stem = clean(text.removesuffix(ending)) if text.endswith(ending) and (sentence or ending != "다") else ""
        if stem and re.fullmatch(last, stem[-1]):
            found.add(stem)
    return found


def same_answer(answer: str, reference: str, others: Collection[str] = ()) -> bool:
    """Whether `answer` names what `reference` names.

    One that literally is a cleaned reference of `others` says that: with 바 (bar) and 바다 (sea) possible, 바다 is never 바.
    """
    given, wanted = clean(answer), clean(reference)
    if given == wanted or given in others:
        return given == wanted
    given_sentence, wanted_sentence = bool(_SENTENCE_END.search(answer)), bool(_SENTENCE_END.search(reference))
    return bool(stems(given, given_sentence) & stems(wanted, wanted_sentence))
