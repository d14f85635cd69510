"""Making an index and keeping it up to date: what is new is read, turned into vectors and committed bit by bit."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from boda.data.images import load_image
from boda.data.sample import ImageRef
from boda.errors import BodaError
from boda.search.fast import derive
from boda.search.record import Writer
from boda.search.sources import Found, changed, hashed, pictures

BATCH, FIRST_TOLD, COMMIT_ROWS, COMMIT_SECONDS = 64, 200, 4096, 60.0
SIDE = 512  # larger pictures are halved and halved again down to this side, which bounds the memory of a batch
Say = Callable[[str], None]


def prepared(source: Mapping[str, Any]) -> dict[str, Any]:
    """A source as the manifest keeps it; `stream` is there while one is read."""
    streamed = source["images"] is not None and not isinstance(source["images"], (str, Path))
    names = {
        name: source[name] and os.path.abspath(source[name]) for name in ("images", "table") if not streamed or name == "table"
    }
    kept: dict[str, Any] = {"images": None, **names, "image_column": source["image_column"], "keep": list(source["keep"])}
    return {**kept, "stream": source["images"]} if streamed else kept


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two sources hold the same pictures, whatever is kept of them."""
    return all(one[name] == other[name] for name in ("images", "table", "image_column"))


class _Known:
    """The rows of a version by key and by contents: three sorted columns of numbers, whatever the pictures are."""

    def __init__(self, writer: Writer):
        self.snapshot = writer.snapshot()
        self.rows = np.flatnonzero(self.snapshot.alive)
        self.columns = {}
        for name in ("_key", "_digest"):
            values = self.snapshot.column(name)[self.rows]
            order = np.argsort(values, kind="stable")
            self.columns[name] = values[order], self.rows[order]
        self.stamps = self.snapshot.column("_stamp")

    def row(self, name: str, value: int) -> int:
        """The row whose column has this value, -1 if none has."""
        values, rows = self.columns[name]
        place = int(np.searchsorted(values, value))
        return int(rows[place]) if place < len(values) and values[place] == value else -1


