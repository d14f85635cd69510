"""Index: pictures that are found by words or by another picture."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from boda.data.images import Picture
from boda.data.sample import ImageRef
from boda.data.sheet import INK, Cell, draw_sheet
from boda.errors import BodaError
from boda.search.build import Build, pixels
from boda.search.fast import Fast
from boda.search.record import Snapshot, Writer
from boda.search.store import Store
from boda.search.where import matching

LOOK_AGAIN = 2.0  # seconds between two looks for a new version behind an address; a folder is looked at each time
Pictures = str | Path | Iterable
Query = str | Picture | np.ndarray


@dataclass(frozen=True)
class Hit:
    """A picture that was found: where it is, cosine similarity, what is kept of it."""

    ref: ImageRef
    score: float
    values: Mapping[str, Any]

    @property
    def image(self) -> str:
        """Its address, which is its id."""
        return str(self.ref)

    @property
    def name(self) -> str:
        """The end of its address."""
        return self.image.rpartition("/")[2]

    def as_dict(self) -> dict[str, Any]:
        """As `--json` shows it."""
        plain = {name: x if isinstance(x, str | int | float | None) else str(x) for name, x in self.values.items()}
        return {**plain, "image": self.image, "score": self.score}


def contact_sheet(hits: Sequence[Hit], out: str | Path, title: str = "", columns: int = 5) -> Path:
    """Draws hits in their order as a PNG, each with its score and what is kept of it."""
    cells = []
    for hit in hits:
        lines = [f"{hit.score:.3f}  {hit.name}", *(f"{name}: {value}" for name, value in hit.values.items())]
        cells.append(Cell([hit.ref], [(line, INK, 1) for line in lines[:4]]))
    return draw_sheet(cells, out, title, columns)


class Index:
    """An index, to search and to bring up to date. Searching follows the versions that others write; threads may share it.

    Attributes: built, what the last `build` or `add` did: n, added, updated, unchanged, dropped, broken.
    """

    def __init__(self, address: str | Path):
        self.store, self.built = Store(address), dict[str, int]()
        self._encoder: Any = None
        self._data, self._looked, self._lock = b"", 0.0, threading.Lock()
        self._view: tuple[Snapshot, Fast] | None = None

    @classmethod
    def open(cls, path: str | Path, model: Any = None) -> Index:
        """An index in a folder or behind an address; `model` (a MODEL or Encoder) where the name it remembers leads nowhere.

        Raises BodaError: none there, half written before anything was in it, damaged, or made by another model.
        """
        index = cls(path)
        snapshot, _ = index._current()
        if model is not None:
            index._encoder = index._checked(model, snapshot.manifest)
        return index

    @classmethod
    def build(
        cls, images: Pictures | None, model: Any, out: str | Path, say: Callable = lambda _: None, **source: Any
    ) -> Index:
        """An index of pictures; one that is there already, finished or not, is brought up to date.

        Args:
            images: a folder (of pictures, tar shards or Parquet files), an archive, a pattern, a Parquet file; what a table's
                names start from (None: its own folder); or an iterable of paths or ImageRefs, or of (picture, {what is kept}).
            model: a MODEL, or an Encoder.
            source: `table`, a row a picture; `image_column`, of pictures or their names; `keep`, columns (fields of the
                KEY.json beside a picture) for filters, groups and results.

        Raises BodaError: no pictures, none that can be read, or an index that another model made, or of other pictures.
        """
        return cls(out)._write(_source(images, **source), model, say, new=True)

    def add(self, images: Pictures | None = None, say: Callable = lambda _: None, **source: Any) -> Index:
        """Adds pictures of another source, or brings a known one up to date; without `images` and `table`: all that are known.

        What is there and has not changed is not read again; what is gone from a source is dropped.
        """
        given = _source(images, **source) if images is not None or source.get("table") else None
        return self._write(given, self._encoder, say)

    def _write(self, source: dict | None, model: Any, say: Callable, new: bool = False) -> Index:
        with self.store.writing():
            there = json.loads(self.store.manifest() or b"{}")
            if not there and not new:
                raise BodaError(self._missing())
            known = there.get("sources", [])
            chosen = dict(enumerate(known)) if source is None else self._place(source, known, new)
            self._encoder = encoder = self._checked(there["model"] if model is None else model, there)
            name = os.path.abspath(encoder.name) if os.path.exists(encoder.name) else encoder.name
            writer = Writer(self.store, {"model": name, "fingerprint": encoder.fingerprint, "dim": encoder.dim, "broken": 0})
            writer.manifest["sources"] = known
            self.built = Build(writer, encoder, say, chosen).run()
        return self

    def _place(self, source: dict, known: list[dict], new: bool) -> dict[int, dict]:
        """{number: source}, which is put among those that are known; what is kept may change."""
        same = [{**each, "keep": source["keep"]} == source for each in known]
        if new and known and not any(same):
            held = "; ".join(each["table"] or each["images"] for each in known)
            raise BodaError(f"{self.store.address} is an index of {held}; `boda index add` adds other pictures to it")
        if not isinstance(source["images"], str | None):
            return {-1: source}
        number = [*same, True].index(True)
        if any(same) and not source["keep"]:
            source = known[number]
        known[number : number + 1] = [source]
        return {number: source}

    def _missing(self) -> str:
        begun = self.store.files.exists(self.store.root) and self.store.files.ls(self.store.root)
        why = "is half written, with no picture in it yet; run `boda index build` again" if begun else "is not there"
        return f"{self.store.address}: the index {why}"

    def _checked(self, model: Any, manifest: Mapping[str, Any]) -> Any:
        """The encoder of a MODEL. Raises BodaError if the index was made by another."""
        encoder = self._load(str(model)) if isinstance(model, str | Path) else model
        if manifest and manifest["fingerprint"] != encoder.fingerprint:
            raise BodaError(
                f"{self.store.address} was made by {manifest['model']} ({manifest['fingerprint'][:12]}), not by {encoder.name} "
                f"({encoder.fingerprint[:12]}): their vectors cannot be compared; use that model, or build another index"
            )
        return encoder

    @staticmethod
    def _load(model: str) -> Any:
        from boda.models.encoder import Encoder

        return Encoder.load(model)

    def _current(self) -> tuple[Snapshot, Fast]:
        """The newest version, opened."""
        with self._lock:
            if self._view and not self.store.is_local and time.monotonic() - self._looked < LOOK_AGAIN:
                return self._view
            self._looked = time.monotonic()
            while (data := self.store.manifest()) not in (self._data, b""):
                try:
                    snapshot = Snapshot(self.store, json.loads(data))
                    self._view = snapshot, Fast(self.store, snapshot, self._view and self._view[1])
                    self._data = data
                    break
                except FileNotFoundError as error:
                    if data == self.store.manifest():  # else two versions were written since it was read
                        raise BodaError(f"{self.store.address}: {error.filename or error} is gone; build it anew") from error
            if self._view is None:
                raise BodaError(self._missing())
            return self._view

    def vector(self, query: Query) -> np.ndarray:
        """(dim,) of a text (any `str`), of a picture (a path is a `Path`), or a vector as it is."""
        if isinstance(query, np.ndarray):
            return query.astype(np.float32)
        if self._encoder is None:
            snapshot, _ = self._current()
            self._encoder = self._checked(snapshot.manifest["model"], snapshot.manifest)
        return (self._encoder.texts([query]) if isinstance(query, str) else self._encoder.images([pixels(query)]))[0]

    def search(self, query: Query, top: int = 10, where: str | None = None, group_by: str | None = None) -> list[Hit]:
        """The pictures nearest to a query, best first: of those that fulfil `where`, the best of each value of `group_by`.

        Raises BodaError: a text of spaces only, a condition or column that is not there, or another model's index.
        """
        if top < 1:
            raise BodaError(f"top {top}: at least one hit must be wanted")
        vector, (snapshot, fast) = self.vector(query), self._current()
        table, columns = snapshot.table, snapshot.columns
        if group_by is not None and group_by not in columns:
            raise BodaError(f"--group-by {group_by}: no such column; kept are {', '.join(columns) or 'none'}")
        allowed = snapshot.alive & matching(table, where) if where else snapshot.alive
        number, count, effort = int(allowed.sum()), 0, 1
        best: dict[Any, tuple[int, float]] = {}
        while count < number and len(best) < top:
            count, best = min(top * effort, number), {}
            for score, row in zip(*fast.nearest(vector, count, effort, allowed)):
                best.setdefault(table[group_by][int(row)].as_py() if group_by else row, (int(row), float(score)))
            effort *= 4
        return [
            Hit(ImageRef.from_json(table["_picture"][row].as_py()), score, {name: table[name][row].as_py() for name in columns})
            for row, score in list(best.values())[:top]
        ]

    def stats(self) -> dict[str, Any]:
        """What is in it, who made it, how large it is."""
        snapshot, _ = self._current()
        manifest, fast = snapshot.manifest, snapshot.manifest["fast"]
        return {
            "address": self.store.address,
            "n": int(snapshot.alive.sum()),
            "dropped": int((~snapshot.alive).sum()),
            **{name: manifest[name] for name in ("model", "fingerprint", "dim", "version", "complete", "broken")},
            "bytes": sum(each.nbytes for each in (*snapshot.matrices, snapshot.table)) + (fast["bytes"] if fast else 0),
            "form": f"IVF, {fast['lists']} lists" if fast else "exact",
            "columns": snapshot.columns,
            "sources": [each["table"] or each["images"] for each in manifest["sources"]],
        }


def _source(images: Any, table: Any = None, image_column: str | None = None, keep: Sequence[str] = ()) -> dict[str, Any]:
    """A source as the manifest keeps it."""
    if images is None and table is None:
        raise BodaError("no pictures: name a folder, an archive, 'shards-*.tar' or a Parquet file, or give a --table")
    paths = {"images": images, "table": table}
    whole = {name: os.path.abspath(each) if isinstance(each, str | Path) else each for name, each in paths.items()}
    return {**whole, "image_column": image_column, "keep": list(keep)}
