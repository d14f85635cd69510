"""Making an index and keeping it up to date: what is new is read, turned into vectors and committed bit by bit."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from boda.data.images import Picture, load_image
from boda.errors import BodaError
from boda.search.fast import derive
from boda.search.record import Writer
from boda.search.sources import Found, hashed, pictures

BATCH, FIRST_TOLD, COMMIT_ROWS, COMMIT_SECONDS = 64, 200, 4096, 60.0
SIDE = 512  # larger pictures are shrunk by whole numbers towards this side, which bounds the memory of a batch
COUNTED = ("added", "updated", "unchanged", "dropped", "broken")


def pixels(picture: Picture):
    """A picture as encoders are given it."""
    image = load_image(picture)
    return image.reduce(max(1, min(image.size) // SIDE))


class Known:
    """The rows of a version by key and by contents: sorted columns of numbers, whatever the pictures are."""

    def __init__(self, writer: Writer):
        self.snapshot = writer.snapshot()
        self.rows = np.flatnonzero(self.snapshot.alive)
        self.stamps, self.columns = self.snapshot.column("_stamp"), {}
        for name in ("_key", "_digest"):
            values = self.snapshot.column(name)[self.rows]
            order = np.argsort(values, kind="stable")
            self.columns[name] = values[order], self.rows[order]

    def row(self, name: str, value: int) -> int:
        """The row whose column has this value, -1 if none has."""
        values, rows = self.columns[name]
        place = int(np.searchsorted(values, value))
        return int(rows[place]) if place < len(values) and values[place] == value else -1


class Build:
    """One run over sources."""

    def __init__(self, writer: Writer, encoder: Any, say: Callable[[str], None]):
        self.writer, self.encoder, self.say, self.known = writer, encoder, say, Known(writer)
        self.seen = np.zeros(len(self.known.snapshot), bool)
        self.done: list[tuple[int, Found, int, np.ndarray]] = []  # to be committed: key, picture, digest, vector
        self.pending: set[int] = set()
        self.counts: Counter[str] = Counter()
        self.read, self.began, self.committed, self.why = 0, time.monotonic(), time.monotonic(), ""

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
        return {"n": len(self.known.rows), **{name: self.counts[name] for name in COUNTED}}

    def _source(self, source: dict[str, Any], sources: list[dict[str, Any]]) -> None:
        self.walked, self.total, self.number = 0, 0, -1
        lasting = source["images"] is None or isinstance(source["images"], str)
        if lasting:
            same = [{**each, "keep": 0} == {**source, "keep": 0} for each in sources] + [True]
            self.number = same.index(True)
            source["keep"] = source["keep"] or next((each["keep"] for each in sources[self.number :]), [])
            sources[self.number : self.number + 1] = [source]
        self.count = lambda: sum(1 for _ in pictures(**{**source, "keep": []})) if lasting else 0
        before, fresh = self.counts["broken"], self._fresh(pictures(**source))
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # the next batch is decoded while one is encoded
            waiting: deque[Iterator] = deque()
            while batch := list(itertools.islice(fresh, BATCH)):
                waiting.append(pool.map(self._read, batch))
                if len(waiting) > 1:
                    self._encode(waiting.popleft())
            while waiting:
                self._encode(waiting.popleft())
        name = (source["table"] or source["images"]) if lasting else "the stream"
        if not self.walked:  # a folder that is not mounted looks like this, so nothing is dropped for it
            raise BodaError(f"there are no pictures in {name}; nothing was changed")
        if self.counts["broken"] - before == self.walked:
            raise BodaError(f"none of {self.walked:,} pictures of {name} can be read; see {self.broken.name}; {self.why}")
        if self.done:
            self._commit()
        if lasting:
            old = slice(len(self.seen))
            ours = self.known.snapshot.alive[old] & (self.known.snapshot.column("_source")[old] == self.number)
            self.writer.drop(gone := np.flatnonzero(ours & ~self.seen))
            self.counts["dropped"] += len(gone)

    def _fresh(self, source: Iterable[Found]) -> Iterator[tuple[int, Found]]:
        """What is new or changed, with its key: its source, its address, and its row's id where one is kept."""
        for each in source:
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
            return key, each, digest, self.known.snapshot.take(np.array([row]))[0] if row >= 0 else pixels(data)
        except BodaError as error:
            return key, each, 0, str(error).replace(f"{len(data)} bytes in memory", str(each.ref))

    def _encode(self, results: Iterable[tuple[int, Found, int, Any]]) -> None:
        good = []
        for key, each, digest, got in results:
            self.read += 1
            if isinstance(got, str):
                self.counts["broken"] += 1
                self.why = got
                self.broken.write(json.dumps({"image": str(each.ref), "why": got}, ensure_ascii=False) + "\n")
            else:
                good.append((key, each, digest, got))
        new = [got for *_, got in good if not isinstance(got, np.ndarray)]
        vectors = iter(self.encoder.images(new) if new else ())
        for key, each, digest, got in good:
            self.done.append((key, each, digest, got if isinstance(got, np.ndarray) else next(vectors)))
        first = not self.total and self.read >= FIRST_TOLD
        full = len(self.done) >= COMMIT_ROWS or time.monotonic() - self.committed > COMMIT_SECONDS
        if full:
            self._commit()
        if first:
            self.total = self.count() or -1
        if first or full:
            rate, size = self.read / (time.monotonic() - self.began), (2 * self.writer.manifest["dim"] + 200) / 1e6
            left = (
                f"; {self.total:,} in all: {max(0, self.total - self.walked) / rate / 60:.0f} min left"
                if self.total > 0
                else ""
            )
            self.say(
                f"{self.walked:,} pictures, {rate:.1f} a second{left}, {size * max(self.total, self.walked):,.1f} MB on disk"
            )

    def _commit(self) -> None:
        """What was read becomes a version; what it replaces is dropped with it."""
        import pyarrow as pa

        if self.done:
            keys, found, digests, vectors = zip(*self.done)
            numbers = {
                "_key": keys,
                "_stamp": [each.stamp for each in found],
                "_digest": digests,
                "_source": [self.number] * len(keys),
            }
            columns: dict[str, Any] = {name: np.array(values, np.int64) for name, values in numbers.items()}
            columns["_picture"] = [each.ref.to_json() for each in found]
            names = dict.fromkeys(name for each in found for name in each.values)
            try:
                table = pa.table(columns | {name: [each.values.get(name) for each in found] for name in names})
                pa.unify_schemas([self.known.snapshot.table.schema, table.schema], promote_options="permissive")
            except (pa.ArrowException, ValueError) as error:
                raise BodaError(f"what is kept does not fit what the index holds, or itself: {error}") from error
            replaced = [row for key in keys if (row := self.known.row("_key", key)) >= 0]
            self.counts.update(updated=len(replaced), added=len(keys) - len(replaced))
            self.writer.append(table, np.stack(vectors))
            self.writer.drop(np.array(replaced, np.int64))
            self.pending.difference_update(keys)
            self.done = []
        self.writer.commit(complete=False)
        self.known, self.committed = Known(self.writer), time.monotonic()
