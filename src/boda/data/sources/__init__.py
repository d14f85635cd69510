"""Data sets as they lie on disk -> Samples. A new format is a function (row -> samples) here and an entry in FORMATS."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from boda.data.files import COMPRESSED_TARS, Place, matching
from boda.data.rows import Rows
from boda.data.sample import Sample
from boda.data.sources import captions, conversations, mmc4, parallel, parquet, text, webdataset
from boda.data.sources.common import PICTURES, BadRows, Format, NoBadRows, Options, Row, file_rows, table_samples
from boda.data.templates import Template, as_text
from boda.errors import WHY, BadRow, BodaError, LeftOut, explaining

# In the order they are asked whether a row is theirs: the first that says so reads it.
FORMATS: dict[str, Format] = {
    "preference": Format(
        '{"prompt": "수도는?", "chosen": "서울입니다.", "rejected": "부산입니다."}, each a text or a list of turns',
        conversations.preference,
        ({"rejected", "rejected_response"}, {"chosen", "messages"}),
    ),
    "llava": Format(
        '{"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\n뭐죠?"}, {"from": "gpt", ...}]}',
        conversations.llava,
        ({"conversations"}, {"image", "images"}),
    ),
    "sharegpt": Format(
        '{"conversations": [{"from": "human", "value": "안녕?"}, {"from": "gpt", "value": "안녕하세요."}]}, no "image"',
        conversations.sharegpt,
        ({"conversations"},),
    ),
    "messages": Format(
        '{"messages": [{"role": "user", "content": "<image>무엇인가요?"}, {"role": "assistant", ...}], "images": ["a.jpg"]}',
        conversations.messages,
        ({"messages"},),
    ),
    "kullm": Format(
        '{"instruction": "옮겨 주세요.", "instances": [{"input": "사과", "output": "apple"}]}, or rows as of alpaca',
        conversations.kullm,
        ({"instruction"}, {"instances"}),
    ),
    "koalpaca": Format(
        '{"instruction": "수도는?", "output": "서울입니다.", "url": "..."}, or {"text": "### 질문: ...\\n\\n### 답변: ..."}',
        conversations.koalpaca,
        ({"instruction"}, {"output"}, {"url"}),
    ),
    "alpaca": Format(
        '{"instruction": "옮겨 주세요.", "input": "사과", "output": "apple"}, where "input" may be empty or absent',
        conversations.alpaca,
        ({"instruction"}, {"output"}),
    ),
    "captions": Format(
        '{"image": "a.jpg", "caption": "고양이 한 마리"} (or "captions": [...]), or a folder of KEY.jpg and KEY.txt',
        captions.samples,
        (set(captions.CAPTIONS), set(captions.IMAGES)),
        captions.rows,
    ),
    "csv": Format(
        'a line of column names, then rows; with question="{Q}" and answer="{A}", or columns named question and answer',
        table_samples,
        ({"question"}, {"answer"}),
    ),
    "text": Format(
        '{"text": "긴 글 하나."}, or .txt files with documents between blank lines (without any: one a line)',
        text.samples,
        ({"text"},),
        text.rows,
    ),
    "links": Format(
        '{"ko": "세종대왕", "en": "King Sejong"}, names, with texts on them: "ko_text": "...", "en_text": "..."',
        parallel.link_samples,
        (set(parallel.SIDES["ko"]), set(parallel.SIDES["en"]), {"ko_text", "en_text"}),
    ),
    "parallel": Format(
        '{"ko": "안녕하세요.", "en": "Hello."}, or two files with a line for a line: NAME.{ko,en}',
        parallel.samples,
        (set(parallel.SIDES["ko"]), set(parallel.SIDES["en"])),
        parallel.rows,
    ),
    "mmc4": Format(
        '{"text_list": ["문장.", ...], "image_info": [...], "similarity_matrix": [[0.3, ...], ...]}, or tar shards of KEY.json',
        mmc4.samples,
        ({"text_list"}, {"image_info"}),
        mmc4.rows,
    ),
    # These two are told by the file, not by its columns.
    "parquet": Format(
        "a .parquet file with columns messages or conversations, or any columns with question= and answer= templates",
        parquet.samples,
        rows=parquet.rows,
    ),
    "webdataset": Format(
        "tar shards of KEY.jpg, KEY.txt and KEY.json: laion-{00000..00041}.tar, or a folder of them",
        webdataset.samples,
        rows=webdataset.rows,
    ),
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
HUB = "hf://"
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

    Raises BadRow: a row cannot be used and `bad_rows` is None; BodaError: the data set as a whole cannot be read.
    """
    if format is not None and format not in FORMATS:
        raise BodaError(f"unknown format '{format}'; formats are:\n{describe_formats()}")
    folder = None if images is None else Place.of(images)
    if folder and not folder.is_folder:
        raise BodaError(f"images: {images} is no folder, zip or tar")
    wanted = {name: values if isinstance(values, (list, tuple)) else [values] for name, values in (where or {}).items()}
    places = _data_files(Path(path), format)
    options = Options(
        places[0],
        images=folder,
        columns=dict(columns or {}),
        question=None if question is None else Template(question),
        answer=None if answer is None else Template(answer),
        keep={name: [as_text(value) for value in values] for name, values in wanted.items()},
        licence=licence,
        probe=probe,
        trainable=trainable,
    )
    return _read(places, format, options, limit, NoBadRows() if bad_rows is None else bad_rows)


