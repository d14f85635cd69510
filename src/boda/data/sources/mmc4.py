"""Interleaved documents as MMC4 publishes them (https://github.com/allenai/mmc4): sentences, pictures, how well each fits each.

What is kept, and where a picture stands, are OpenFlamingo's rules (open_flamingo/train/data.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from boda.data.files import Place, read_part
from boda.data.rows import Rows
from boda.data.sample import IN_JSON, ImageRef, Message, Part, Sample, base64_bytes
from boda.data.sources.common import Options, Row, file_rows, kind_of
from boda.data.sources.webdataset import Parts, shard_index, shard_rows
from boda.errors import BodaError, LeftOut

KILOBYTES = 10  # a picture has more
SIMILARITY = 0.24  # and fits its sentence so well at least
PICTURES = 6  # of a document at most


def rows(options: Options) -> Rows:
    """One row for each document: the json of each key of a tar, or the rows of a file whose pictures lie in a folder."""
    if options.place.is_archive and options.place.suffix == ".tar":
        return shard_rows(options, _problem, _cells)
    return file_rows(options)


def is_shard(place: Place) -> bool:
    """Whether a file is a tar of such documents; its first keys tell. One that cannot be read is none, which its reader says."""
    groups = []
    if place.is_archive and place.suffix == ".tar":
        with contextlib.suppress(BodaError):
            groups = shard_index(place.path).groups[:8]
    for _, _, parts in groups:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if {"text_list", "is_gpt"} & set(json.loads(read_part(place.path, *parts["json"]))):
                return True
    return False


def _problem(parts: Parts) -> str:
    return "" if "json" in parts else f"no document (.json); it has {', '.join(parts)}"


def _cells(options: Options, key: str, parts: Parts) -> dict:
    return {"json": ImageRef(options.place.path, key, offset=parts["json"][0], size=parts["json"][1])}


def samples(row: Row) -> Iterable[Sample]:
    """The document as an assistant's message of texts and pictures in turn. Raises LeftOut where a rule leaves it out."""
    pieces = _generated(row) if "is_gpt" in row.cells else _matched(row)
    parts = [Part("text", piece) if isinstance(piece, str) else Part("image") for piece in pieces if piece]
    yield row.sample([Message("assistant", tuple(parts))], [piece for piece in pieces if isinstance(piece, ImageRef)])


def _left_out(row: Row, why: str) -> LeftOut:
    return LeftOut(row.options.name, row.number, "image_info", why)


def _matched(row: Row) -> list[str | ImageRef]:
    """Sentences joined by spaces, each picture that is kept before the sentence it fits."""
    sentences = [row.text(sentence, "text_list") for sentence in _list(row, "text_list")]
    listed = _list(row, "image_info")
    found = {number: image for number, info in enumerate(listed) if (image := _picture(row, number, info))}
    if not found:
        raise _left_out(row, f"no picture of more than {KILOBYTES} kB")
    similarity, numbers = _similarity(row, len(listed), len(sentences)), list(found)
    pairs = [(numbers[place], sentence) for place, sentence in assign(similarity[numbers])]
    before = {sentence: found[number] for number, sentence in pairs if similarity[number, sentence] >= SIMILARITY}
    before = dict(list(before.items())[:PICTURES])
    if not before:
        raise _left_out(row, f"no picture with a similarity of {SIMILARITY} to its sentence")
    # Decided by the words alone, so that every process, run and form of the data decides alike.
    if len(before) == 1 and hashlib.sha256("\n".join(sentences).encode("utf-8", "replace")).digest()[0] % 2:
        raise _left_out(row, "a single picture, which half of such documents are left out for")
    pieces: list = [""]
    for number, sentence in enumerate(sentences):
        pieces += [before[number], ""] if number in before else []
        pieces[-1] += sentence + " "
    return [*pieces[:-1], pieces[-1][:-1]]


def _generated(row: Row) -> list[str | ImageRef]:
    """A ChatGPT-generated sequence, whose text holds `_!_IMAGE1_!_` where a picture stands."""
    pieces: list = re.split(r"(_!_IMAGE\d+_!_)", row.text(row.need("example"), "example"))[: 2 * PICTURES + 1]
    known = row.need("image_map")
    for number in range(1, len(pieces), 2):
        mark = pieces[number]
        if not (isinstance(known, dict) and isinstance(known.get(mark), dict)):
            raise row.bad("image_map", f"no picture {mark}, which stands in the text")
        pieces[number] = _inside(row, f"image_map/{mark}/base64_image", known[mark].get("base64_image"), -1)
    if len(pieces) == 1:
        raise _left_out(row, "no picture in its text")
    return pieces


