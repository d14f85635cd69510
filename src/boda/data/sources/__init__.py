"""Data sets as they lie on disk -> Samples. A new format is one file here and one line in FORMATS."""

from __future__ import annotations

import glob
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from boda.data.files import Place
from boda.data.rows import Rows
from boda.data.sample import Sample
from boda.data.sources import captions, csv, llava, messages, parquet
from boda.data.sources.bad_rows import BadRows
from boda.data.sources.common import PICTURES, Format, Options, Row
from boda.data.templates import Template, as_text
from boda.errors import BadRow, BodaError

FORMATS: dict[str, Format] = {
    "llava": llava.FORMAT,
    "messages": messages.FORMAT,
    "captions": captions.FORMAT,
    "parquet": parquet.FORMAT,
    "csv": csv.FORMAT,
}
DATA_SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")

__all__ = ["DATA_SUFFIXES", "FORMATS", "BadRows", "read", "resolve_data"]


def read(
    path: str | Path,
    format: str | None = None,
    *,
    images: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    question: str | list[str] | None = None,
    answer: str | list[str] | None = None,
    where: Mapping[str, str | list[str]] | None = None,
    limit: int | None = None,
    licence: str = "",
    bad_rows: BadRows | None = None,
    probe: bool = True,
    trainable: bool = True,
) -> Iterator[Sample]:
    """Samples of a data set, lazily and in constant memory.

    Args:
        path: a file, a folder, a pattern such as `data/train-*.parquet`, or any of these inside a zip or tar.
        format: a key of FORMATS; None = told from the rows.
        images: folder, zip or tar that the rows' picture names are relative to; None = beside the data file.
        columns: our field -> the data set's column, or a template: {"image": "img/{id}.png", "caption": "caption_ko"}.
        question: template or list of wordings (one for each row, by its id), for captions, csv and parquet.
        answer: the same for the answer.
        where: only rows whose column has this value, or one of these: {"split": "train"}.
        limit: at most so many samples.
        licence: written into every sample's source.
        bad_rows: collects rows that cannot be used; None = the first one raises.
        probe: whether each picture's header is read, so that missing and broken ones are found now.
        trainable: whether a conversation must end with an answer.

    Raises:
        BadRow: a row cannot be used and `bad_rows` is None.
        BodaError: the data set as a whole cannot be read.
    """
    if format is not None and format not in FORMATS:
        raise BodaError(f"unknown format '{format}'; formats are:\n{describe_formats()}")
    given = {
        "images": None if images is None else _folder(images),
        "columns": dict(columns or {}),
        "question": None if question is None else Template(question),
        "answer": None if answer is None else Template(answer),
        "keep": {name: _values(values) for name, values in (where or {}).items()},
        "licence": licence,
        "probe": probe,
        "trainable": trainable,
    }
    return _read(_data_files(Path(path), format), format, given, limit, bad_rows)


def _read(
    places: list[Place], format: str | None, given: dict, limit: int | None, bad_rows: BadRows | None
) -> Iterator[Sample]:
    count = seen = 0
    others: dict[str, None] = {}  # values of rows that `where` leaves out, for the message if it leaves out all
    for place in places:
        options = Options(place=place, **given)
        kind = FORMATS[format or tell_format(options)]
        for number, cells in _guarded(parquet.rows if place.suffix == ".parquet" else kind.rows, options):
            seen += 1
            try:
                if isinstance(cells, BadRow):
                    raise cells
                row = Row(number, cells, options)
                if not row.is_kept():
                    if len(others) < 8:
                        others[", ".join(f"{name} = {as_text(cells[name])}" for name in options.keep)] = None
                    continue
                made = list(kind.samples(row))
            except BadRow as bad:
                if bad_rows is None:
                    raise
                bad_rows.seen += 1
                bad_rows.add(bad)
                continue
            if bad_rows is not None:
                bad_rows.seen += 1
            for sample in made[: None if limit is None else limit - count]:
                count += 1
                yield sample
            if limit is not None and count >= limit:
                return
    if not seen:
        raise BodaError(f"{', '.join(map(str, places[:3]))}: there are no rows in it")
    if others and not count and not bad_rows:
        asked = " and ".join(f"{name} = {' or '.join(values)}" for name, values in given["keep"].items())
        raise BodaError(f"{places[0]}: none of {seen} rows has {asked}; there are {'; '.join(others)}")