def _read(places: list[Place], format: str | None, asked: Options, limit: int | None, bad_rows: BadRows) -> Iterator[Sample]:
    count = seen = 0
    others: dict[str, None] = {}  # values of rows that `where` leaves out, for the message if it leaves out all
    for place in places:
        options = replace(asked, place=place)
        name = format or tell_format(options)
        bad_rows.formats[name] = None
        for number, cells in _guarded(parquet.rows if place.suffix == ".parquet" else FORMATS[name].rows, options):
            seen += 1
            made: list[Sample] = []
            try:
                if isinstance(cells, BadRow):
                    raise cells
                bad_rows.example = bad_rows.example or cells
                row = Row(number, cells, options)
                if not row.is_kept():
                    if len(others) < 8:
                        others[", ".join(f"{name} = {as_text(cells[name])}" for name in options.keep)] = None
                    continue
                made = list(FORMATS[name].samples(row))  # all of them or none
            except LeftOut as out:
                bad_rows.left_out[out.why] += 1
                continue
            except BadRow as bad:
                bad_rows.add(bad)
            bad_rows.seen += 1
            for sample in made[: None if limit is None else limit - count]:
                count += 1
                yield sample
            if limit is not None and count >= limit:
                return
    if not seen:
        raise BodaError(f"{', '.join(map(str, places[:3]))}: there are no rows in it")
    if others and not count and not bad_rows:
        kept = " and ".join(f"{name} = {' or '.join(values)}" for name, values in asked.keep.items())
        raise BodaError(f"{places[0]}: none of {seen} rows has {kept}; there are {'; '.join(others)}")
    if bad_rows.left_out and not count and not bad_rows:
        rules = "; ".join(f"{why} ({number:,})" for why, number in bad_rows.left_out.items())
        raise BodaError(f"{places[0]}: all of {seen:,} documents are left out: {rules}")


def _guarded(rows, options: Options) -> Rows:
    # A torn gzip or archive shows only where it is torn.
    with explaining(f"{options.name} is cut off or damaged ({WHY}); fetch it again", EOFError, OSError, zlib.error):
        yield from rows(options)


