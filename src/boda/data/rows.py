"""Rows of text files, streamed: JSON lists and JSON lines, CSV and TSV. A broken row is reported and the next one read."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import TextIO

from boda.data.files import Place
from boda.data.sample import printable
from boda.errors import BadRow, BodaError

MAX_ROW = 64 << 20  # characters; a longer "row" is a broken file, and reading on would fill memory
_CHUNK = 1 << 18
_GAP = re.compile(r"[\s,]*")
_FIRST_KEY = re.compile(r'\{\s*"((?:[^"\\]|\\.)*)"\s*:')

Rows = Iterator[tuple[int | str, dict | BadRow]]  # numbered from 0, or named by their keys


def text_rows(place: Place) -> Rows:
    """(number, row) of a JSON list, JSON lines, CSV or TSV file, told apart by suffix and first character.

    Raises BodaError: the file as a whole cannot be read: encoding, no rows at all, no JSON.
    """
    is_table = place.suffix in (".csv", ".tsv")
    with place.open_text("" if is_table else "\n") as stream:
        if is_table:
            yield from csv_rows(stream, str(place), "\t" if place.suffix == ".tsv" else None)
            return
        head = stream.read(_CHUNK)
        start = head.lstrip()
        if start.startswith("["):
            yield from list_rows(stream, str(place), start[1:])
        elif start.startswith("{"):
            yield from line_rows(stream, str(place), head)
        elif not start:
            raise BodaError(f"{place} is empty")
        else:
            raise BodaError(f"{place} is neither JSON nor a .csv or .tsv: it begins {printable(start, 40)}")


def list_rows(stream: TextIO, where: str, buffer: str = "", chunk: int = _CHUNK) -> Rows:
    """Rows of a JSON list whose `[` has been read, in constant memory.

    After a broken row reading goes on at the next object that begins with a key rows have begun with.
    """
    decoder = json.JSONDecoder()
    position, number, ended = 0, 0, False
    first_keys: set[str] = set()

    def more() -> None:
        nonlocal buffer, position, ended
        text = stream.read(max(chunk, len(buffer) - position))  # doubling: a long row is not decoded over and over
        ended = not text
        buffer, position = buffer[position:] + text, 0

    while True:
        position = _GAP.match(buffer, position).end()  # type: ignore[union-attr]
        if position == len(buffer):
            if ended:
                yield number, BadRow(where, number, "row", "the list is never closed: the file is cut off; fetch it again")
                return
            more()
            continue
        if buffer[position] == "]":
            while not buffer[position + 1 :].strip() and not ended:
                more()
            if not (rest := buffer[position + 1 :].strip()):
                return
            problem = f"text after the end of the list: {printable(rest)}"
        else:
            try:
                value, end = decoder.raw_decode(buffer, position)
            except (json.JSONDecodeError, RecursionError) as error:
                if not ended and len(buffer) - position < MAX_ROW and _is_incomplete(error, len(buffer)):
                    more()
                    continue
                problem = _explain(error, buffer, ended)
            else:
                if end == len(buffer) and not ended and not isinstance(value, (dict, list, str)):
                    more()  # a number may go on
                    continue
                if isinstance(value, dict) and value:
                    first_keys.add(next(iter(value)))
                yield number, _checked(value, where, number)
                number, position = number + 1, end
                continue
        yield number, BadRow(where, number, "row", problem)
        number += 1
        if not first_keys:
            while len(buffer) - position < _CHUNK and not ended:
                more()
            first_keys = _likely_first_keys(buffer, position)
        start = position + 1
        while (found := _next_row(buffer, start, first_keys)) is None:
            if ended:
                return
            position = max(0, len(buffer) - 1100)  # a key may be cut by the end of the buffer
            start = max(start - position, 100) if position else start
            more()
        position = found


def line_rows(stream: TextIO, where: str, head: str = "") -> Rows:
    """Rows of a file with one JSON object a line; `head` is what has been read of it. Empty lines count, but are no rows."""
    first, _, rest = head.lstrip().partition("\n")
    try:
        json.loads(first)
    except (ValueError, RecursionError) as error:
        if rest.strip() and not rest.lstrip().startswith("{") and _is_incomplete(error, len(first.rstrip())):
            why = "holds one JSON value over several lines, not rows: write one object a line, or a list of them"
            raise BodaError(f"{where} {why}") from error
    for number, line in lines(stream, where, head):
        if not line.strip():
            continue
        try:
            yield number, _checked(json.loads(line), where, number)
        except (ValueError, RecursionError) as error:
            yield number, BadRow(where, number, "row", f"line {number + 1}: {_explain(error, line, ended=True)}")


def csv_rows(stream: TextIO, where: str, delimiter: str | None = None) -> Rows:
    """Rows of a table whose first line names its columns. Without a delimiter: the one of , ; tab the first line has most of.

    A tab-separated table has no quoting: a quote is a quote.
    """
    head = stream.readline(MAX_ROW)
    if not head.strip():
        raise BodaError(f"{where} is empty")
    delimiter = delimiter or max(",;\t", key=head.count)
    csv.field_size_limit(MAX_ROW)
    lines = itertools.chain([head], stream)
    reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL)
    names = next(reader)
    if len(set(names)) < len(names):
        raise BodaError(f"{where}: two columns have one name in {', '.join(names)}")
    for number in itertools.count():
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, BadRow(where, number, "row", f"line {reader.line_num}: {error}")
            continue
        if len(cells) == len(names):
            yield number, dict(zip(names, cells))
        elif any(cell.strip() for cell in cells):
            why = f"line {reader.line_num}: {len(cells)} cells where the first line names {len(names)} columns"
            yield number, BadRow(where, number, "row", f"{why}; quote cells that hold '{delimiter}' or line breaks")


def _checked(value, where: str, number: int) -> dict | BadRow:
    if isinstance(value, dict):
        return value
    shown = printable(json.dumps(value, ensure_ascii=False))
    return BadRow(where, number, "row", f"a row is an object {{...}}; this is {shown}")


def _is_incomplete(error: Exception, length: int) -> bool:
    """Whether a text that failed to parse may only be the beginning of one that parses."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    # No literal or escape is longer than 16; strings stop at raw line breaks, so an open one reaches the end.
    return error.pos >= length - 16 or error.msg.startswith("Unterminated string")