class Build:
    """One run over sources."""

    def __init__(self, writer: Writer, encoder: Any, say: Say):
        self.writer, self.encoder, self.say = writer, encoder, say
        self.known = _Known(writer)
        self.seen = np.zeros(len(self.known.snapshot), bool)
        self.done: list[tuple[int, Found, int, np.ndarray]] = []  # to be committed: key, picture, digest, vector
        self.pending: set[int] = set()
        self.counts = dict.fromkeys(("added", "updated", "unchanged", "dropped", "broken"), 0)
        self.walked, self.read, self.began, self.committed, self.total = 0, 0, time.monotonic(), time.monotonic(), 0

    def run(self, sources: list[dict[str, Any]]) -> dict[str, int]:
        """Reads the sources, drops what is gone from them, derives the fast form. Returns {n, added, updated, ...}."""
        manifest, store = self.writer.manifest, self.writer.store
        with open(store.folder / "broken.jsonl", "w", encoding="utf-8", errors="backslashreplace") as self.broken:
            for source in sources:
                self._source(source, manifest["sources"])
        if any(map(len, self.writer.dropped)) or (manifest["complete"], manifest["broken"]) != (True, self.counts["broken"]):
            self._commit()
            if len(self.known.rows) * 2 < len(self.known.snapshot):  # more than half of it is gone
                self.writer.rewrite()
            fast = derive(store, self.writer.snapshot())
            self.writer.commit(complete=True, fast=fast, broken=self.counts["broken"])
        return {"n": len(self.known.rows), **self.counts}

    def _source(self, source: dict[str, Any], sources: list[dict[str, Any]]) -> None:
        stream, self.walked, self.total, self.number = source.pop("stream", None), 0, 0, -1
        if stream is None:
            self.number = next((number for number, each in enumerate(sources) if same(each, source)), len(sources))
            held = sources[self.number : self.number + 1]
            source["keep"] = source["keep"] or [name for each in held for name in each["keep"]]
            sources[self.number : self.number + 1] = [source]
        self.count = lambda: sum(1 for _ in pictures(**{**source, "keep": ()})) if stream is None else 0
        before = self.counts["added"] + self.counts["updated"] + self.counts["unchanged"]
        fresh = self._fresh(pictures(**source) if stream is None else _streamed(stream))
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # the next batch is decoded while one is encoded
            waiting: deque[Iterator] = deque()
            while batch := list(itertools.islice(fresh, BATCH)):
                waiting.append(pool.map(self._read, batch))
                if len(waiting) > 1:
                    self._encode(waiting.popleft())
            while waiting:
                self._encode(waiting.popleft())
        if self.done:
            self._commit()
        name = source["table"] or source["images"] or "the stream"
        if not self.walked:  # a folder that is not mounted looks like this, so nothing is dropped for it
            raise BodaError(f"there are no pictures in {name}; nothing was changed")
        if self.counts["added"] + self.counts["updated"] + self.counts["unchanged"] == before:
            raise BodaError(f"none of {self.walked:,} pictures of {name} can be read; see {self.broken.name}; {self.why}")
        if stream is None:
            of_it = self.known.snapshot.column("_source")[: len(self.seen)] == self.number
            gone = np.flatnonzero(of_it & self.known.snapshot.alive[: len(self.seen)] & ~self.seen)
            self.counts["dropped"] += len(gone)
            self.writer.drop(gone)

    def _fresh(self, found: Iterable[Found]) -> Iterator[tuple[int, Found]]:
        """What is new or changed, with its key."""
        for each in found:
            self.walked += 1
            key = hashed(str(self.number), str(each.ref), str(each.values.get("id", "")))
            row = self.known.row("_key", key)
            if row >= 0 and self.known.stamps[row] == each.stamp:
                if row < len(self.seen) and not self.seen[row]:
                    self.seen[row] = True
                    self.counts["unchanged"] += 1
            elif key not in self.pending:
                self.pending.add(key)
                yield key, each

    def _read(self, item: tuple[int, Found]) -> tuple[int, Found, int, Any]:
        """Key, picture, digest, and what it gave: a vector known by its contents, pixels, or why it cannot be read."""
        key, each = item
        data = b""
        try:
            data = each.ref.read()
            row = self.known.row("_digest", digest := hashed(data))
            if row >= 0:
                return key, each, digest, self.known.snapshot.take(np.array([row]))[0]
            picture = load_image(data)
            return key, each, digest, picture.reduce(max(1, min(picture.size) // SIDE))
        except BodaError as error:
            return key, each, 0, str(error).replace(f"{len(data)} bytes in memory", str(each.ref))

    def _encode(self, results: Iterable[tuple[int, Found, int, Any]]) -> None:
        good, new = [], []
        for key, each, digest, found in results:
            self.read += 1
            if isinstance(found, str):
                self.counts["broken"] += 1
                self.why = found
                self.pending.discard(key)
                self.broken.write(json.dumps({"image": str(each.ref), "why": found}, ensure_ascii=False) + "\n")
                continue
            is_new = not isinstance(found, np.ndarray)
            new += [found] if is_new else []
            good.append((key, each, digest, None if is_new else found))
        vectors = iter(self.encoder.images(new) if new else ())
        self.done += [(key, each, digest, next(vectors) if found is None else found) for key, each, digest, found in good]
        if not self.total and self.read >= FIRST_TOLD:
            self.total = self.count() or -1
            self._tell()
        if len(self.done) >= COMMIT_ROWS or time.monotonic() - self.committed > COMMIT_SECONDS:
            self._commit()
            self._tell()

    def _tell(self) -> None:
        rate = self.read / (time.monotonic() - self.began)
        text = f"{self.walked:,} pictures, {rate:.1f} a second"
        size = 2 * self.writer.manifest["dim"] + 200
        if self.total > 0:
            left, size = max(0, self.total - self.walked) / rate, size * self.total
            text += f"; {self.total:,} in all: {left / 60:.0f} min left, {size / 1e6:,.0f} MB on disk"
        else:
            text += f"; {size / 1000:.1f} kB on disk each"
        self.say(text)

    def _commit(self) -> None:
        """What was read becomes a version, what it replaces is dropped with it."""
        import pyarrow as pa

        if self.done:
            keys, found, digests, vectors = zip(*self.done)
            columns: dict[str, Any] = {
                "_picture": [each.ref.to_json() for each in found],
                "_key": np.array(keys, np.int64),
                "_stamp": np.array([each.stamp for each in found], np.int64),
                "_digest": np.array(digests, np.int64),
                "_source": np.full(len(found), self.number, np.int32),
            }
            try:
                names = dict.fromkeys(name for each in found for name in each.values)
                table = pa.table({**columns, **{name: [each.values.get(name) for each in found] for name in names}})
                pa.unify_schemas([self.known.snapshot.table.schema, table.schema], promote_options="permissive")
            except (pa.ArrowException, ValueError) as error:
                raise BodaError(f"what is kept does not fit what the index holds or itself: {error}") from error
            replaced = [row for key in keys if (row := self.known.row("_key", key)) >= 0]
            self.counts["updated"] += len(replaced)
            self.counts["added"] += len(keys) - len(replaced)
            self.writer.append(table, np.stack(vectors))
            self.writer.drop(np.array(replaced, np.int64))
            self.pending.difference_update(keys)
            self.done = []
        self.writer.commit(complete=False)
        self.known, self.committed = _Known(self.writer), time.monotonic()


def _streamed(stream: Iterable) -> Iterator[Found]:
    """A stream's pictures, each with or without what is kept of it."""
    for each in stream:
        picture, values = each if isinstance(each, tuple) else (each, {})
        ref = picture if isinstance(picture, ImageRef) else ImageRef(os.path.abspath(picture))
        yield Found(ref, hashed(changed(ref.path), repr(values)), dict(values))
