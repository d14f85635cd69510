"""What an index is made from: pictures in a folder, an archive, tar shards, or named by a table, with what is kept of each."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from boda.data.files import Place
from boda.data.parquet import holds_pictures
from boda.data.sample import ImageRef
from boda.data.sources.common import PICTURES
from boda.errors import BodaError

TABLES = {".csv": "csv", ".jsonl": "json", ".json": "json"}


class Found(NamedTuple):
    """A picture, a number that changes when its file or its row does, and what is kept with it."""

    ref: ImageRef
    stamp: int
    values: dict[str, Any]


def hashed(*parts: str | bytes) -> int:
    """63 bits of a hash."""
    data = b"\0".join(part.encode(errors="surrogateescape") if isinstance(part, str) else part for part in parts)
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest()) >> 1


def found(ref: ImageRef, values: dict[str, Any]) -> Found:
    return Found(ref, hashed(_file(ref.path), repr(values)), values)


@lru_cache(maxsize=64)
def _file(path: str) -> str:
    """Size and time of a file; nothing where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def pictures(images: Any, table: str | None, image_column: str | None, keep: Sequence[str]) -> Iterator[Found]:
    """Everything a source holds, in a fixed order; `Index.build` says what it may be.

    Raises BodaError: nothing there, or no such column.
    """
    _file.cache_clear()
    if images is not None and not isinstance(images, str):
        for each in images:
            picture, values = each if isinstance(each, tuple) else (each, {})
            yield found(picture if isinstance(picture, ImageRef) else ImageRef(os.path.abspath(picture)), values)
        return
    names = sorted(glob.glob(images)) if images and glob.has_magic(images) else [images] if images else []
    places = [Place.of(name) for name in names]
    if table or (places and all(_is_table(place) for place in places)):
        yield from _rows(table or [place.path for place in places], places[0] if table and places else None, image_column, keep)
        return
    if not places or not all(place.is_folder for place in places):
        raise BodaError(f"no pictures at {images}: name a folder, a zip or tar, 'shards-*.tar', or a Parquet file")
    for place in places:
        for file in place.files():
            for each in file.files() if file.is_archive else (file,):
                if each.suffix in PICTURES:
                    yield found(ImageRef(each.path, each.member), _beside(each, keep) if keep else {})


def _is_table(place: Place) -> bool:
    inside = os.listdir(place.path) if os.path.isdir(place.path) else [place.path]
    return not place.inside and any(name.endswith(".parquet") for name in inside)


def _beside(place: Place, keep: Sequence[str]) -> dict[str, Any]:
    """Fields of KEY.json beside KEY.jpg, and `txt`, which is KEY.txt; numbers as they are, all else as text."""
    stem, fields = str(place.member or place.path).rpartition(".")[0], dict[str, Any]()
    for suffix in ("json", "txt"):
        side = Place(place.path, f"{stem}.{suffix}") if place.member else Place(f"{stem}.{suffix}")
        if side.is_file:
            text = side.open().read().decode("utf-8", "replace")
            fields.update(json.loads(text) if suffix == "json" else {"txt": text.strip()})
    kept = {name: fields.get(name) for name in keep}
    return {name: float(x) if isinstance(x, (int, float)) else x if x is None else str(x) for name, x in kept.items()}


def _rows(table: Any, folder: Place | None, column: str | None, keep: Sequence[str]) -> Iterator[Found]:
    import pyarrow as pa
    import pyarrow.dataset

    first = table if isinstance(table, str) else table[0]
    try:
        data = pyarrow.dataset.dataset(table, format=TABLES.get(Path(first).suffix.lower(), "parquet"))
    except (OSError, pa.ArrowInvalid) as error:
        raise BodaError(f"{first} is no table that can be read: {error}") from error
    column = column or next((field.name for field in data.schema if holds_pictures(field.type)), "")
    if missing := [name for name in (column, *keep) if name not in data.schema.names]:
        wanted = f"column '{missing[0]}'" if missing[0] else "column of pictures (--image-column names that of their names)"
        raise BodaError(f"{first} has no {wanted}; it has {', '.join(data.schema.names)}")
    inside = holds_pictures(data.schema.field(column).type)
    read = list(dict.fromkeys(keep if inside else [column, *keep]))
    folder = folder or Place(os.path.dirname(first))
    for fragment in data.get_fragments():
        row, path = 0, os.path.abspath(fragment.path)
        # Few rows at a time, none ahead; pictures in a column are read by row group, when they are wanted.
        for batch in fragment.to_batches(columns=read, batch_size=1024, batch_readahead=0, use_threads=False):
            rows: Iterable[dict] = batch.to_pylist() if read else [{}] * batch.num_rows
            for values in rows:
                place = Place(path) if inside else folder.child(str(values[column]))
                ref = ImageRef(path, row=row, column=column) if inside else ImageRef(place.path, place.member)
                yield found(ref, {name: values[name] for name in keep})
                row += 1
