"""Particles that do not fit the word before them: 별는, 네모이, '나무'이 ... in what a model answers."""

from __future__ import annotations

import re

from boda.data.drawn.canvas import COLOURS, PATTERNS, SHAPES
from boda.data.drawn.scenes import PLACES
from boda.data.korean import final_consonant

# Forms after a final consonant and after a vowel. The uncontracted 나무이다, 나무이에요 are standard Korean and no error.
AFTER_CONSONANT, AFTER_VOWEL = ("은", "이", "을", "과"), ("는", "가", "를", "와", "예요", "다")
THINGS = (*COLOURS, *SHAPES, *filter(None, PATTERNS), *{place.split()[-1]: 0 for place in PLACES}, "도형")
NOUNS = (*THINGS, *"개 그림 글자 낱말 무늬 모양 색 위치 크기 것".split())
_FOLLOWED = re.compile(
    rf"(?<![가-힣])({'|'.join(NOUNS)}|'[^'\n]+')(이에요|예요|에요|이다|[{''.join(AFTER_CONSONANT)}는가를와다])(?![가-힣])"
)


def particle_errors(text: str) -> list[str]:
    """Each noun of the drawn world, and each word in quotes, with a particle or copula of the wrong form after it, as written."""
    errors = []
    for noun, form in _FOLLOWED.findall(text):
        final = final_consonant(noun)
        if form == "에요" or (final is not None and form in (AFTER_VOWEL if final else AFTER_CONSONANT)):
            errors.append(noun + form)
    return errors
