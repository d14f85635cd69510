"""Benchmark files in the form that they were published in: Parquet with pictures inside, TSV with base64 pictures, JSON.

Told apart by suffix; a hub id is fetched. What a file lacks, or has twice, is said before anything is asked.
"""

from __future__ import annotations

import binascii
import csv
import hashlib
import json
import math
import os
import re
import unicodedata
from base64 import b64decode
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from boda.data.files import Place
from boda.data.parquet import class_names, holds_pictures
from boda.data.rows import MAX_ROW, text_rows
from boda.data.sample import ImageRef
from boda.data.sources import HUB, resolve_data
from boda.errors import WHY, BadRow, BodaError, explaining
from boda.files import cache_folder, whole_file, writing

SUFFIXES = (".parquet", ".tsv", ".csv", ".jsonl", ".json")
SHORTEST_PICTURE = 64  # letters of base64; a shorter cell names the row whose picture it shares
SPLITS = {"train", "validation", "valid", "val", "dev", "test"}  # as files on the hub are named


@dataclass(frozen=True)
class Schema:
    """The published columns of a benchmark's file.

    columns: what each holds: `text`, `number`, `list` (texts) or `image`; with a question mark (`text?`) cells, or the column, may
        be empty, which reads as None, as the word nan does; not in `raw?`, a text as it stands.
    index: the column that names a row; unique. "" where rows have no name: their numbers are taken.
    hub: the id it is published under; split: of its files; images: the folder, beside the file, of pictures that cells name.
    aliases: what another published form of it calls a column.
    """

    name: str
    columns: Mapping[str, str]
    index: str = ""
    hub: str = ""
    split: str = ""
    images: str = field(default="", kw_only=True)
    aliases: Mapping[str, str] = field(default_factory=dict, kw_only=True)


def read_table(schema: Schema, path: str | Path = "", data_dir: str | Path | None = None) -> list[dict[str, Any]]:
    """The rows of a benchmark, columns of the schema only, and its `index`, a text.

    Args:
        path: a file, a folder (its files of the split) or `hf://ORG/NAME`; looked up as all data is. Without one the folder of the
            benchmark's name below the data folders, else its hub id.

    Raises BodaError: no such file, no such column, an index twice, a cell of another kind; the row is named.
    """
    rows: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    for file in _files(schema, path, data_dir):
        for number, cells in _cells(schema, file):
            row = {name: _read(schema, file, number, name, kind, cells) for name, kind in schema.columns.items()}
            name = row["index"] = str(row[schema.index]) if schema.index else str(len(rows))
            if name in seen:
                raise BodaError(
                    f"{file}: rows {seen[name]} and {number} have one {schema.index}, '{name}'; each names one question"
                )
            seen[name] = number
            rows.append(row)
    if not rows:
        raise BodaError(f"{schema.name}: {path or schema.hub} has no rows")
    by_index = {row["index"]: row for row in rows}
    for row in rows:  # a rotated question shows the picture of the first one by its index
        for name, kind in schema.columns.items():
            value = row[name]
            if kind == "image" and isinstance(value, str):
                other = by_index.get(value, {}).get(name)
                if not isinstance(other, ImageRef):
                    raise BodaError(
                        f"{schema.name}, row {row['index']}: '{name}' is neither a picture nor a row's that has one"
                    )
                row[name] = other
    return rows


def _files(schema: Schema, path: str | Path, data_dir: str | Path | None) -> list[Path]:
    """The files of the benchmark's split."""
    if not path:
        with_name = schema.hub.partition("/")[2] or schema.name
        try:
            path = resolve_data(with_name, data_dir)
        except BodaError:
            if not schema.hub:
                raise
            path = HUB + schema.hub
    place = Path(resolve_data(path, data_dir))
    if place.is_file():
        return [place]
    found = [file for file in sorted(place.rglob("*")) if file.suffix.lower() in SUFFIXES and file.is_file()]
    # test-00000-of-00001.parquet, test/0000.parquet, MMBench_DEV_KO.tsv
    splits = {file: {*re.split(r"[-_./]", file.relative_to(place).as_posix().lower())} & SPLITS for file in found}
    if its := [file for file in found if schema.split in splits[file]]:
        its = [file for file in its if file.suffix == ".parquet"] or its  # the hub may have VLMEvalKit's table beside them
    else:  # files of no split: another split's are other questions
        its = [file for file in found if not (schema.split and splits[file]) and (file.suffix != ".json" or len(found) == 1)]
    if not its or (len(its) > 1 and {file.suffix for file in its} != {".parquet"}):
        there = ", ".join(file.name for file in found[:6]) or "none"
        of_split = f", of its split '{schema.split}'" if schema.split else ""
        raise BodaError(f"{schema.name}: name one file of {place} ({', '.join(SUFFIXES)}){of_split}; there are: {there}")
    return its


