"""Parquet as the `datasets` library writes it: pictures inside, read where they are needed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from boda.data.parquet import class_names, holds_pictures
from boda.data.rows import Rows
from boda.data.sample import ImageRef, Sample
from boda.data.sources import captions, parallel
from boda.data.sources.common import Options, Row, check_columns, table_samples
from boda.errors import WHY, BadRow, BodaError, explaining

# Columns that are read without being asked for.
FIELDS = {
    *("image", "images", "system", "tags", "id", "question", "answer", "text", "licence", "license", "LICENSE"),
    *("conversations", "messages", "instruction", "input", "output", "history"),
    *("prompt", "chosen", "rejected", "rejected_response"),
    *captions.CAPTIONS,
    *captions.IMAGES,
    *parallel.COLUMNS,
}


@contextlib.contextmanager
def _opened(options: Options) -> Iterator[Any]:
    """The file. Raises BodaError if it cannot be read."""
    import pyarrow
    import pyarrow.parquet

    if options.place.member:
        raise BodaError(f"{options.name}: Parquet is read in place and holds its own compression; unpack the archive")
    said = f"{options.name} is no Parquet file that can be read ({WHY}); fetch it again"
    with explaining(said, pyarrow.ArrowException, OSError), pyarrow.parquet.ParquetFile(options.place.path) as file:
        yield file


def column_names(options: Options) -> list[str]:
    """The names of all its columns."""
    with _opened(options) as file:
        return list(file.schema_arrow.names)


def rows(options: Options) -> Rows:
    """Rows a few at a time, only the columns in use; pictures become references into the file."""
    with _opened(options) as file:
        schema = file.schema_arrow
        pictures = [name for name in schema.names if holds_pictures(schema.field(name).type)]
        if len(pictures) == 1 and not {"image", "images"} & {*options.columns, *schema.names}:
            options.columns = {**options.columns, "image": pictures[0]}
        check_columns(options, schema.names)
        asked = {name for template in options.templates for name in template.columns} | set(options.columns.values())
        wanted = [name for name in schema.names if name in asked | FIELDS | set(options.keep)]
        names = class_names(schema)
        number = 0
        for batch in file.iter_batches(batch_size=64, columns=wanted, use_threads=False):
            for cells in batch.to_pylist():
                try:
                    for name in wanted:
                        if name in pictures:
                            cells[name] = _reference(options, cells[name], number, name)
                        elif name in names and cells[name] is not None:
                            cells[name] = names[name][cells[name]] if cells[name] >= 0 else None
                    yield number, cells
                except BodaError as error:
                    yield number, BadRow(options.name, number, name, str(error))
                number += 1


def _reference(options: Options, cell: Any, number: int, column: str) -> Any:
    """The cell with encoded pictures replaced by references, their headers checked while they are at hand."""
    if isinstance(cell, list):
        return [_reference(options, item, number, f"{column}[{index}]") for index, item in enumerate(cell)]
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if data is None:
        return cell
    if options.probe:
        options.check(ImageRef(data=data))
    return ImageRef(options.place.path, row=number, column=column)


def samples(row: Row) -> Iterable[Sample]:
    """Conversations where there is a column of them, else a question and an answer."""
    for name in ("messages", "conversations"):
        if name in row.cells:
            yield row.conversation(name, row.pictures("images", "image"))
            return
    yield from table_samples(row)
