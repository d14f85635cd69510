"""What an index is made from: pictures in a folder, an archive, tar shards, or named by a table, with what is kept of each."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from boda.data.files import Place
from boda.data.parquet import holds_pictures
from boda.data.sample import ImageRef
from boda.data.sources.common import PICTURES
from boda.errors import BodaError

TABLES = {".parquet": "parquet", ".csv": "csv", ".jsonl": "json", ".json": "json", ".arrow": "ipc", ".feather": "ipc"}


class Found(NamedTuple):
    """A picture, what changes when its file or its row does, and what is kept with it."""

    ref: ImageRef
    stamp: int
    values: dict[str, Any]


def hashed(*parts: str | bytes) -> int:
    """63 bits of a hash."""
    data = b"\0".join(part.encode(errors="surrogateescape") if isinstance(part, str) else part for part in parts)
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest()) >> 1


@lru_cache(maxsize=64)
def changed(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def pictures(images: str | None, table: str | None, image_column: str | None, keep: Sequence[str]) -> Iterator[Found]:
    """Everything a source holds, in a fixed order.

    Args:
        images: a folder (of pictures, tar shards or Parquet files), an archive, a pattern, or a Parquet file; with a table,
            where its picture names start from.
        table: a Parquet, CSV or JSON-lines file, or a folder of them: a row a picture.
        image_column: where the table has pictures or their names; told from its types unless given.
        keep: columns of the table, or fields of the KEY.json beside a picture.

    Raises:
        BodaError: nothing there, or no such column.
    """
    changed.cache_clear()
    names = glob.glob(images) if images and glob.has_magic(images) and not os.path.exists(images) else [images]
    places = [Place.of(os.path.abspath(name)) for name in sorted(filter(None, names))]
    if not table and places and all(_is_table(place) for place in places):
        table, places = [place.path for place in places], []  # type: ignore[assignment]
    if table:
        yield from _rows(table, places[0] if places else None, image_column, keep)
        return
    if not places or not all(place.is_folder for place in places):
        raise BodaError(f"no pictures at {images}: name a folder, a zip or tar, 'shards-*.tar', or a Parquet file")
    for place in places:
        for file in place.files():
            for each in file.files() if file.is_archive else (file,):
                if each.suffix in PICTURES:
                    ref, kept = ImageRef(each.path, each.member), _beside(each, keep) if keep else {}
                    yield Found(ref, hashed(changed(each.path), repr(kept)), kept)


def _is_table(place: Place) -> bool:
    if place.inside:
        return False
    inside = os.listdir(place.path) if os.path.isdir(place.path) else [place.path]
    return any(name.endswith(".parquet") for name in inside)


def _beside(place: Place, keep: Sequence[str]) -> dict[str, Any]:
    """Fields of KEY.json beside KEY.jpg, and `txt`, which is KEY.txt; numbers as they are, all else as text."""
    stem = (place.member or place.path).rpartition(".")[0]
    fields: dict[str, Any] = {}
    for suffix in ("json", "txt"):
        side = Place(place.path, f"{stem}.{suffix}") if place.member else Place(f"{stem}.{suffix}")
        if side.is_file:
            text = side.open().read().decode("utf-8", "replace")
            fields.update(json.loads(text) if suffix == "json" else {"txt": text.strip()})
    kept = {name: fields.get(name) for name in keep}
    return {
        name: float(value) if isinstance(value, (int, float)) else value if value is None else str(value)
        for name, value in kept.items()
    }


def _rows(table: Any, folder: Place | None, column: str | None, keep: Sequence[str]) -> Iterator[Found]:
    import pyarrow as pa
    import pyarrow.dataset

    first = str(table if isinstance(table, (str, Path)) else table[0])
    kind = TABLES.get(Path(first).suffix.lower(), "parquet")
    try:
        data = pyarrow.dataset.dataset(table, format=kind)
    except (OSError, pa.ArrowInvalid) as error:
        raise BodaError(f"{first} is no table that can be read: {error}") from error
    column = column or next((field.name for field in data.schema if holds_pictures(field.type)), None)
    if missing := [name for name in (column, *keep) if name not in data.schema.names]:
        wanted = f"no column '{missing[0]}'" if missing[0] else "no column of pictures (--image-column names it)"
        raise BodaError(f"{first} has {wanted}; it has {', '.join(data.schema.names)}")
    assert column is not None
    inside = holds_pictures(data.schema.field(column).type)
    read = list(dict.fromkeys(keep if inside else [column, *keep]))
    folder = folder or Place(os.path.dirname(os.path.abspath(first)))
    for fragment in data.get_fragments():
        row, path = 0, os.path.abspath(fragment.path)
        # Few rows at a time, none ahead: a column of pictures is read by row group when they are.
        for batch in fragment.to_batches(columns=read, batch_size=1024, batch_readahead=0, use_threads=False):
            for values in batch.to_pylist() if read else [{}] * batch.num_rows:
                if inside:
                    ref, since = ImageRef(path, row=row, column=column), changed(path)
                else:
                    place = folder.child(str(values[column]))
                    ref, since = ImageRef(place.path, place.member), changed(place.path)
                kept = {name: values[name] for name in keep}
                yield Found(ref, hashed(since, repr(kept)), kept)
                row += 1
