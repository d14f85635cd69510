"""Plain documents for language modelling: text files, or a column of texts. Each is one message that nobody asked for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TextIO

from boda.data.rows import MAX_ROW, Rows, lines
from boda.data.sample import Message, Part, Sample
from boda.data.sources.common import Options, Row, file_rows
from boda.errors import BadRow

SEPARATORS = ("\x1e", "<|endoftext|>", "")  # lines that end a document: the first of these that the file's beginning has
_SNIFFED = 1 << 16
_BLANK = " \t\r\n"  # str.strip() would take U+001E for white space, too


def rows(options: Options) -> Rows:
    """Rows of a table or JSON file; of a .txt its documents."""
    if options.place.suffix != ".txt":
        yield from file_rows(options)
        return
    with options.place.open_text() as stream:
        for number, document in enumerate(documents(stream, options.name)):
            too_long = f"a document longer than {MAX_ROW >> 20} million characters; put blank lines between documents"
            yield number, {"text": document} if document else BadRow(options.name, number, "text", too_long)


def documents(stream: TextIO, where: str) -> Iterator[str]:
    """Texts between separators, in constant memory: lines of U+001E or <|endoftext|>, else blank lines, else every line's end.

    Which of them is told from the first 65,536 characters. A document that is too long to be one is given as "".
    """
    head = stream.read(_SNIFFED)
    seen = {line.strip(_BLANK) for line in head.strip(_BLANK).split("\n")}
    separator = next((mark for mark in SEPARATORS if mark in seen), None)
    texts = (line.rstrip("\r\n") for _, line in lines(stream, where, head))
    if separator is None:
        yield from (text for text in texts if text.strip())
        return
    kept: list[str] = []
    length = 0
    for text in itertools.chain(texts, [separator]):
        if text.strip(_BLANK) != separator:
            length += len(text) + 1
            if length <= MAX_ROW:
                kept.append(text)
            continue
        document = "\n".join(kept).strip("\n")
        if length > MAX_ROW or document.strip():
            yield "" if length > MAX_ROW else document
        kept, length = [], 0


def samples(row: Row) -> Iterable[Sample]:
    """The document as an assistant's message that stands alone."""
    yield row.sample([Message("assistant", (Part("text", row.text(row.need("text"), "text")),))])
