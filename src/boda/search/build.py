"""Making an index and keeping it up to date: what is new is read, turned into vectors and committed bit by bit."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from boda.data.images import Picture, load_image
from boda.errors import WHY, BodaError, explaining
from boda.files import as_lines
from boda.search.fast import derive
from boda.search.record import Writer
from boda.search.sources import Found, hashed, pictures
from boda.terminal import duration

BATCH, FIRST_TOLD, COMMIT_ROWS, COMMIT_SECONDS = 64, 200, 4096, 60.0
SIDE = 512  # larger pictures are shrunk by whole numbers towards this side, which bounds the memory of a batch
COUNTED = ("added", "updated", "unchanged", "dropped", "broken")


def pixels(picture: Picture):
    """A picture as encoders are given it."""
    image = load_image(picture)
    return image.reduce(max(1, min(image.size) // SIDE))


class Build:
    """One run over sources, by their number in the manifest; -1 is a stream, which is not kept there."""

    def __init__(self, writer: Writer, encoder: Any, say: Callable[[str], None], sources: dict[int, dict[str, Any]]):
        self.writer, self.encoder, self.say, self.sources = writer, encoder, say, sources
        self.done: list[Found] = []  # read, to be committed
        self.pending: set[int] = set()  # keys of what is read or to be committed
        self.counts: Counter[str] = Counter()
        self.read, self.began, self.total, self.why = 0, time.monotonic(), -1, ""
        self._look()
        self.seen = np.zeros(len(self.snapshot), bool)

    def _look(self) -> None:
        self.snapshot, self.looked = self.writer.snapshot(), time.monotonic()
        self.stamps = self.snapshot.table["_stamp"].to_numpy()
        self.row_of, self.row_with = self.snapshot.finder("_key"), self.snapshot.finder("_digest")

    def run(self) -> dict[str, int]:
        """Reads the sources, drops what is gone from them, derives the fast form. Returns {n, added, updated, ...}."""
        store, manifest = self.writer.store, self.writer.manifest
        with open(store.folder / "broken.jsonl", "w", encoding="utf-8", errors="backslashreplace") as self.broken:
            for number, source in self.sources.items():
                self._source(number, source)
        manifest.update(complete=True, broken=self.counts["broken"])
        if manifest != json.loads(self.writer.published or b"{}"):
            if 2 * (alive := self.writer.snapshot().alive).sum() < len(alive):
                self.writer.rewrite()
            self.writer.commit(fast=derive(store, self.writer.snapshot()))
        return {"n": int(self.writer.snapshot().alive.sum()), **{name: self.counts[name] for name in COUNTED}}

    def _source(self, number: int, source: dict[str, Any]) -> None:
        self.number = number
        before, fresh = self.counts.copy(), self._fresh(pictures(**source))
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            ahead: Iterator[Found] = iter(())
            while batch := list(itertools.islice(fresh, BATCH)):
                decoded, ahead = ahead, pool.map(self._read, batch)  # the next batch is decoded while one is encoded
                self._encode(decoded)
            self._encode(ahead)
        name = "the stream" if self.number < 0 else source["table"] or source["images"]
        walked, broken = (self.counts[each] - before[each] for each in ("walked", "broken"))
        if not walked:  # a folder that is not mounted looks like this, so nothing is dropped for it
            raise BodaError(f"there are no pictures in {name}; nothing was changed")
        if broken == walked:
            raise BodaError(f"none of {walked:,} pictures of {name} can be read; see {self.broken.name}; {self.why}")
        if self.done:
            self._commit()
        if self.number >= 0:
            ours = self.snapshot.alive & (self.snapshot.table["_source"].to_numpy() == self.number)
            self.writer.drop(gone := np.flatnonzero(ours[: len(self.seen)] & ~self.seen))
            self.counts["dropped"] += len(gone)

    def _fresh(self, source: Iterable[Found]) -> Iterator[Found]:
        """What is new or changed, with its key: its source, its address, and its row's id where one is kept."""
        for each in source:
            self.counts["walked"] += 1
            each.key = hashed(str(self.number), str(each.ref), str(each.values.get("id", "")))
            row = self.row_of(each.key)
            if row >= 0 and self.stamps[row] == each.stamp:
                if row < len(self.seen) and not self.seen[row]:
                    self.seen[row] = True
                    self.counts["unchanged"] += 1
            elif each.key not in self.pending:
                self.pending.add(each.key)
                yield each

    def _read(self, each: Found) -> Found:
        """Runs in threads. A picture known by its contents has its vector."""
        data = b""
        try:
            data = each.ref.read()
            each.digest = hashed(data)
            row = self.row_with(each.digest)
            each.got = self.snapshot.take(np.array([row]))[0] if row >= 0 else pixels(data)
        except BodaError as error:
            each.got = str(error).replace(f"{len(data)} bytes in memory", str(each.ref))
        return each

    def _encode(self, read: Iterable[Found]) -> None:
        for each in read:
            self.read += 1
            if isinstance(each.got, str):
                self.counts["broken"] += 1
                self.why = each.got
                self.broken.write(as_lines([{"image": str(each.ref), "why": each.got}]))
            else:
                self.done.append(each)
        if new := [each for each in self.done if not isinstance(each.got, np.ndarray)]:
            for each, vector in zip(new, self.encoder.images([each.got for each in new])):
                each.got = vector
        if first := self.total < 0 and self.read >= FIRST_TOLD:
            lasting = [{**source, "keep": []} for number, source in self.sources.items() if number >= 0]
            self.total = sum(1 for source in lasting for _ in pictures(**source))
        full = self.done and (len(self.done) >= COMMIT_ROWS or time.monotonic() - self.looked > COMMIT_SECONDS)
        if full:
            self._commit()
        if first or full:
            self._tell()

    def _tell(self) -> None:
        walked, rate = self.counts["walked"], self.read / (time.monotonic() - self.began)
        left = f"; {self.total:,} in all: {duration(max(0, self.total - walked) / rate)} left" if self.total > 0 else ""
        size = (2 * self.writer.manifest["dim"] + 200) / 1e6 * max(self.total, walked)
        self.say(f"{walked:,} pictures, {rate:.1f} a second{left}, {size:,.1f} MB on disk")

    def _commit(self) -> None:
        """What was read becomes a version; what it replaces is dropped with it."""
        import pyarrow as pa

        done, self.done = self.done, []
        numbers = [{"_key": each.key, "_stamp": each.stamp, "_digest": each.digest, "_source": self.number} for each in done]
        rows = [{**each.values, **own, "_picture": each.ref.to_json()} for each, own in zip(done, numbers)]
        with explaining(f"what is kept does not fit what the index holds, or itself: {WHY}", pa.ArrowException, ValueError):
            table = pa.Table.from_struct_array(pa.array(rows))
            pa.unify_schemas([self.snapshot.table.schema, table.schema], promote_options="permissive")
        keys = [each.key for each in done]
        replaced = [row for row in map(self.row_of, keys) if row >= 0]
        self.counts.update(updated=len(replaced), added=len(keys) - len(replaced))
        self.writer.append(table, np.stack([each.got for each in done]))
        self.writer.drop(np.array(replaced, np.int64))
        self.pending.difference_update(keys)
        self.writer.commit(complete=False)
        self._look()
