"""Whether a short Korean answer says what the reference says, apart from spelling form, punctuation and sentence ending."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection

# Sentence endings of "it is X": (ending, whether X must end in a consonant, in a vowel, or may end in either).
ENDINGS: tuple[tuple[str, str], ...] = (
    ("입니다", "either"),
    ("이에요", "consonant"),
    ("예요", "vowel"),
    ("에요", "after 이"),  # 고양이에요, a frequent spelling of 고양이예요
    ("이다", "consonant"),
    ("다", "vowel"),
)
_SPACE = re.compile(r"\s+")
_SENTENCE_END = re.compile(r"[.。!]\s*[\"'”’」』)]*\s*$")


def clean(text: str) -> str:
    """NFC, lower case, single spaces, no punctuation around; punctuation inside (3.5, 키 캡: 2) stays."""
    text = _SPACE.sub(" ", unicodedata.normalize("NFC", text)).strip().casefold()
    start, end = 0, len(text)
    while start < end and _is_mark(text[start]):
        start += 1
    while end > start and _is_mark(text[end - 1]):
        end -= 1
    # An answer that is nothing but a sign ("#", "?") is that sign.
    return text[start:end] or text


def _is_mark(character: str) -> bool:
    return character.isspace() or (unicodedata.category(character).startswith("P") and character not in "#%&*@")


def stems(text: str, sentence: bool) -> set[str]:
    """What a cleaned answer may be naming: itself, and itself without an ending of "it is X".

    Args:
        sentence: whether it was written as a sentence, with a full stop. Only then is a bare 다 after a vowel an ending:
            바다 (sea) is a word, 사과다. is a sentence.
    """
    found = {text}
    for ending, after in ENDINGS:
        if not text.endswith(ending) or not (stem := clean(text.removesuffix(ending))):
            continue
        last = stem[-1]
        consonant = "가" <= last <= "힣" and (ord(last) - ord("가")) % 28 != 0
        fits = {
            "either": True,
            "consonant": consonant or not "가" <= last <= "힣",
            "vowel": not consonant and (sentence or ending != "다"),
            "after 이": last == "이",
        }
        if fits[after]:
            found.add(stem)
    return found


def same_answer(answer: str, reference: str, others: Collection[str] = ()) -> bool:
    """Whether `answer` names what `reference` names.

    Args:
        others: cleaned references of other questions. An answer that literally is one of them says that, whatever is left of
            it without an ending: with 바 (bar) and 바다 (sea) both possible, 바다 never counts as 바.
    """
    given, wanted = clean(answer), clean(reference)
    if given == wanted:
        return True
    if given in others:
        return False
    given_sentence, wanted_sentence = bool(_SENTENCE_END.search(answer)), bool(_SENTENCE_END.search(reference))
    return bool(stems(given, given_sentence) & stems(wanted, wanted_sentence))
