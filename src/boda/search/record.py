"""The durable record of an index: rows in parts that are written once, and a manifest that says which parts count.

A part is a matrix (NAME.npy, float16) and a table (NAME.arrow); both are mapped into memory, so the record itself is what the
fast form takes exact vectors from. Rows are numbered in the order they came; a dropped one keeps its number.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from boda.errors import BodaError
from boda.search.store import Store

FORMAT = 1
NEW: dict[str, Any] = {"format": FORMAT, "version": 0, "complete": False, "dropped": None, "fast": None}
PART_ROWS, BLOCK = 1 << 18, 1 << 13


class Snapshot:
    """One version of the record, opened: `table`, `alive` (rows,), and the vectors by row number."""

    def __init__(self, store: Store, manifest: dict):
        import pyarrow as pa

        self.manifest = manifest
        self.matrices: list[np.ndarray] = []
        tables = []
        for part in manifest["parts"]:
            paths = [store.fetch(part["name"] + suffix) for suffix in (".npy", ".arrow")]
            try:
                self.matrices.append(np.load(paths[0], mmap_mode="r"))
                tables.append(pa.ipc.open_file(pa.memory_map(paths[1])).read_all())
            except ValueError as error:
                raise BodaError(f"{paths[0]} or its .arrow is damaged ({error}); build the index anew") from error
        self.table = pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({})
        self.columns = [name for name in self.table.column_names if not name.startswith("_")]
        self.starts = np.cumsum([0, *map(len, self.matrices)])
        self.alive = np.ones(len(self), bool)
        if manifest["dropped"]:
            self.alive[np.load(store.fetch(manifest["dropped"]))] = False

    @classmethod
    def read(cls, store: Store, data: bytes) -> Snapshot:
        """The version a manifest describes. Raises BodaError if it is none of ours."""
        manifest = json.loads(data)
        if manifest.get("format") != FORMAT:
            raise BodaError(f"{store.address} has format {manifest.get('format')}, this Boda reads {FORMAT}; build it anew")
        return cls(store, manifest)

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
        for matrix, offset in zip(self.matrices, self.starts):
            for first in range(max(0, start - offset), len(matrix), BLOCK):
                yield matrix[first : first + BLOCK].astype(np.float32)

    def column(self, name: str) -> np.ndarray:
        """A column of numbers, (rows,)."""
        return self.table[name].to_numpy() if len(self) else np.zeros(0, np.uint64)


class Writer:
    """Appends to a record and drops from it; nothing counts before `commit`, and what was committed outlives a kill."""

    def __init__(self, store: Store, start: dict[str, Any]):
        self.store, self.published = store, store.manifest()
        self.manifest = json.loads(self.published) if self.published else {**NEW, "parts": [], **start}
        self.dropped: list[np.ndarray] = []

    def snapshot(self) -> Snapshot:
        return Snapshot(self.store, self.manifest)

    def append(self, table, vectors: np.ndarray) -> None:
        """Add rows: a pyarrow table and (rows, dim) vectors. Small parts are merged with their neighbours."""
        parts = self.manifest["parts"]
        parts.append(self._write(table, [vectors]))
        while len(parts) > 1 and parts[-2]["rows"] < min(2 * parts[-1]["rows"], PART_ROWS):
            merged = Snapshot(self.store, {**self.manifest, "parts": parts[-2:], "dropped": None})
            parts[-2:] = [self._write(merged.table, merged.matrices)]

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
            size = stream.tell() + (self.store.folder / f"{name}.arrow").stat().st_size
        return {"name": name, "rows": len(table), "bytes": size}

    def drop(self, rows: np.ndarray) -> None:
        self.dropped.append(np.asarray(rows, np.int64))

    def commit(self, **changes: Any) -> None:
        """Make what was appended and dropped the next version."""
        self.manifest.update(changes, version=self.manifest["version"] + 1, written=time.time())
        if any(map(len, self.dropped)):
            before = self.manifest["dropped"]
            rows = np.unique(np.concatenate([*self.dropped, *([np.load(self.store.fetch(before))] if before else [])]))
            self.manifest["dropped"] = f"dropped-{uuid.uuid4().hex[:16]}.npy"
            np.save(self.store.folder / self.manifest["dropped"], rows)
            self.dropped = []
        self.published = self.store.publish(self.manifest, self.published)

    def rewrite(self) -> None:
        """Leave dropped rows out for good, which numbers the others anew. The next commit makes it count."""
        old = self.snapshot()
        self.manifest.update(parts=[], dropped=None, fast=None)
        for start in range(0, len(old), PART_ROWS):
            rows = start + np.flatnonzero(old.alive[start : start + PART_ROWS])
            if len(rows):
                blocks = (old.take(rows[first : first + BLOCK]) for first in range(0, len(rows), BLOCK))
                self.manifest["parts"].append(self._write(old.table.take(rows), blocks))
