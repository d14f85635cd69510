"""Single cells of Parquet files, and what their columns are. pyarrow is imported when one is read."""

from __future__ import annotations

import bisect
import itertools
import json
import os
import threading
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import Any

from boda.errors import BodaError


def read_cell(path: str, row: int, column: str) -> bytes:
    """The encoded picture in one cell; `images[1]` is the second of a list.

    Raises KeyError, IndexError: no such row or item; BodaError: the cell holds no picture, or the file cannot be read.
    """
    name, _, item = column.removesuffix("]").partition("[") if column.endswith("]") else (column, "", "")
    starts = _row_group_starts(path)
    if not 0 <= row < starts[-1]:
        raise KeyError(row)
    group = bisect.bisect_right(starts, row) - 1
    cell = _ROW_GROUPS.get(path, group, name)[row - starts[group]].as_py()
    if item:
        cell = cell[int(item)]
    if isinstance(cell, dict):  # the `datasets` Image feature: {bytes, path}
        if cell.get("bytes") is not None:
            return cell["bytes"]
        return (Path(path).parent / str(cell.get("path"))).read_bytes()
    if isinstance(cell, bytes):
        return cell
    raise BodaError(f"{path}, row {row}: column '{column}' holds {type(cell).__name__}, not a picture")


@lru_cache(maxsize=256)
def _row_group_starts(path: str) -> tuple[int, ...]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        lengths = (file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups))
        return (0, *itertools.accumulate(lengths))


class _RowGroups:
    """The columns of row groups read last, as many as fit in `budget` bytes (one at least)."""

    def __init__(self, budget: int):
        self.budget = budget
        self.kept: OrderedDict[tuple[str, int, str], Any] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, path: str, group: int, column: str):
        with self.lock:
            key = (path, group, column)
            if key not in self.kept:
                import pyarrow.parquet

                # One thread: worker processes read at the same time, and a pool would not survive their fork.
                with pyarrow.parquet.ParquetFile(path, memory_map=True) as file:
                    self.kept[key] = file.read_row_group(group, columns=[column], use_threads=False)[column]
                while len(self.kept) > 1 and sum(values.nbytes for values in self.kept.values()) > self.budget:
                    self.kept.popitem(last=False)
            self.kept.move_to_end(key)
            return self.kept[key]


_ROW_GROUPS = _RowGroups(budget=256 << 20)
if hasattr(os, "register_at_fork"):  # a lock that another thread held at the fork would never be released in the child
    os.register_at_fork(after_in_child=lambda: setattr(_ROW_GROUPS, "lock", threading.Lock()))


def holds_pictures(type_: Any) -> bool:
    """Whether a column of this Arrow type holds encoded pictures: bytes, `datasets` Image structs, or lists of them."""
    import pyarrow.types as types

    if types.is_list(type_) or types.is_large_list(type_):
        return holds_pictures(type_.value_type)
    if types.is_struct(type_):
        return type_.get_field_index("bytes") >= 0
    return types.is_binary(type_) or types.is_large_binary(type_)


def class_names(schema: Any) -> dict[str, list[str]]:
    """Names behind the numbers of `datasets`' ClassLabel columns."""
    info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {})
    features = info.get("features", {})
    return {name: value["names"] for name, value in features.items() if isinstance(value, dict) and "names" in value}
