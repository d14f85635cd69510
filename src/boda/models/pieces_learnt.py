"""Pieces for a tokenizer, learnt from text: byte-pair encoding that begins at the tokenizer's own pieces."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, chain, islice
from operator import itemgetter
from typing import Any

from tokenizers import Encoding, Tokenizer, models, pre_tokenizers, trainers

from boda.models.pieces import Growth, Known, kind_of, score_of

MOST_WORDS = 3_000_000  # different words kept while counting; the rarest go when there are more
LEARNT_WORDS = 120_000  # of them, the most frequent are learnt from: twice as many save 1 % more and take twice as long
LEARNT_TOTAL = 600_000  # occurrences of words that the trainer is given; more frequent ones are scaled down
COVERAGE = 0.9995  # share of the text's characters that get a piece of their own where bytes stood for them (as SentencePiece)
_SPACE, _UNKNOWN, _BYTES = "\ue000", "\ue001", 0xE100  # codes of a lone space, of what has no piece, of 256 bytes
_LETTERS, _SIGNS = 0x20000, 0x90000  # where the codes of other pieces begin: none of these is white space
# A piece is of letters or of signs, with a space in front or none; never of digits, so that numbers stay as the model knows them.
_SEGMENT = re.compile(f"{_SPACE}?(?:[{chr(_LETTERS)}-{chr(_SIGNS - 1)}]+|[{chr(_SIGNS)}-\U0010ffff]+)")
_RUN = re.compile(f"[{chr(_BYTES)}-{chr(_BYTES + 255)}]+")


def _groups(items: Iterable, size: int) -> Iterator[list]:
    remaining = iter(items)
    while some := list(islice(remaining, size)):
        yield some


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each word is in the texts, with the space before it, in bounded memory."""
    counts: Counter[str] = Counter()
    for some in _groups(texts, 1000):
        counts.update("\n".join(some).replace(" ", "\n ").split("\n"))
        least = 1
        while len(counts) > MOST_WORDS:
            counts = Counter({word: count for word, count in counts.items() if count > least})
            least += 1
    for nothing in ("", " "):
        del counts[nothing]
    return counts


class _Codes(dict[int, str]):
    """Pieces as single characters, by id, so that the library's trainer learns merges of pieces as it would of characters."""

    def __init__(self, known: Known):
        super().__init__(dict.fromkeys(known.added.values(), " "))
        self.known = known
        self.pieces: dict[str, str] = {}  # code -> piece
        self.characters: set[str] = set()  # codes of characters that have no piece yet
        self.of_character: dict[str, str] = {}
        if known.unknown is not None and not known.is_bytes:
            self[known.unknown] = _UNKNOWN
        if known.model.get("byte_fallback"):
            names = {f"<0x{byte:02X}>": byte for byte in range(256)}
            self |= {known.vocab[name]: chr(_BYTES + byte) for name, byte in names.items() if name in known.vocab}

    def new(self, piece: str, text: str | None) -> str:
        begins = {"letters": _LETTERS, "signs": _SIGNS}
        kind = kind_of(text)
        code = chr(begins[kind] + len(self.pieces)) if kind in begins else _SPACE if kind else " "
        self.pieces[code] = piece
        return code

    def __missing__(self, id: int) -> str:
        piece = self.known.name(id)
        self[id] = self.new(piece, self.known.read(piece))
        return self[id]

    def spell(self, text: str) -> str:
        """Characters that have no piece yet."""
        normalise = self.known.backend.normalizer
        for letter in text:
            if letter not in self.of_character:
                stays = normalise is None or normalise.normalize_str(letter).strip(" ▁") == letter
                code = self.of_character[letter] = self.new(letter, letter) if stays else " "
                self.characters |= {code} - {" ", _SPACE}
        return "".join(self.of_character[letter] for letter in text)

    def words(self, words: Counter[str]) -> Counter[str]:
        """Words -> the stretches of their pieces that a new piece may be of, and how often each comes."""
        found: Counter[str] = Counter()
        backend = self.known.backend
        # Where an older Llama writes both of "▁ ▁word", the space is left away.
        doubled = not self.known.is_bytes and "".join(backend.encode(" a", add_special_tokens=False).tokens).startswith("▁▁")
        chosen = sorted(words.items(), key=itemgetter(1), reverse=True)[:LEARNT_WORDS]
        composed = ((unicodedata.normalize("NFC", word.lstrip(" ") if doubled else word), count) for word, count in chosen)
        for word, count, encoded in _encoded(backend, composed):
            ids = encoded.ids
            if len(ids) < 2 and ids != [self.known.unknown]:
                continue
            codes = [self[id] for id in ids]
            places = encoded.word_ids
            if places[0] != places[-1]:  # the tokenizer's own borders
                codes = [
                    code if place == last else " " + code for code, place, last in zip(codes, places, [places[0], *places])
                ]
            text = "".join(codes)
            if _UNKNOWN in text:
                spans = [word[slice(*span)].strip() for span in encoded.offsets]
                text = "".join(code.replace(_UNKNOWN, self.spell(span)) for code, span in zip(codes, spans))
            elif self.known.model.get("byte_fallback"):
                text = _RUN.sub(self._from_bytes, text)
            for segment in _SEGMENT.findall(text):
                if len(segment) > 1 or segment in self.characters:
                    found[segment] += count
        return found

    def _from_bytes(self, run: re.Match) -> str:
        raw = bytes(ord(code) - _BYTES for code in run[0])
        try:
            return self.spell(raw.decode())
        except UnicodeDecodeError:
            return " "


