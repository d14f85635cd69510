"""Data files rewritten in place: texts of their rows changed, rows left out, everything else as it was, format by format.

JSON is not written anew: a changed text is put where the old one stood, so that spaces, escapes, order of keys and the digits of
numbers stay.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import json.scanner
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boda.data.files import Place
from boda.data.rows import MAX_ROW
from boda.data.sample import printable
from boda.data.sources.text import SEPARATORS
from boda.data.translate.fields import Slot
from boda.errors import WHY, BadRow, BodaError, explaining

_CHUNK = 1 << 18
_BLANK = " \t\r\n"
_GAP = re.compile(r"[\s,]*")
_KEY = re.compile(r'[\s{,]*"((?:[^"\\]|\\.)*)"\s*:\s*')
Changes = Sequence[tuple[Slot, str]]


class Spot(str):
    """A string of a JSON text that knows where its literal stands there."""

    __slots__ = ("end", "start")
    start: int
    end: int


def _spot(text: str, position: int, strict: bool = True) -> tuple[Spot, int]:
    value, end = json.decoder.scanstring(text, position, strict)  # type: ignore[attr-defined]
    spot = Spot(value)
    spot.start, spot.end = position - 1, end
    return spot, end


_SPOTS = json.JSONDecoder()
_SPOTS.parse_string = _spot  # type: ignore[attr-defined]
_SPOTS.scan_once = json.scanner.py_make_scanner(_SPOTS)  # type: ignore[attr-defined]


def replaced(text: str, changes: Changes) -> str:
    """A JSON text with other strings in the places of those that it was read with."""
    pieces, position = [], 0
    for slot, new in sorted(changes, key=lambda change: change[0].text.start):  # type: ignore[attr-defined]
        pieces += [text[position : slot.text.start], json.dumps(new, ensure_ascii=False)]  # type: ignore[attr-defined]
        position = slot.text.end  # type: ignore[attr-defined]
    return "".join([*pieces, text[position:]])


@dataclass
class Record:
    """One row: its number or key, its values (None: it is only copied; BadRow: it cannot be read), and how the file holds it."""

    number: int | str
    value: dict | BadRow | None
    raw: Any = ""
    before: str = ""  # what stands between the row before and this one
    end: float = 0.0  # the share of the file that has been read
    size: int = 0  # bytes or characters that are held of it


class Shard:
    """One file: `records()` reads it, `put` writes the records to keep between `start` and `finish`, in their order."""

    fields: Sequence[str] = ()
    format: str | None = None  # of its rows, where the kind of file says it
    stream: Any = None

    def __init__(self, path: Path):
        self.path = path

    def names(self) -> list[str]:
        """The columns, where the file names them before its rows."""
        return []

    def records(self) -> Iterator[Record]:
        raise NotImplementedError

    def start(self, target: Path) -> None:
        raise NotImplementedError

    def put(self, record: Record, changes: Changes | None) -> None:
        """The record with these changes; None: it is left out."""
        raise NotImplementedError

    def finish(self) -> None:
        """The last bytes are written."""
        self.stream.close()


class TextShard(Shard):
    """What is read and written as characters, in the file's own encoding; gzip stays gzip."""

    line_ends = "\n"

    def records(self) -> Iterator[Record]:
        size, seen = max(1, _text_size(self.path)[0]), 0
        with Place(str(self.path)).open_text(self.line_ends) as stream:
            for record in self._read(stream):
                record.size = len(record.before) + len(record.raw)
                seen += record.size
                record.end = min(1.0, seen / size)
                yield record

    def _read(self, stream) -> Iterator[Record]:
        raise NotImplementedError

    def start(self, target: Path) -> None:
        file: Any = target.open("wb")
        self._file = file
        if _text_size(self.path)[1]:  # no name and no time in it: the same rows are the same bytes
            file = gzip.GzipFile("", "wb", fileobj=file, mtime=0)
        with Place(str(self.path)).open() as source:
            head = source.read(3)
        encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig" if head == b"\xef\xbb\xbf" else "utf-8"
        self.stream = io.TextIOWrapper(file, encoding, errors="surrogateescape", newline="")

    def put(self, record: Record, changes: Changes | None) -> None:
        if changes is not None:
            self.stream.write(record.before + (self._changed(record, changes) if changes else record.raw))

    def _changed(self, record: Record, changes: Changes) -> str:
        return replaced(record.raw, changes)

    def finish(self) -> None:
        super().finish()
        self._file.close()


class Lines(TextShard):
    """A JSON object a line."""

    def _read(self, stream) -> Iterator[Record]:
        for number, line in enumerate(iter(lambda: stream.readline(MAX_ROW + 1), "")):
            if len(line) > MAX_ROW:
                raise BodaError(f"{self.path}, line {number + 1} is longer than {MAX_ROW >> 20} million characters")
            yield Record(number, _object(line, f"{self.path}", number) if line.strip() else None, line)


