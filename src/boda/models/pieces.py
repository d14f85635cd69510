"""More pieces for a tokenizer, learnt from text or taken from another one: they stand behind all that were there before.

A new piece is a merge (BPE) or a piece with a score (Unigram) of the tokenizer's model. As an added token it would be matched
inside words before anything else is looked at, and text would no longer be tokenised as the model has learnt it.
"""

from __future__ import annotations

import json
import re
import tempfile
import unicodedata
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from boda.errors import BodaError

_LETTER_OF = bytes_to_unicode()  # byte -> the letter that byte-level BPE writes it as
_BYTE_OF = {letter: byte for byte, letter in _LETTER_OF.items()}
MARGIN = 0.1  # by which a Unigram piece is likelier than the pieces it was written with, so that it is taken


@dataclass
class Growth:
    """What a tokenizer is given: `pieces` in the order of their ids, written as its vocabulary writes them."""

    pieces: list[str] = field(default_factory=list)
    merges: list[tuple[str, str]] = field(default_factory=list)  # BPE
    scores: list[float] = field(default_factory=list)  # Unigram: the pieces'
    helpers: int = 0  # of the pieces: parts of a syllable, or only on the way to a piece that was taken
    existing: int = 0  # left out: the tokenizer has them
    left_out: int = 0  # they could never come up: across a border of its words, or not to be reached by merges


class Known:
    """A tokenizer's pieces and how it writes text. Raises BodaError for one that cannot be given more."""

    def __init__(self, tokenizer: Any):
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise BodaError(f"a {type(tokenizer).__name__} has no tokenizer.json, so it cannot be given pieces")
        self.backend: Tokenizer = backend
        data = json.loads(backend.to_str())
        self.model = data["model"]
        self.is_unigram = self.model["type"] == "Unigram"
        marks_borders = self.model.get("continuing_subword_prefix") or self.model.get("end_of_word_suffix")
        if marks_borders or self.model["type"] not in ("BPE", "Unigram"):
            raise BodaError(
                f"a {self.model['type']} tokenizer of this kind cannot be given pieces; byte-level BPE, BPE with bytes for unknown "
                "characters, and Unigram can"
            )
        listed = self.model["vocab"]
        self.vocab = {piece: place for place, (piece, _) in enumerate(listed)} if self.is_unigram else dict(listed)
        self.added = {token["content"]: token["id"] for token in data["added_tokens"]}
        self.least = min(score for _, score in listed) if self.is_unigram else 0.0
        named = self.model.get("unk_token")
        self.unknown: int | None = self.model.get("unk_id") if self.is_unigram else self.vocab.get(named)
        self.is_bytes = '"ByteLevel"' in json.dumps(data["decoder"])
        # No new piece takes an id that something has: added tokens may lie far behind the pieces (Llama 3).
        self.first = max(chain(self.vocab.values(), self.added.values())) + 1

    def write(self, text: str) -> str:
        """Text as the vocabulary writes it."""
        return "".join(_LETTER_OF[byte] for byte in text.encode()) if self.is_bytes else text.replace(" ", "▁")

    def read(self, piece: str) -> str | None:
        """The text of a piece; None for bytes that are only a part of a character."""
        return read_piece(piece, self.is_bytes)

    def name(self, id: int) -> str:
        """The piece or added token of an id."""
        piece = self.backend.id_to_token(id)
        assert piece is not None
        return piece

    def size(self, piece: str) -> int:
        """Bytes of text that a piece stands for."""
        text = self.read(piece)
        return len(piece if self.is_bytes else text.encode() if text is not None else " ")

    def parts(self, piece: str) -> list[str]:
        """The pieces that this tokenizer writes another one with."""
        return [token.value for token in self.backend.model.tokenize(piece)]

    def part_ids(self, piece: str) -> list[int]:
        return [token.id for token in self.backend.model.tokenize(piece)]


def read_piece(piece: str, is_bytes: bool) -> str | None:
    """The text of a piece of a byte-level vocabulary, or of one that writes spaces as ▁; None for a part of a character."""
    if not is_bytes:
        return None if re.fullmatch("<0x[0-9A-F]{2}>", piece) else piece.replace("▁", " ")
    try:
        return bytes(_BYTE_OF[letter] for letter in piece).decode()
    except (KeyError, UnicodeDecodeError):
        return None


def kind_of(text: str | None) -> str:
    """What a piece is for learning: "space", "letters", "signs", or "" for what no new piece goes across."""
    if text is None:
        return "letters"
    if text == " ":
        return "space"
    words = text[text.startswith(" ") :]
    if not words or any(letter.isspace() or letter.isnumeric() for letter in words):
        return ""
    are_letters = {letter.isalpha() or unicodedata.category(letter)[0] == "M" for letter in words}
    return "" if len(are_letters) > 1 else "letters" if are_letters.pop() else "signs"


def score_of(known: Known, piece: str, score: float) -> float:
    """A score that makes a piece likelier than the pieces it was written with, and leaves that of unknown characters as it is."""
    scores = known.model["vocab"]
    split = sum(known.least - 10 if id == known.unknown else scores[id][1] for id in known.part_ids(piece))
    return max(score, split + MARGIN, known.least)


def extended(tokenizer: Any, growth: Growth) -> Any:
    """The tokenizer with the pieces behind its own: of the same class, all else as it was. Raises BodaError: nothing to add.

    Ids that only added tokens have are filled in the model too: the library counts the model's pieces to find a free id for the next
    added token, and would take a new piece's.
    """
    from transformers import AutoTokenizer

    from boda.models.loading import quiet_loading

    if not growth.pieces:
        there = f"it has {growth.existing:,} of them, and {growth.left_out:,} could never come up"
        raise BodaError(f"no piece is left to add to the tokenizer: {there}")
    known = Known(tokenizer)
    model, names = known.model, {id: content for content, id in known.added.items()}
    used = set(known.vocab.values())
    fillers = {id: names.get(id, f"<|unused {id}|>") for id in range(known.first) if id not in used}
    new = {known.first + place: piece for place, piece in enumerate(growth.pieces)}
    if known.is_unigram:
        model["vocab"] += [[piece, known.least] for piece in fillers.values()]
        model["vocab"] += map(list, zip(growth.pieces, growth.scores))
    else:
        model["vocab"] |= {piece: id for id, piece in (fillers | new).items()}
        model["merges"] += map(list, growth.merges)
    with tempfile.TemporaryDirectory() as folder, quiet_loading():
        tokenizer.save_pretrained(folder)
        path = Path(folder) / "tokenizer.json"
        data = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(data | {"model": model}, ensure_ascii=False), encoding="utf-8")
        made = AutoTokenizer.from_pretrained(folder)
    vocab = made.get_vocab()
    if type(made) is not type(tokenizer) or any(vocab.get(piece) != id for id, piece in new.items()):
        raise BodaError(f"a {type(tokenizer).__name__} cannot be given pieces: it makes its vocabulary anew when it is loaded")
    made.name_or_path = tokenizer.name_or_path
    return made
