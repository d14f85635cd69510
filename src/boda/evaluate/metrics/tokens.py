"""Text -> tokens, by tokenizers that a score is named with: what counts as a word of Korean is a choice."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib import import_module
from typing import Any

from boda.errors import BodaError, explaining

Tokens = list[str]
Splitter = Callable[[list[str]], Iterable[Sequence[str]]]
TOKENIZERS = ("kiwi", "mecab", "whitespace", "character", "jamo")
_EDGES = re.compile(r"^\W+|\W+$|\s+")  # and spaces within: kiwi has words such as 몬스터 트럭


def tokenize(texts: Iterable[str], tokenizer: str) -> list[Tokens]:
    """Tokens of each text: Unicode form NFC, lower case, no punctuation around them.

    `tokenizer`: kiwi or mecab (morphemes; kiwi's run on all cores), whitespace, character (syllables and letters), jamo (letters,
    Hangul syllables taken apart). Raises BodaError: unknown, or not installed.
    """
    split = _splitter(tokenizer)
    found = split([unicodedata.normalize("NFC", text).lower() for text in texts])
    return [
        [bare for token in each if (bare := token if token.isalnum() else _EDGES.sub("", token))]  # most need no look
        for each in found
    ]


def jamo(text: str) -> str:
    """Hangul syllables as the letters they are made of (Unicode form NFD), all else as it is."""
    return "".join(unicodedata.normalize("NFD", letter) if "가" <= letter <= "힣" else letter for letter in text)


@cache
def _splitter(tokenizer: str) -> Splitter:
    if tokenizer == "kiwi":
        with explaining(f"morphemes need kiwipiepy: pip install 'boda[eval]'; or tokenizer={_others()}", ModuleNotFoundError):
            from kiwipiepy import Kiwi  # type: ignore
        kiwi = Kiwi()
        return lambda texts: ([token.form for token in each] for each in kiwi.tokenize(texts))
    if tokenizer == "mecab":
        morphs = _mecab()
        return lambda texts: map(morphs, texts)
    simple: dict[str, Callable[[str], Sequence[str]]] = {"whitespace": str.split, "character": str, "jamo": jamo}
    if tokenizer not in simple:
        raise BodaError(f"no tokenizer '{tokenizer}'; there are {', '.join(TOKENIZERS)}")
    return lambda texts: map(simple[tokenizer], texts)


def _others() -> str:
    return " or ".join(TOKENIZERS[2:])


def _mecab() -> Callable[[str], Sequence[str]]:
    """Morphemes by whichever binding of MeCab with the Korean dictionary is there: python-mecab-ko, konlpy or mecab-ko."""
    why = []
    for module, morphs_of in _BINDINGS.items():
        try:
            return morphs_of(import_module(module))
        except Exception as error:  # konlpy raises plain ones where the system's MeCab or dictionary is missing
            why.append(str(error).splitlines()[0])
    raise BodaError(
        f"mecab needs a binding, e.g. pip install python-mecab-ko; or tokenizer=kiwi or {_others()} ({'; '.join(why)})"
    )


def _by_spaces(parse: Callable[[str], str]) -> Callable[[str], Sequence[str]]:
    return lambda text: parse(text).split()


_BINDINGS: dict[str, Callable[[Any], Callable[[str], Sequence[str]]]] = {
    "mecab": lambda module: module.MeCab().morphs,
    "konlpy.tag": lambda module: module.Mecab().morphs,
    "mecab_ko": lambda module: _by_spaces(module.Tagger("-Owakati").parse),
}