def _object(text: str, where: str, number: int | str) -> dict | BadRow:
    """A row of JSON, its strings knowing their places."""
    start = len(text) - len(text.lstrip())
    try:
        value, end = _SPOTS.raw_decode(text, start)
        if text[end:].strip():
            raise ValueError(f"text after the end of the object: {printable(text[end:])}")
    except (ValueError, RecursionError) as error:
        return BadRow(where, number, "row", f"no JSON ({error}); mend or remove the row")
    return value if isinstance(value, dict) else BadRow(where, number, "row", f"a row is an object; this is {printable(text)}")


class List(TextShard):
    """A JSON list of objects, streamed; or the list `annotations` of a JSON object, as COCO's captions are."""

    first = ""  # what stands before the first row: no comma
    written = False
    closing = "]"  # where the end has not been read

    def _read(self, stream) -> Iterator[Record]:
        buffer = stream.read(_CHUNK)
        opening = re.match(r"\s*\[", buffer)
        begin = opening.end() if opening else 0
        if not begin:
            while chunk := stream.read(_CHUNK << 4):
                buffer += chunk
            begin, self.closing = self._annotations(buffer), "]}"
        yield Record("head", None, buffer[:begin])
        buffer, position, number, decoder = buffer[begin:], 0, 0, json.JSONDecoder()
        while True:
            gap = _GAP.match(buffer, position)
            assert gap
            if gap.end() < len(buffer) and buffer[gap.end()] == "]":
                yield Record("tail", None, buffer[position:] + stream.read())
                return
            try:
                _, end = decoder.raw_decode(buffer, gap.end())
            except (ValueError, RecursionError) as error:
                chunk = stream.read(max(_CHUNK, len(buffer) - position)) if len(buffer) - position < MAX_ROW else ""
                if not chunk:
                    cut = f"row {number} is no JSON ({error}), or the file is cut off; mend it or fetch it again"
                    raise BodaError(f"{self.path}: {cut}") from error
                buffer, position = buffer[position:] + chunk, 0
                continue
            raw, self.first = buffer[gap.end() : end], self.first if number else gap[0]
            yield Record(number, _object(raw, str(self.path), number), raw, gap[0])
            position, number = end, number + 1

    def _annotations(self, text: str) -> int:
        """Where the list `annotations` of the outermost object begins, behind its bracket."""
        decoder, position = json.JSONDecoder(), 0
        with explaining(f"{self.path} is no JSON ({WHY}); mend it or fetch it again", ValueError):
            while found := _KEY.match(text, position):
                if found[1] == "annotations" and text[found.end() : found.end() + 1] == "[":
                    return found.end() + 1
                _, position = decoder.raw_decode(text, found.end())
        raise BodaError(f"{self.path} holds neither a JSON list of rows nor an object with a list `annotations`")

    def put(self, record: Record, changes: Changes | None) -> None:
        if changes is not None and isinstance(record.number, int) and not self.written:
            record.before, self.written = self.first, True
        self.closing = "" if record.number == "tail" else self.closing
        super().put(record, changes)

    def finish(self) -> None:
        self.stream.write(self.closing)
        super().finish()


class Table(TextShard):
    """CSV, or TSV without quoting, whose first line names the columns."""

    line_ends = ""

    def _read(self, stream) -> Iterator[Record]:
        taken: list[str] = []
        source = iter(lambda: stream.readline(MAX_ROW), "")
        head = next(source, "")
        self.delimiter = "\t" if Place(str(self.path)).suffix == ".tsv" else max(",;\t", key=head.count)
        csv.field_size_limit(MAX_ROW)
        watched = (taken.append(line) or line for line in itertools.chain([head], source))  # type: ignore[func-returns-value]
        quoting: Any = csv.QUOTE_NONE if self.delimiter == "\t" else csv.QUOTE_MINIMAL
        reader = csv.reader(watched, delimiter=self.delimiter, quoting=quoting)
        names: list[str] = []
        try:
            for number, cells in enumerate(reader, -1):
                raw = "".join(taken)
                taken.clear()
                value: dict | BadRow | None = None
                if number < 0:
                    names = cells
                    if len(set(names)) < len(names):
                        raise BodaError(f"{self.path}: two columns have one name in {', '.join(names)}")
                elif len(cells) == len(names):
                    value = dict(zip(names, cells))
                elif any(cells):
                    why = f"{len(cells)} cells where the first line names {len(names)} columns"
                    value = BadRow(str(self.path), number, "row", why)
                yield Record(number, value, raw)
        except csv.Error as error:
            raise BodaError(f"{self.path}, line {reader.line_num}: {error}") from error

    def _changed(self, record: Record, changes: Changes) -> str:
        assert isinstance(record.value, dict)
        cells = record.value | {slot.key: new for slot, new in changes}
        ending = record.raw[len(record.raw.rstrip("\r\n")) :]
        if self.delimiter == "\t":
            return "\t".join(cell.replace("\t", " ") for cell in cells.values()) + ending
        line = io.StringIO()
        csv.writer(line, delimiter=self.delimiter).writerow(cells.values())  # quotes what is in its line end, \r\n
        return line.getvalue()[:-2] + ending


