"""Pieces for a tokenizer that another one has."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from boda.models.pieces import Growth, Known, kind_of, read_piece, score_of


def take_pieces(tokenizer: Any, other: Any) -> Growth:
    """The pieces of another tokenizer that this one lacks (as Bllossom takes KoBERT's), written in this one's way.

    A BPE gets the merges that lead to each, and the pieces on the way (`helpers`) where no two of its own make it.
    """
    known, growth = Known(tokenizer), Growth()
    scores: dict[str, float] = {}
    for text, score in _texts_of(other):
        piece = known.write(text or "")
        if piece in known.vocab or piece in known.added:
            growth.existing += 1
        elif text is None or kind_of(text) in ("", "space") or not _is_one_word(known, text, piece):
            growth.left_out += 1
        else:
            scores.setdefault(piece, score)
    wanted = sorted(scores, key=len)  # short ones first: they are the steps to others
    if known.is_unigram:
        growth.pieces, growth.scores = wanted, [score_of(known, piece, scores[piece]) for piece in wanted]
        return growth
    letters = {letter: None for piece in wanted for letter in piece if letter not in known.vocab}  # bytes stood for them
    new = dict.fromkeys(letters)
    ranks: dict[tuple[str, str], int] = {}
    for piece in wanted:
        parts = _merged(_parts_with(known, piece, letters), ranks)
        # A second way to an old piece would change how old text is tokenised.
        while pairs := [pair for pair in zip(parts, parts[1:]) if "".join(pair) not in known.vocab]:
            best = min(pairs, key=lambda pair: ("".join(pair) not in new, "".join(pair) not in scores))
            ranks[best] = len(ranks)
            new["".join(best)] = None
            parts = _merged(parts, ranks)
        growth.left_out += len(parts) > 1
    growth.pieces, growth.merges = list(new), list(ranks)
    growth.helpers = sum(piece not in scores for piece in new)
    return growth


def _texts_of(other: Any) -> Iterator[tuple[str | None, float]]:
    """The texts of a tokenizer's pieces, a space in front of those that begin a word, and their scores (-inf: it has none)."""
    vocab, scores = other.get_vocab(), {}
    if (backend := getattr(other, "backend_tokenizer", None)) is not None and type(backend.model).__name__ == "Unigram":
        scores = dict(json.loads(backend.to_str())["model"]["vocab"])
    special = {*other.all_special_tokens, *other.get_added_vocab()}
    pieces = [piece for piece in sorted(vocab, key=vocab.__getitem__) if piece not in special]
    continues = any(piece.startswith("##") for piece in pieces)  # WordPiece
    is_bytes = sum("Ġ" in piece for piece in pieces) > sum("▁" in piece for piece in pieces)
    for piece in pieces:
        if continues:
            text = piece[2:] if piece.startswith("##") else " " + piece
        else:
            text = read_piece(piece, is_bytes)
        yield text, scores.get(piece, -math.inf)


def _is_one_word(known: Known, text: str, piece: str) -> bool:
    """Whether the tokenizer leaves a text in one, alone or behind a letter, so that its piece can come up at all."""
    normaliser, splitter = known.backend.normalizer, known.backend.pre_tokenizer
    for before in ("", "a", "가"):
        given = normaliser.normalize_str(before + text) if normaliser else before + text
        words = [word for word, _ in splitter.pre_tokenize_str(given)] if splitter else [given.replace(" ", "▁")]
        if words and words[-1].endswith(piece):
            return True
    return False


def _parts_with(known: Known, piece: str, letters: dict[str, None]) -> list[str]:
    """The old pieces, and new characters, that a piece consists of."""
    parts: list[str] = []
    for is_new, group in groupby(piece, key=letters.__contains__):
        stretch = "".join(group)
        parts += stretch if is_new else known.parts(stretch)
    return parts


def _merged(parts: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Pieces after the merges that apply, those of the lowest rank first."""
    while pairs := [pair for pair in zip(parts, parts[1:]) if pair in ranks]:
        pair, place, made = min(pairs, key=ranks.__getitem__), 0, []
        while place < len(parts):
            both = tuple(parts[place : place + 2]) == pair
            made.append("".join(pair) if both else parts[place])
            place += 1 + both
        parts = made
    return parts