def _encoded(backend: Tokenizer, words: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int, Encoding]]:
    """Words, their counts and encodings; the next ones are encoded while one is looked at."""
    groups = list(_groups(words, 2000))
    with ThreadPoolExecutor(1) as pool:
        encoded = pool.map(lambda some: backend.encode_batch([word for word, _ in some], add_special_tokens=False), groups)
        for some, encodings in zip(groups, encoded):
            yield from ((word, count, encoding) for (word, count), encoding in zip(some, encodings))


def learn_pieces(tokenizer: Any, words: Counter[str], number: int) -> Growth:
    """The `number` pieces (fewer where the text has no more) that shorten text most, from how often each word is in it.

    Byte-pair encoding (Sennrich et al., 2016) that begins at the tokenizer's own pieces instead of at characters. None goes across a
    border of its words. A Unigram tokenizer gets the most useful of them with the logarithm of their share as score.
    """
    known = Known(tokenizer)
    codes = _Codes(known)
    segments = codes.words(words)
    growth = Growth()
    frequent: Counter[str] = Counter()
    for segment, count in segments.items():
        for code in filter(codes.characters.__contains__, segment):
            frequent[code] += count
    letters = _covering(frequent, number)
    growth.pieces += [codes.pieces[code] for code in letters]
    dropped = dict.fromkeys(codes.characters.difference(letters), " ")
    wanted = number - len(letters)
    # The trainer's time goes with the bytes it is given: the first, which are the frequent ones, become the shortest.
    alphabet = [code for code in dict.fromkeys(chain.from_iterable(segments)) if code not in dropped]
    short = [chr(place + (0x100 if place < 0x1500 else _LETTERS)) for place in range(len(alphabet))]  # white space lies between
    table = str.maketrans(dropped | dict(zip(alphabet, short)))
    parts: Counter[str] = Counter()
    for segment, count in segments.items():
        for part in segment.translate(table).split():
            parts[part] += count
    named = {code: codes.pieces[long] for code, long in zip(short, alphabet)}
    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + wanted + wanted // (2 if known.is_unigram else 8) + 64, min_frequency=2, show_progress=False
    )
    learnt.train_from_iterator(_repeated(parts), trainer)
    spell = lambda coded: "".join(named[code] for code in coded)  # noqa: E731
    if known.is_unigram:
        return _scored(known, growth, learnt, parts, spell, number)
    blocked: set[str] = set()
    new, pairs = dict.fromkeys(growth.pieces), dict[tuple[str, str], None]()
    for left, right in json.loads(learnt.to_str())["model"]["merges"]:
        piece = spell(left + right)
        if left in blocked or right in blocked or piece in known.vocab or piece in known.added:
            # A second way to an old piece would change how old text is tokenised.
            growth.existing += piece in known.vocab
            blocked.add(left + right)
        elif piece not in new and len(new) == number:
            break
        else:
            new[piece] = pairs[spell(left), spell(right)] = None
    return Growth(list(new), list(pairs), helpers=sum(known.read(piece) is None for piece in new), existing=growth.existing)


def _covering(counts: Counter[str], number: int) -> list[str]:
    """The most frequent characters, as many as cover the text, and no more than half of the pieces there are to be."""
    frequent = counts.most_common(number // 2)
    covered = accumulate((count for _, count in frequent), initial=0)  # by those before each
    needed = counts.total() * COVERAGE
    return [code for (code, count), before in zip(frequent, covered) if before < needed and count > 1]


def _repeated(segments: Counter[str]) -> Iterator[str]:
    """Every segment as often as it comes, many in a text: the trainer counts words and cannot be told how often one was seen."""
    scale = max(1.0, segments.total() / LEARNT_TOTAL)
    for some in _groups(segments.items(), 100):
        yield "".join((segment + " ") * max(1, round(count / scale)) for segment, count in some if len(segment) > 1)


def _scored(known: Known, growth: Growth, learnt: Tokenizer, segments: Counter[str], spell, number: int) -> Growth:
    """Of the candidates that were learnt those that save most, with their scores."""
    counts: Counter[str] = Counter()
    characters = set(growth.pieces)
    for _, count, encoded in _encoded(learnt, segments.items()):
        for token in encoded.tokens:
            counts[token] += count
    seen, saved = Counter[str](), Counter[str]()
    for token, count in counts.items():
        piece = spell(token)
        seen[piece] += count
        if len(token) > 1:
            saved[piece] += count * (len(token) - 1)
    growth.existing = sum(piece in known.vocab for piece in saved)
    new = [piece for piece, _ in saved.most_common() if piece not in known.vocab and piece not in characters]
    growth.pieces += new[: number - len(growth.pieces)]
    total = max(1, seen.total())
    growth.scores = [score_of(known, piece, math.log(max(1, seen[piece]) / total)) for piece in growth.pieces]
    return growth