def _list(row: Row, name: str) -> list:
    value = [] if row.cells.get(name) == [] else row.need(name)
    if not isinstance(value, list):
        raise row.bad(name, f"a list is needed; this is {kind_of(value)}")
    return value


def _similarity(row: Row, pictures: int, sentences: int) -> np.ndarray:
    value = row.need("similarity_matrix")
    with contextlib.suppress(ValueError, TypeError):  # rows of different lengths, words
        matrix = np.array(value, dtype=float)
        if matrix.shape == (pictures, sentences) and np.isfinite(matrix).all():
            return matrix
    raise row.bad("similarity_matrix", f"{pictures} rows (pictures) of {sentences} numbers (sentences) are needed")


def _picture(row: Row, number: int, info: Any) -> ImageRef | None:
    """The picture of an entry, if it was fetched and is large enough."""
    if not isinstance(info, dict):
        raise row.bad(f"image_info[{number}]", f"an object is needed; this is {kind_of(info)}")
    if "image_base64" in info:
        return _inside(row, f"image_info/{number}/image_base64", info["image_base64"])
    if isinstance(row.cells.get("json"), ImageRef):
        return None
    name = row.text(info.get("image_name"), f"image_info[{number}].image_name")
    # Published downloads lie in a folder that has the shard's number.
    shard, base = re.search(r"shard_(\d+)", Path(row.options.name).name), row.options.base
    folders = [base, base.child(shard[1])] if shard else [base]
    place = next((place for folder in folders if (place := folder.child(name)).is_file), None)
    image = ImageRef(place.path, place.member) if place else None
    return image and _large(row, f"image_info/{number}", image, image.read())


def _inside(row: Row, place: str, text: Any, least: int = KILOBYTES) -> ImageRef | None:
    """The picture that stands as base64 in the document's json, at this place."""
    held = row.cells.get("json")
    if not isinstance(held, ImageRef):
        raise row.bad(place, "pictures inside of documents are read from tar shards alone: pack each document as a KEY.json")
    try:
        data = base64_bytes(text)
    except BodaError as error:
        raise row.bad(place, str(error)) from error
    return _large(row, place, replace(held, member=f"{held.member}{IN_JSON}{place}"), data, least)


def _large(row: Row, place: str, image: ImageRef, data: bytes, least: int = KILOBYTES) -> ImageRef | None:
    if len(data) // 1000 <= least:
        return None
    try:
        if row.options.probe:
            from boda.data.images import probe_image

            probe_image(data)
    except BodaError as error:
        raise row.bad(place, str(error)) from error
    return image


def assign(similarity: np.ndarray) -> list[tuple[int, int]]:
    """(n, m) finite numbers -> min(n, m) pairs (row, column), none twice, whose sum is the largest there is; by row.

    The Hungarian method: row after row is given a column, others being moved along the cheapest path.
    """
    rows, columns = similarity.shape
    if rows > columns:
        return sorted((row, column) for column, row in assign(similarity.T))
    of_row, of_column = np.zeros(rows), np.zeros(columns + 1)  # what is subtracted from the costs
    owner = np.full(columns + 1, -1)  # the row that has a column; a new row begins at one of its own, behind the others
    for row in range(rows):
        owner[columns], column = row, columns
        before, least = np.full(columns, columns), np.full(columns, np.inf)
        seen = np.zeros(columns + 1, dtype=bool)
        while owner[column] >= 0:
            seen[column] = True
            cost = -similarity[owner[column]] - of_row[owner[column]] - of_column[:columns]
            better = ~seen[:columns] & (cost < least)
            least[better], before[better] = cost[better], column
            column = int(np.where(seen[:columns], np.inf, least).argmin())
            step = least[column]
            of_row[owner[seen]] += step
            of_column[seen] -= step
            least[~seen[:columns]] -= step
        while column != columns:
            owner[column], column = owner[before[column]], before[column]
    return sorted((int(owner[column]), column) for column in range(columns) if owner[column] >= 0)