class Documents(TextShard):
    """Plain text; a row is a document, divided from the next as the source `text` tells."""

    def _read(self, stream) -> Iterator[Record]:
        head = stream.read(1 << 16)
        seen = {line.strip(_BLANK) for line in head.strip(_BLANK).split("\n")}
        separator = next((mark for mark in SEPARATORS if mark in seen), None)
        number, kept = 0, ""
        for line in itertools.chain(re.findall(r"[^\n]*\n|[^\n]+", head + stream.readline()), stream, [None]):
            is_end = line is None or separator is None or line.strip(_BLANK) == separator
            if is_end and kept:
                yield Record(number, {"text": kept} if kept.strip() else None, kept)
                number, kept = number + bool(kept.strip()), ""
            if is_end and separator is not None:
                yield Record(number, None, line or "")
            else:
                kept += line or ""
            if len(kept) > MAX_ROW:
                raise BodaError(f"{self.path}: document {number} is longer than {MAX_ROW >> 20} million characters")

    def _changed(self, record: Record, changes: Changes) -> str:
        return changes[0][1]


class Columns(Shard):
    """Parquet: some columns of strings, or lists and structs of them; the others pass as they are."""

    def names(self) -> list[str]:
        with self._opened() as file:
            return list(file.schema_arrow.names)

    def _opened(self):
        import pyarrow
        import pyarrow.parquet

        with explaining(f"{self.path} is no Parquet file that can be read ({WHY})", pyarrow.ArrowException, OSError):
            return pyarrow.parquet.ParquetFile(self.path)

    def records(self) -> Iterator[Record]:
        with self._opened() as file:
            tops = {re.split(r"[.\[]", name)[0] for name in self.fields} | set(self.fields)
            wanted = [name for name in file.schema_arrow.names if name in tops]
            total, number = max(1, file.metadata.num_rows), 0
            for group in range(file.metadata.num_row_groups):
                table = file.read_row_group(group, use_threads=False)
                raw = (table, table.select(wanted).to_pylist())
                for value in raw[1]:
                    yield Record(number, value, raw, end=(number + 1) / total, size=table.nbytes // len(table))
                    number += 1

    def start(self, target: Path) -> None:
        import pyarrow.parquet

        with self._opened() as file:
            row_groups = file.metadata.num_row_groups
            codec = file.metadata.row_group(0).column(0).compression if row_groups and file.metadata.num_columns else "SNAPPY"
            codec = "none" if codec == "UNCOMPRESSED" else codec
            self.stream = pyarrow.parquet.ParquetWriter(target, file.schema_arrow, compression=codec)
        self.group: tuple | None = None  # of the rows that have been put last
        self.kept: list[bool] = []
        self.changed: set[str] = set()

    def put(self, record: Record, changes: Changes | None) -> None:
        if self.group is not record.raw:
            self._write_group()
            self.group = record.raw
        self.kept.append(changes is not None)
        for slot, new in changes or ():
            slot.parent[slot.key] = new
            self.changed.add(re.split(r"[.\[]", slot.where)[0] if slot.parent is not record.value else str(slot.key))

    def _write_group(self) -> None:
        import pyarrow

        if any(self.kept):
            assert self.group
            table, cells = self.group
            for name in sorted(self.changed):
                place = table.schema.get_field_index(name)
                column = pyarrow.array([row[name] for row in cells], type=table.schema.field(place).type)
                table = table.set_column(place, table.schema.field(place), column)
            self.stream.write_table(table.slice(0, len(self.kept)).filter(pyarrow.array(self.kept)))
        self.kept, self.changed = [], set()

    def finish(self) -> None:
        self._write_group()
        super().finish()


class Tar(Shard):
    """A tar of KEY.jpg, KEY.txt, KEY.json: the text is the field `txt`, the json's own fields stand beside it."""

    format = "webdataset"

    def records(self) -> Iterator[Record]:
        size, end = self.path.stat().st_size, 0
        key, parts = "", list[tuple]()
        with self.path.open("rb") as stream:
            try:
                tar = tarfile.open(fileobj=stream, mode="r:")
                for info in tar:
                    tar.members = []  # type: ignore[attr-defined]  # as in boda.data.files
                    folder, slash, name = info.name.rpartition("/")
                    stem, _, suffix = name.partition(".")
                    found = folder + slash + stem
                    if parts and found != key:
                        yield self._group(stream, key, parts, end / size)
                        parts = []
                    key, start = found, end
                    if info.offset_data + info.size > size:
                        break
                    end = info.offset_data + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                    parts.append((info, suffix.lower(), start, end))
            except tarfile.TarError as error:
                if not end:
                    raise BodaError(f"{self.path} is no tar that can be read ({error}); fetch it again") from error
            stream.seek(end)
            # More than some zeros after the end: several tars in a row, or a file made in full before its bytes came.
            is_cut = stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE) or size - end > 1 << 16
            if parts and not is_cut:
                yield self._group(stream, key, parts, 1.0)
            elif is_cut:  # what is lacking of this key nobody knows
                why = f"the tar breaks off here, after {end:,} of {size:,} bytes; what stands before is used: fetch it again"
                yield Record(key, BadRow(str(self.path), key, "shard", why), end=1.0)

    def _group(self, stream, key: str, parts: list, end: float) -> Record:
        """The members of one key, each with its place; their bytes are read again when they are written."""
        texts: dict[str, str] = {}
        value: dict | BadRow = {}
        for info, suffix, _, _ in parts:
            if suffix in ("txt", "json") and info.isfile():
                if suffix in texts:
                    value = BadRow(str(self.path), key, "shard", f"the key has two members .{suffix}")
                stream.seek(info.offset_data)
                texts[suffix] = stream.read(info.size).decode("utf-8", "surrogateescape")
        if "json" in texts and isinstance(value, dict):
            value = _object(texts["json"], str(self.path), key)
        if "txt" in texts and isinstance(value, dict):
            value["txt"] = texts["txt"]
        return Record(key, value or None, (parts, texts), end=end, size=sum(map(len, texts.values())))

    def start(self, target: Path) -> None:
        self.stream, self.source, self.bytes = target.open("wb"), self.path.open("rb"), 0

    def put(self, record: Record, changes: Changes | None) -> None:
        if changes is None:
            return
        parts, texts = record.raw
        inside = [change for change in changes if isinstance(change[0].text, Spot)]
        new = {"json": replaced(texts["json"], inside)} if inside else {}
        if beside := [said for slot, said in changes if not isinstance(slot.text, Spot)]:
            new["txt"] = beside[0]
        for info, suffix, start, end in parts:
            text = new.get(suffix)
            if text is None:
                self.source.seek(start)
                self._write(self.source.read(end - start))
                continue
            data = text.encode("utf-8", "surrogateescape")
            info.size = len(data)
            info.pax_headers = {name: said for name, said in info.pax_headers.items() if name != "size"}
            self._write(info.tobuf(tarfile.PAX_FORMAT if info.pax_headers else tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
            self._write(data + bytes(-len(data) % tarfile.BLOCKSIZE))

    def _write(self, data: bytes) -> None:
        self.stream.write(data)
        self.bytes += len(data)

    def finish(self) -> None:
        self.source.close()
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        self._write(bytes(-self.bytes % tarfile.RECORDSIZE))
        super().finish()


SHARDS: dict[str, type[Shard]] = {
    ".jsonl": Lines, ".ndjson": Lines, ".json": List, ".csv": Table, ".tsv": Table, ".txt": Documents, ".parquet": Columns, ".tar": Tar,
}  # fmt: skip


def damaged(path: Path) -> explaining:
    """What is said where a compressed file breaks off while it is read."""
    return explaining(f"{path} is cut off or damaged ({WHY}); fetch it again", EOFError, zlib.error, gzip.BadGzipFile)


def open_shard(path: Path) -> Shard:
    """The file by its suffix; one called .json that holds an object a line is read as that. Raises BodaError on an unknown one."""
    place = Place.of(path)
    kind = SHARDS.get(place.suffix)
    if kind is None or place.member:
        raise BodaError(
            f"{path}: only {', '.join(SHARDS)} are translated in place (text also as .gz); unpack archives of them first"
        )
    if kind in (Lines, List):
        with damaged(path), place.open_text() as stream:
            first, _, rest = stream.read(_CHUNK).lstrip().partition("\n")
        if first[:1] == "[":
            kind = List
        elif first[:1] == "{" and kind is List and isinstance(row := _object(first, str(path), 0), dict):
            kind = Lines if rest.strip() or "annotations" not in row else List
    return kind(Path(path))


def _text_size(path: Path) -> tuple[int, bool]:
    """Bytes of text in a file, as gzip says itself, and whether it is gzip."""
    with path.open("rb") as stream:
        if stream.read(2) != b"\x1f\x8b":
            return path.stat().st_size, False
        stream.seek(max(0, path.stat().st_size - 4))
        return int.from_bytes(stream.read(4), "little"), True