def _explain(error: Exception, text: str, ended: bool) -> str:
    if not isinstance(error, json.JSONDecodeError):
        return "nested too deeply to be read"
    if ended and _is_incomplete(error, len(text.rstrip())):
        return "the row is cut off: the text ends inside it"
    around = printable(text[max(0, error.pos - 30) : error.pos + 30])
    return f"no JSON ({error.msg[0].lower()}{error.msg[1:]}) at {around}; mend or remove the row"


def _next_row(buffer: str, position: int, first_keys: set[str]) -> int | None:
    """Where the next row begins: an object with a known first key that is not the value of another's key."""
    for match in _FIRST_KEY.finditer(buffer, position):
        before = buffer[max(0, match.start() - 99) : match.start()].rstrip()
        if (not first_keys or match[1] in first_keys) and not before.endswith(":"):
            return match.start()
    return None


def _likely_first_keys(buffer: str, position: int) -> set[str]:
    """The first key of rows, guessed where none has been read yet: rows are longer than the objects inside them."""
    decoder, lengths = json.JSONDecoder(), Counter[str]()
    for _ in range(200):
        match = _FIRST_KEY.search(buffer, position)
        if match is None:
            break
        try:
            _, position = decoder.raw_decode(buffer, match.start())
            lengths[match[1]] += position - match.start()
        except (json.JSONDecodeError, RecursionError):
            position = match.start() + 1
    return {key for key, _ in lengths.most_common(1)}


def lines(stream: TextIO, where: str, head: str) -> Iterator[tuple[int, str]]:
    """(number, line) of a stream whose first characters, `head`, have been read."""
    for number in itertools.count():
        line, feed, head = head.partition("\n")
        if not feed:
            line += stream.readline(MAX_ROW + 1)
        if not line and not feed:
            return
        if len(line) > MAX_ROW:
            most = f"{MAX_ROW >> 20} million characters"
            raise BodaError(f"{where}, line {number + 1} is longer than {most}; this is no file of lines")
        yield number, line