def _data_files(path: Path, format: str | None) -> list[Place]:
    """The files that a path stands for. Raises BodaError if that is not clear."""
    place = Place.of(path)
    if place.is_file or (format in (None, "parallel") and parallel.is_two_files(place)):
        return [place]
    if not place.is_folder:
        if matches := [Place(name) for name in matching(path)]:
            return [
                file for each in matches for file in (_data_files(Path(each.path), format) if each.suffix == ".zip" else [each])
            ]
        raise BodaError(f"no data set at {path}")
    is_shard = format == "webdataset" or (format == "mmc4" and place.suffix == ".tar") or (not format and mmc4.is_shard(place))
    if place.is_archive and is_shard:
        return [place]
    picture = next((file for file in place.files() if file.suffix in PICTURES), None)
    depth = str(place).count("/") + 1
    top = [file for file in place.files() if str(file).count("/") == depth]
    found = [file for file in top if file.suffix in DATA_SUFFIXES and not str(file).endswith("/shards.json")]
    shards = [file.path for file in top if file.path.endswith((".tar", *COMPRESSED_TARS)) and not place.inside]
    if shards and (format in ("webdataset", "mmc4") or (format is None and not found and picture is None)):
        return [Place.of(path) for path in shards]
    tables = [file for file in found if file.suffix == ".parquet"]
    if format != "captions" and tables and len(tables) == len(found):
        return tables
    keys = picture is not None and captions.text_beside(picture).is_file  # KEY.jpg with KEY.txt
    if keys and (format == "captions" or (format is None and len(found) != 1)):
        return [place]
    if len(found) == 1:
        return found
    if not found and (format == "text" or (format is None and picture is None)):
        found = [file for file in place.files() if file.suffix == ".txt"]
        if found:
            return found
    names = ", ".join(str(file) for file in found[:9])
    raise BodaError(f"{path} holds {f'several data files ({names}); name one of them' if found else 'no data file'}")


def tell_format(options: Options) -> str:
    """The format of a data set by its first good row. Raises BodaError that shows the formats there are."""
    place = options.place
    if mmc4.is_shard(place):
        return "mmc4"
    templates = {name for name in ("question", "answer") if getattr(options, name)}
    if place.is_archive and place.suffix == ".tar" and (shard := webdataset.shard_index(place.path)).groups:
        return "webdataset" if shard.samples > len(shard.groups) / 2 else "captions"  # that is packed in any order
    if place.is_folder:
        return "captions"
    if parallel.is_two_files(place):
        return "parallel"
    if place.suffix == ".txt":
        return "text"
    row = dict.fromkeys(parquet.column_names(options)) if place.suffix == ".parquet" else _first_row(options)
    if len(templates) == 2:
        return "csv"
    if found := _told({*row, *options.columns, *templates}, place.suffix == ".parquet"):
        return found
    why = f"is in no format that can be told by its columns ({', '.join(map(str, row))}){guess(row)}"
    raise BodaError(f"{place} {why}; formats are:\n{describe_formats()}")


def _first_row(options: Options) -> dict[str, Any]:
    first_bad = ""
    for _, row in _guarded(file_rows, options):
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
    """Where a data set lies: an absolute path as it is, else in `data_dir`, then $BODA_DATA, then beside the recipe;
    `hf://ORGANISATION/NAME`, or a file or folder of it behind a further `/`: on the hub, fetched into its cache.

    Raises BodaError: it is nowhere; lists the places.
    """
    if address := re.fullmatch(r"hf://?([^/]+/[^/]+)/?(.*)", str(path)):
        return _of_hub(*address.groups())
    if "://" in str(path):
        raise BodaError(f"{path} is not on this machine; download it (hf download, wget) and give the folder")
    path = Path(path).expanduser()
    folders = (data_dir, os.environ.get("BODA_DATA"), beside)  # an absolute path is the same in each
    tried = list(dict.fromkeys(Path(folder) / path for folder in folders if folder)) or [path]
    for candidate in tried:
        place = Place.of(candidate)
        if place.is_file or place.is_folder or matching(candidate):
            return candidate
    places = "".join(f"\n  {candidate}" for candidate in tried)
    raise BodaError(f"no data at '{path}'; looked for:{places}\n--data DIR or BODA_DATA names the folder that holds it")


def _of_hub(name: str, inner: str) -> Path:
    from huggingface_hub import snapshot_download

    said = f"'{HUB}{name}' cannot be fetched ({WHY}); get it where there is a network, and name the file or folder"
    with explaining(said, Exception):
        folder = Path(snapshot_download(name, repo_type="dataset", allow_patterns=[inner, f"{inner}/*"] if inner else None))
    if not (folder / inner).exists():
        raise BodaError(f"{HUB}{name} has no '{inner}'")
    return folder / inner