def _cells(schema: Schema, file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, cells by the schema's columns) of each row, by a reader for the suffix; pictures in Parquet as references."""
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        yield from _parquet(schema, file)
    elif suffix in (".tsv", ".csv"):
        csv.field_size_limit(MAX_ROW)
        with (
            file.open(encoding="utf-8-sig", newline="") as stream,
            explaining(f"{file} is no table in UTF-8 ({WHY})", csv.Error, UnicodeDecodeError),
        ):
            # strict, so that quotes are either what the format has them for or an error, and no letters of a question go
            reader = csv.DictReader(stream, delimiter="\t" if suffix == ".tsv" else ",", strict=True)
            names = _names(schema, file, reader.fieldnames or ())
            for number, cells in enumerate(reader):
                if None in cells:
                    raise BodaError(
                        f"{file}, row {number} has more cells than there are columns: a cell with tabs needs quotes"
                    )
                yield number, {column: cells[name] for column, name in names.items()}
    else:
        for place, row in text_rows(Place(str(file))):
            if isinstance(row, BadRow):
                raise row
            yield int(place), {column: row[name] for column, name in _names(schema, file, row).items()}


def _parquet(schema: Schema, file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    said = f"{file} is no Parquet file that can be read ({WHY})"
    with explaining(said, pyarrow.ArrowException, OSError), pyarrow.parquet.ParquetFile(file) as table:
        there = table.schema_arrow
        names, classes = _names(schema, file, there.names), class_names(there)
        pictures = {name for name in names.values() if holds_pictures(there.field(name).type)}
        batches = table.iter_batches(batch_size=64, columns=[*names.values()], use_threads=False)
        known: dict[bytes, ImageRef] = {}  # a picture that is there again for each question is one: intervals are over pictures
        for number, cells in enumerate(chain.from_iterable(batch.to_pylist() for batch in batches)):
            row = {column: cells[name] for column, name in names.items()}
            for column, name in names.items():
                if row[column] is not None and name in pictures:
                    data = row[column].get("bytes") if isinstance(row[column], dict) else row[column]
                    place = ImageRef(str(file), row=number, column=name)
                    row[column] = known.setdefault(hashlib.sha256(data).digest(), place) if isinstance(data, bytes) else place
                elif row[column] is not None and name in classes:
                    row[column] = classes[name][row[column]]
            yield number, row


def _names(schema: Schema, file: Path, there: Collection[str]) -> dict[str, str]:
    """What a file calls those columns of the schema that it has."""
    names = {
        column: name for column in schema.columns for name in (schema.aliases.get(column, column), column) if name in there
    }
    if missing := [column for column, kind in schema.columns.items() if not kind.endswith("?") and column not in names]:
        form = ", ".join(f"{name} ({kind})" for name, kind in schema.columns.items())
        raise BodaError(
            f"{file} lacks column '{missing[0]}'; {schema.name} is published with {form}; here are: {', '.join(there)}"
        )
    return names


def _read(schema: Schema, file: Path, number: int, name: str, kind: str, cells: Mapping[str, Any]) -> Any:
    """A cell as its kind. Raises BadRow."""
    value, may_be_empty = cells.get(name), kind.endswith("?")
    wrong = partial(BadRow, str(file), number, name)
    is_blank = value is None or (isinstance(value, float) and math.isnan(value)) or value == ""
    if is_blank or (may_be_empty and kind != "raw?" and str(value).strip().lower() in ("", "nan")):
        if may_be_empty:
            return None
        raise wrong("the cell is empty")
    kind = kind.removesuffix("?")
    if kind in ("text", "raw"):
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # in a column with empty cells, whole numbers read as 3.0
        return unicodedata.normalize("NFC", str(value))
    if kind == "number":
        with explaining(str(wrong(f"'{value}' is no number")), ValueError, TypeError):
            found = float(value)  # type: ignore[arg-type]
            return int(found) if found.is_integer() else found
    if kind == "list":
        said = str(wrong('a list is needed, as in ["가", "나"]'))
        with explaining(said, ValueError):
            texts = json.loads(value) if isinstance(value, str) else value
            if not isinstance(texts, list) or not texts or None in texts:
                raise ValueError
            return [unicodedata.normalize("NFC", str(each)) for each in texts]
    assert kind == "image", kind
    return _picture(schema, file, wrong, value)


def _picture(schema: Schema, file: Path, wrong, value: Any) -> ImageRef | str:
    """A picture's cell: a reference, the bytes or the path of a `datasets` Image, base64 text, or a file's name; the index of another
    row stays what it is."""
    if isinstance(value, ImageRef):
        return value
    if isinstance(value, dict) and isinstance(value.get("bytes"), str):
        value = value["bytes"]
    elif isinstance(value, dict):
        value = value.get("path")
    if not isinstance(value, str):
        raise wrong(f"a picture is needed, not {type(value).__name__}")
    for place in (file.parent / value, file.parent / schema.images / value) if len(value) < 1024 else ():
        if os.path.isfile(place):  # base64 is no name of a file, and may be too long for one
            return ImageRef(str(place))
    if len(value) < SHORTEST_PICTURE:
        if schema.index and "." not in value:
            return value
        raise wrong(f"no picture '{value}' in {file.parent / schema.images}")
    with explaining(str(wrong(f"neither a picture's file nor base64 ({WHY})")), binascii.Error, ValueError):
        data = b64decode("".join((value.partition(";base64,")[2] or value).split()), validate=True)
    return _kept(data)


def _kept(data: bytes) -> ImageRef:
    """A picture that lay in a text, as a file of its own, so that not all of them stay in memory and records can name it."""
    digest = hashlib.sha256(data).hexdigest()
    place = cache_folder() / "benchmarks" / digest[:2] / digest
    if not place.is_file():
        with writing(place), whole_file(place, is_shared=True) as unfinished:
            unfinished.write_bytes(data)
    return ImageRef(str(place))
