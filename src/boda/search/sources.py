"""What an index is made from: pictures in a folder, an archive, tar shards, or named by a table, with what is kept of each."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boda.data.files import Place, matching
from boda.data.parquet import holds_pictures
from boda.data.sample import ImageRef
from boda.data.sources.captions import text_beside
from boda.data.sources.common import PICTURES
from boda.errors import WHY, BodaError, explaining

TABLES = {".csv": "csv", ".jsonl": "json", ".json": "json"}


@dataclass
class Found:
    """A picture of a source with what is kept of it, and what a build finds out about it."""

    ref: ImageRef
    values: dict[str, Any]
    key: int = 0  # which picture it is
    digest: int = 0  # of its bytes
    got: Any = None  # why it cannot be read, or its pixels and then its vector

    def __post_init__(self):
        file = ""
        with contextlib.suppress(OSError):
            status = os.stat(self.ref.path)
            file = f"{status.st_size} {status.st_mtime_ns}"
        self.stamp = hashed(file, repr(self.values))  # changes when its file or its row does


def hashed(*parts: str | bytes) -> int:
    """63 bits of a hash."""
    data = b"\0".join(part.encode(errors="surrogateescape") if isinstance(part, str) else part for part in parts)
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest()) >> 1


def pictures(images: Any, table: str | None, image_column: str | None, keep: Sequence[str]) -> Iterator[Found]:
    """Everything a source holds, in a fixed order; `Index.build` says what it may be.

    Raises BodaError: nothing there, or no such column.
    """
    if not isinstance(images, str | None):
        for each in images:
            picture, values = each if isinstance(each, tuple) else (each, {})
            yield Found(picture if isinstance(picture, ImageRef) else ImageRef(os.path.abspath(picture)), values)
        return
    places = [Place.of(name) for name in matching(images) or [images]] if images else []
    if table:
        for path in _tables(Place(table)) or [table]:
            yield from _rows(path, places[0] if places else None, image_column, keep)
        return
    for place in places:
        if tables := _tables(place):
            for path in tables:
                yield from _rows(path, None, image_column, keep)
        elif place.is_folder:
            for file in place.files():
                for each in file.files() if file.is_archive else (file,):
                    if each.suffix in PICTURES:
                        yield Found(ImageRef(each.path, each.member), _fields(each, keep) if keep else {})
        else:
            raise BodaError(f"no pictures at {images}: name a folder, a zip or tar, 'shards-*.tar', or a Parquet file")


def _tables(place: Place) -> list[str]:
    """The Parquet files a path stands for: itself, or what lies in a folder that has some at its top."""
    if place.inside or not os.path.isdir(place.path):
        return [place.path] if not place.inside and place.suffix == ".parquet" else []
    has_some = any(name.endswith(".parquet") for name in os.listdir(place.path))
    return [file.path for file in place.files() if file.suffix == ".parquet"] if has_some else []


def _fields(picture: Place, keep: Sequence[str]) -> dict[str, Any]:
    """Fields of KEY.json beside KEY.jpg, and `txt`, which is KEY.txt; numbers as they are, all else as text."""
    fields = dict[str, Any]()
    if (side := text_beside(picture, ".json")).is_file:
        with explaining(f"{side} is no JSON object ({WHY}); mend it, or build without --keep", ValueError, TypeError):
            fields |= json.load(side.open())
    if (text := text_beside(picture)).is_file:
        fields["txt"] = text.open().read().decode("utf-8", "replace").strip()
    kept = {name: fields.get(name) for name in keep}
    return {name: float(x) if isinstance(x, int | float) else x if x is None else str(x) for name, x in kept.items()}


def _rows(table: str, folder: Place | None, column: str | None, keep: Sequence[str]) -> Iterator[Found]:
    """The rows of a table; the names in it start from `folder`, its own unless given."""
    import pyarrow as pa
    import pyarrow.dataset

    with explaining(f"{table} is no table that can be read: {WHY}", OSError, pa.ArrowInvalid):
        data = pyarrow.dataset.dataset(table, format=TABLES.get(Path(table).suffix.lower(), "parquet"))
    column = column or next((field.name for field in data.schema if holds_pictures(field.type)), "")
    if missing := [name for name in (column, *keep) if name not in data.schema.names]:
        wanted = f"column '{missing[0]}'" if missing[0] else "column of pictures (--image-column names that of their names)"
        raise BodaError(f"{table} has no {wanted}; it has {', '.join(data.schema.names)}")
    inside, folder, row = holds_pictures(data.schema.field(column).type), folder or Place(os.path.dirname(table)), 0
    read = list(dict.fromkeys(keep if inside else [column, *keep]))
    # Few rows at a time, none ahead; pictures in a column are read by row group, when they are wanted.
    for batch in data.to_batches(columns=read, batch_size=1024, batch_readahead=0, fragment_readahead=0, use_threads=False):
        for values in batch.to_pylist() if read else [{}] * batch.num_rows:
            place = Place(table) if inside else folder.child(str(values[column]))
            ref = ImageRef(table, row=row, column=column) if inside else ImageRef(place.path, place.member)
            yield Found(ref, {name: values[name] for name in keep})
            row += 1
