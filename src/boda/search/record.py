"""The durable record of an index: rows in parts that are written once, and a manifest that says which parts count.

A part is a matrix (NAME.npy, float16) and a table (NAME.arrow); both are mapped into memory, so the record itself is what the
fast form takes exact vectors from. Rows are numbered in the order they came; a dropped one keeps its number.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from boda.errors import WHY, BodaError, explaining
from boda.search.store import Store

FORMAT, PART_ROWS, BLOCK = 1, 1 << 18, 1 << 13
NEW: dict[str, Any] = {"format": FORMAT, "version": 0, "complete": False, "dropped": None, "fast": None}
NUMBERS = ("_key", "_stamp", "_digest", "_source")  # columns that every version has, even the empty one


class Snapshot:
    """One version of the record, opened: `table`, `columns` that users kept, `alive` (rows,), and the vectors by row number.

    Raises FileNotFoundError where a part is gone, BodaError where one is damaged or the version is none of ours.
    """

    def __init__(self, store: Store, manifest: dict):
        import pyarrow as pa

        if manifest.get("format") != FORMAT:
            raise BodaError(f"{store.address} has format {manifest.get('format')}, this Boda reads {FORMAT}; build it anew")
        self.manifest, self.matrices = manifest, list[np.ndarray]()
        tables = [pa.Table.from_batches([], pa.schema([(name, pa.int64()) for name in NUMBERS]))]
        for part in manifest["parts"]:
            paths = [store.fetch(part["name"] + suffix) for suffix in (".npy", ".arrow")]
            with explaining(f"{paths[0]} or its .arrow is damaged ({WHY}); build the index anew", ValueError, EOFError):
                self.matrices.append(np.load(paths[0], mmap_mode="r"))
                tables.append(pa.ipc.open_file(pa.memory_map(paths[1])).read_all())
        self.table = pa.concat_tables(tables, promote_options="permissive")
        self.columns = [name for name in self.table.column_names if not name.startswith("_")]
        self.starts = np.cumsum([0, *map(len, self.matrices)])
        self.alive = np.ones(len(self), bool)
        if manifest["dropped"]:
            self.alive[np.load(store.fetch(manifest["dropped"]))] = False

    def __len__(self) -> int:
        return int(self.starts[-1])

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Vectors of rows: (k,) -> (k, dim) float32."""
        vectors = np.empty((len(rows), self.manifest["dim"]), np.float32)
        parts = np.searchsorted(self.starts, rows, "right") - 1
        for part in np.unique(parts):
            chosen = parts == part
            vectors[chosen] = self.matrices[part][rows[chosen] - self.starts[part]]
        return vectors

    def blocks(self, start: int = 0) -> Iterator[np.ndarray]:
        """All vectors from a row on, (k, dim) float32 at a time."""
        return (self.take(np.arange(first, min(first + BLOCK, len(self)))) for first in range(start, len(self), BLOCK))

    def finder(self, name: str) -> Callable[[int], int]:
        """From a value in a column of numbers to the living row that has it, -1 if none; 16 bytes a row."""
        rows = np.flatnonzero(self.alive)
        values = self.table[name].to_numpy()[rows]
        order = np.argsort(values, kind="stable")
        values, rows = values[order], rows[order]

        def find(value: int) -> int:
            place = int(np.searchsorted(values, value))
            return int(rows[place]) if place < len(values) and values[place] == value else -1

        return find


class Writer:
    """Appends to a record and drops from it; nothing counts before `commit`, and what was committed outlives a kill."""

    def __init__(self, store: Store, start: dict[str, Any]):
        self.store, self.published = store, store.manifest()
        self.manifest = json.loads(self.published) if self.published else {**NEW, "parts": [], **start}

    def snapshot(self) -> Snapshot:
        return Snapshot(self.store, self.manifest)

    def append(self, table, vectors: np.ndarray) -> None:
        """Add rows: a pyarrow table and (rows, dim) vectors. Small parts are merged with their neighbours."""
        parts = self.manifest["parts"]
        parts.append(self._write(table, [vectors]))
        while len(parts) > 1 and parts[-2]["rows"] < min(2 * parts[-1]["rows"], PART_ROWS):
            merged = Snapshot(self.store, {**self.manifest, "parts": parts[-2:], "dropped": None})
            parts[-2:] = [self._write(merged.table.combine_chunks(), merged.matrices)]

    def _write(self, table, vectors: Iterable[np.ndarray]) -> dict[str, Any]:
        import pyarrow as pa

        name = f"part-{uuid.uuid4().hex[:16]}"
        with pa.OSFile(str(self.store.folder / f"{name}.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        header = {"descr": "<f2", "fortran_order": False, "shape": (len(table), self.manifest["dim"])}
        with open(self.store.folder / f"{name}.npy", "wb") as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            for block in vectors:
                stream.write(np.ascontiguousarray(block, np.float16).data)
        return {"name": name, "rows": len(table)}

    def drop(self, rows: np.ndarray) -> None:
        if len(rows):
            before = self.manifest["dropped"]
            self.manifest["dropped"] = f"dropped-{uuid.uuid4().hex[:16]}.npy"
            earlier = np.load(self.store.fetch(before)) if before else rows
            np.save(self.store.folder / self.manifest["dropped"], np.union1d(rows, earlier))

    def commit(self, **changes: Any) -> None:
        """Make what was appended and dropped the next version."""
        self.manifest.update(changes, version=self.manifest["version"] + 1)
        self.published = self.store.publish(self.manifest, self.published)

    def rewrite(self) -> None:
        """Leave dropped rows out for good, which numbers the others anew. The next commit makes it count."""
        old = self.snapshot()
        self.manifest.update(parts=[], dropped=None, fast=None)
        for start in range(0, len(old), BLOCK):
            alive = old.alive[start : start + BLOCK]
            if alive.any():
                self.append(old.table.slice(start, BLOCK).filter(alive), old.take(start + np.flatnonzero(alive)))