def _guarded(rows, options: Options) -> Rows:
    try:
        yield from rows(options)
    except (EOFError, OSError, zlib.error) as error:  # a torn gzip or archive shows only where it is torn
        raise BodaError(f"{options.name} is cut off or damaged ({error}); fetch it again") from error


def _values(values: Any) -> list[str]:
    return [as_text(value) for value in (values if isinstance(values, (list, tuple)) else [values])]


def _folder(images: str | Path) -> Place:
    place = Place.of(images)
    if not place.is_folder:
        raise BodaError(f"images: {images} is no folder, zip or tar")
    return place


def _data_files(path: Path, format: str | None) -> list[Place]:
    """The files that a path stands for. Raises BodaError if that is not clear."""
    place = Place.of(path)
    if place.is_file:
        return [place]
    if not place.is_folder:
        matches = [Place(name) for name in sorted(glob.glob(str(path)))] if glob.has_magic(str(path)) else []
        if not matches:
            raise BodaError(f"no data set at {path}")
        return matches
    depth = str(place).count("/") + 1
    found = [file for file in place.files() if file.suffix in DATA_SUFFIXES and str(file).count("/") == depth]
    tables = [file for file in found if file.suffix == ".parquet"]
    if format in (None, "parquet") and tables and len(tables) == len(found):
        return tables
    if format in (None, "captions") and (format or len(found) != 1) and _has_keys(place):
        return [place]
    if len(found) == 1:
        return found
    names = ", ".join(str(file) for file in found[:9])
    raise BodaError(f"{path} holds {f'several data files ({names}); name one of them' if found else 'no data file'}")


def _has_keys(place: Place) -> bool:
    """Whether a folder holds KEY.jpg with KEY.txt; one look at the first picture tells."""
    first = next((file for file in place.files() if file.suffix in PICTURES), None)
    return first is not None and captions.text_beside(first).is_file


def tell_format(options: Options) -> str:
    """The format of a data set by its first good row. Raises BodaError that shows the formats there are."""
    place = options.place
    if place.suffix == ".parquet":
        return "parquet"
    if place.is_folder:
        return "captions"
    first_bad, row = "", None
    for _, row in _guarded(FORMATS["csv"].rows, options):
        if isinstance(row, dict):
            break
        first_bad = first_bad or f"; the first: {row.why}"
    if not isinstance(row, dict):
        raise BodaError(f"{place}: there is no row in it that can be read{first_bad}")
    if options.question and options.answer:
        return "csv"
    names = {*row, *options.columns}
    for name, kind in FORMATS.items():
        if kind.recognises(names):
            return name
    columns = ", ".join(map(str, row))
    raise BodaError(f"{place} is in no format that can be told by its columns ({columns}); formats are:\n{describe_formats()}")


def describe_formats() -> str:
    """One line for each format: its name and what a row looks like."""
    return "\n".join(f"  {name:<9} {kind.looks_like}" for name, kind in FORMATS.items())


def resolve_data(path: str | Path, data_dir: str | Path | None = None, beside: str | Path | None = None) -> Path:
    """Where a data set lies: an absolute path as it is, else in `data_dir`, then $BODA_DATA, then beside the recipe.

    Raises:
        BodaError: it is nowhere; lists the places.
    """
    if "://" in str(path):
        raise BodaError(f"{path} is not on this machine; download it (hf download, wget) and give the folder")
    path = Path(path).expanduser()
    if path.is_absolute():
        tried = [path]
    else:
        folders = (data_dir, os.environ.get("BODA_DATA"), beside)
        tried = [Path(folder) / path for folder in folders if folder] or [path]
    for candidate in tried:
        place = Place.of(candidate)
        if place.is_file or place.is_folder or (glob.has_magic(str(candidate)) and glob.glob(str(candidate))):
            return candidate
    places = "".join(f"\n  {candidate}" for candidate in tried)
    raise BodaError(f"no data at '{path}'; looked for:{places}\n--data DIR or BODA_DATA names the folder that holds it")
