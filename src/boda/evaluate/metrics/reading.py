"""How well text in a picture was read: error rates by letter and word, 1-NED, ANLS."""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Sequence

from boda.errors import explaining
from boda.evaluate.metrics.tokens import jamo

Pair = tuple[str, str]  # what was read, what is written


def edit_rates(pairs: Sequence[Pair]) -> dict[str, float | None]:
    """Error rates of (read, written) pairs: all edits over the length of all that is written, 0 or more, less is better.

    `cer` by syllables, `cer_jamo` by the letters that Hangul syllables are made of (김 read as 검 is one letter of three), `wer` by
    words between spaces, which are the same words at either level. Unicode form NFC, white space as single spaces. A text that was
    not read at all costs its length; what is read where nothing is written adds edits and no length. None: nothing is written in
    any of them. The same as torchmetrics' CharErrorRate and WordErrorRate and as jiwer, of text in this form.
    """
    shown = [(plain(read), plain(written)) for read, written in pairs]
    return {
        "cer": _rate(shown),
        "wer": _rate([(read.split(), written.split()) for read, written in shown]),
        "cer_jamo": _rate([(jamo(read), jamo(written)) for read, written in shown]),
    }


def edit_rates_upstream(pairs: Sequence[Pair]) -> dict[str, float | None]:
    """`cer` and `wer` as the Small Korean VLM's multilingual OCR evaluation has them: torchmetrics' rate of each picture by itself,
    of the text as it comes (what was read is stripped), and the mean over pictures, where a short text counts as a long one.

    Pictures without text are left out: there its mean becomes infinite or undefined.
    """
    rates = [
        (_rate([(read.strip(), written)]), _rate([(read.split(), written.split())]))
        for read, written in pairs
        if written.strip()
    ]
    means = [sum(each) / len(rates) for each in zip(*rates)] if rates else [None, None]  # type: ignore[arg-type]
    return dict(zip(("cer", "wer"), means))


def similarity(read: str, written: str) -> float:
    """1-NED of ICDAR's robust reading contests: 1 - edits / length of the longer one, 0 to 1. Nothing read of nothing written: 1."""
    return 1 - _distance(plain(read), plain(written)) / (max(len(plain(read)), len(plain(written))) or 1)


def anls(answer: str, references: Sequence[str]) -> float:
    """Normalised Levenshtein similarity of the nearest reference (Biten et al., 2019), 0 unless above .5; lower case, NFC, single
    spaces, all of which holds for the lengths too."""
    best = max(similarity(answer.lower(), each.lower()) for each in references)
    return best if best > 0.5 else 0.0


def plain(text: str) -> str:
    """NFC, and every run of white space as one space, none around: a line break for a space is no misreading."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _rate(pairs: Sequence[tuple[Sequence[Hashable], Sequence[Hashable]]]) -> float | None:
    length = sum(len(written) for _, written in pairs)
    return sum(_distance(read, written) for read, written in pairs) / length if length else None


def _distance(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    with explaining("edit distances need rapidfuzz: pip install 'boda[eval]'", ModuleNotFoundError):
        from rapidfuzz.distance import Levenshtein
    return Levenshtein.distance(first, second)
