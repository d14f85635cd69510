"""Data sets as they lie on disk -> Samples. A new format is one file here and one line in FORMATS."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from boda.data.files import COMPRESSED_TARS, Place, matching
from boda.data.rows import Rows
from boda.data.sample import Sample
from boda.data.sources import alpaca, captions, csv, llava, messages, parquet, preference, sharegpt, text, webdataset
from boda.data.sources.bad_rows import BadRows
from boda.data.sources.common import PICTURES, Format, Options, Row
from boda.data.templates import Template, as_text
from boda.errors import BadRow, BodaError

# In the order they are asked whether a row is theirs: the first that says so reads it.
FORMATS: dict[str, Format] = {
    "preference": preference.FORMAT,
    "llava": llava.FORMAT,
    "sharegpt": sharegpt.FORMAT,
    "messages": messages.FORMAT,
    "alpaca": alpaca.FORMAT,
    "captions": captions.FORMAT,
    "csv": csv.FORMAT,
    "text": text.FORMAT,
    "parquet": parquet.FORMAT,
    "webdataset": webdataset.FORMAT,
}
# What other data sets call the fields of a format; the words in front are looked for first.
_ALIASES: dict[str, dict[str, str]] = {
    "preference": {
        "chosen": "chosen accepted preferred winner better 선택",
        "rejected": "rejected dispreferred loser worse 거절",
        "prompt": "prompt question instruction query input 질문",
    },
    "alpaca": {
        "instruction": "instruction prompt query question problem q input user 명령어 지시 질문 문제",
        "output": "output response answer completion reply solution target a assistant 응답 답변 정답 답",
    },
    "text": {"text": "text content document body passage article sentence review 본문 내용 글 문장"},
}
DATA_SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")

__all__ = ["DATA_SUFFIXES", "FORMATS", "BadRows", "guess", "read", "resolve_data"]


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
        path: a file, a folder, a pattern such as `train-*.parquet` or `laion-{00000..00041}.tar`, or these inside a zip or tar.
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
        name = format or tell_format(options)
        kind = FORMATS[name]
        if bad_rows is not None:
            bad_rows.formats[name] = None
        for number, cells in _guarded(parquet.rows if place.suffix == ".parquet" else kind.rows, options):
            seen += 1
            try:
                if isinstance(cells, BadRow):
                    raise cells
                if bad_rows is not None:
                    bad_rows.example = bad_rows.example or cells
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
        matches = [Place(name) for name in matching(path)]
        if not matches:
            raise BodaError(f"no data set at {path}")
        return matches
    depth = str(place).count("/") + 1
    if format == "webdataset" and place.is_archive:
        return [place]
    top = [file for file in place.files() if str(file).count("/") == depth]
    found = [file for file in top if file.suffix in DATA_SUFFIXES]
    shards = [file.path for file in top if file.path.endswith((".tar", *COMPRESSED_TARS)) and not place.inside]
    if shards and (format == "webdataset" or (format is None and not found and _first_picture(place) is None)):
        return [Place.of(path) for path in shards]
    tables = [file for file in found if file.suffix == ".parquet"]
    if format != "captions" and tables and len(tables) == len(found):
        return tables
    if format in (None, "captions") and (format or len(found) != 1) and _has_keys(place):
        return [place]
    if len(found) == 1:
        return found
    if not found and (format == "text" or (format is None and _first_picture(place) is None)):
        found = [file for file in place.files() if file.suffix == ".txt"]
        if found:
            return found
    names = ", ".join(str(file) for file in found[:9])
    raise BodaError(f"{path} holds {f'several data files ({names}); name one of them' if found else 'no data file'}")


def _has_keys(place: Place) -> bool:
    """Whether a folder holds KEY.jpg with KEY.txt; one look at the first picture tells."""
    first = _first_picture(place)
    return first is not None and captions.text_beside(first).is_file


def _first_picture(place: Place) -> Place | None:
    return next((file for file in place.files() if file.suffix in PICTURES), None)


def tell_format(options: Options) -> str:
    """The format of a data set by its first good row. Raises BodaError that shows the formats there are."""
    place = options.place
    templates = {name for name in ("question", "answer") if getattr(options, name)}
    if place.is_archive and place.suffix == ".tar" and (shard := webdataset.shard_index(place.path)).groups:
        return "webdataset" if shard.samples > len(shard.groups) / 2 else "captions"  # that is packed in any order
    if place.is_folder:
        return "captions"
    if place.suffix == ".txt":
        return "text"
    row = dict.fromkeys(parquet.column_names(options)) if place.suffix == ".parquet" else _first_row(options)
    if len(templates) == 2:
        return "csv"
    found = _told({*row, *options.columns, *templates}, place.suffix == ".parquet")
    if found:
        return found
    why = f"is in no format that can be told by its columns ({', '.join(map(str, row))}){guess(row)}"
    raise BodaError(f"{place} {why}; formats are:\n{describe_formats()}")


def _first_row(options: Options) -> dict[str, Any]:
    first_bad = ""
    for _, row in _guarded(FORMATS["csv"].rows, options):
        if isinstance(row, dict):
            return row
        first_bad = first_bad or f"; the first: {row.why}"
    raise BodaError(f"{options.place}: there is no row in it that can be read{first_bad}")


def _told(names: set[str], packed: bool = False) -> str | None:
    """The format of rows with these columns; captions in Parquet are asked for by name."""
    known = ((name, kind) for name, kind in FORMATS.items() if not (packed and name == "captions"))
    return next((name for name, kind in known if kind.recognises(names)), None)


def guess(row: Mapping[str, Any], format: str | None = None) -> str:
    """What a row may be that nothing recognised, or that is not of the format given: "; it may be ...", or nothing."""
    if (told := _told(set(row))) not in (None, format):
        return f"; it looks like format '{told}'"
    for name, value in row.items():
        first = value[0] if isinstance(value, list) and value and isinstance(value[0], dict) else {}
        for ours, keys in (("conversations", {"from", "value"}), ("messages", {"role", "content"})):
            if keys <= set(first) and name != ours:
                return f"; it may be '{'sharegpt' if 'from' in keys else ours}' with columns {ours}={name}"
    names = {str(name).lower(): str(name) for name in row}
    for kind, fields in _ALIASES.items():
        found = {ours: next((names[word] for word in words.split() if word in names), None) for ours, words in fields.items()}
        if all(found.values()) and len(set(found.values())) == len(found) and kind != format:
            mapped = ", ".join(f"{ours}={theirs}" for ours, theirs in found.items() if ours != theirs)
            return f"; it may be '{kind}'" + (f" with columns {mapped}" if mapped else "")
    return ""


def describe_formats() -> str:
    """One line for each format: its name and what a row looks like."""
    return "\n".join(f"  {name:<10} {kind.looks_like}" for name, kind in FORMATS.items())


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
        if place.is_file or place.is_folder or matching(candidate):
            return candidate
    places = "".join(f"\n  {candidate}" for candidate in tried)
    raise BodaError(f"no data at '{path}'; looked for:{places}\n--data DIR or BODA_DATA names the folder that holds it")
