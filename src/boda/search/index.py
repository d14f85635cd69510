"""Index: pictures that are found by words or by another picture."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from boda.data.images import Picture, load_image
from boda.data.sample import ImageRef
from boda.errors import BodaError
from boda.search.build import Build, Say, prepared, same
from boda.search.fast import Fast
from boda.search.record import Snapshot, Writer
from boda.search.store import Store
from boda.search.where import matching

LOOK_AGAIN = 2.0  # seconds between two looks for a new version behind an address; a folder is looked at each time


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
        return {**self.values, "image": self.image, "score": self.score}


class Index:
    """An index that was opened. Searching follows the versions that others write; threads may share it.

    Attributes: built, what the last `build` or `add` did: n, added, dropped, unchanged, broken.
    """

    def __init__(self, address: str | Path, encoder: Any = None):
        self.store, self._encoder, self.built = Store(address), encoder, dict[str, int]()
        self._data, self._looked, self._lock = b"", 0.0, threading.Lock()
        self._view: tuple[Snapshot, Fast] | None = None

    @classmethod
    def open(cls, path: str | Path, model: Any = None) -> Index:
        """An index that is there.

        Args:
            path: a folder or an address that fsspec knows.
            model: what turns questions into vectors, where the name that the index remembers does not lead to it: a
                MODEL or an Encoder.

        Raises:
            BodaError: none there, half written before anything was in it, damaged, or made by another model.
        """
        index = cls(path)
        index._current()
        if model is not None:
            index._encoder = index._checked(model)
        return index

    @classmethod
    def build(
        cls,
        images: str | Path | Iterable,
        model: Any,
        out: str | Path,
        *,
        table: str | Path | None = None,
        image_column: str | None = None,
        keep: Sequence[str] = (),
        say: Say | None = None,
    ) -> Index:
        """An index of pictures; one that is there already, finished or not, is brought up to date.

        Args:
            images: a folder, archive, pattern of tar shards, or Parquet file; or an iterable of pictures (paths, ImageRefs),
                or of (picture, {what is kept}).
            model: a MODEL, or an Encoder.
            out: a folder or an address that fsspec knows.
            table: a table with a row a picture; `image_column` names the pictures, starting from `images`.
            keep: columns that are kept for filters, groups and results.
            say: told the progress, a line at a time.

        Raises:
            BodaError: no pictures, none that can be read, or an index that another model or other pictures made.
        """
        source = {"images": images, "table": table, "image_column": image_column, "keep": list(keep)}
        return cls(out)._write([source], model, say, new=True)

    def add(self, images: str | Path | Iterable | None = None, *, say: Say | None = None, **source: Any) -> Index:
        """Adds pictures of another source, or brings a known one up to date; without `images` or `table`: all that are known.

        What is there and has not changed is not read again; what is gone from a source is dropped.
        """
        given = {"images": images, "table": None, "image_column": None, "keep": [], **source}
        fresh = given["images"] is None and given["table"] is None
        return self._write(None if fresh else [given], self._encoder, say)

    def _write(self, sources: list[dict] | None, model: Any, say: Say | None, new: bool = False) -> Index:
        with self.store.writing():
            there = json.loads(self.store.manifest() or b"{}")
            if not there and not new:
                raise BodaError(self._missing())
            encoder = self._checked(model if model is not None else there["model"], there)
            start = {"model": encoder.name, "fingerprint": encoder.fingerprint, "dim": encoder.dim, "sources": [], "broken": 0}
            writer = Writer(self.store, start)
            chosen = writer.manifest["sources"] if sources is None else [prepared(each) for each in sources]
            if new and there and "stream" not in chosen[0] and not any(same(chosen[0], each) for each in there["sources"]):
                held = "; ".join(each["table"] or each["images"] for each in there["sources"])
                raise BodaError(f"{self.store.address} is an index of {held}; `boda index add` adds other pictures to it")
            self._encoder, self.built = encoder, Build(writer, encoder, say or (lambda _: None)).run(chosen)
        return self

    def _missing(self) -> str:
        begun = self.store.files.exists(self.store.root) and self.store.files.ls(self.store.root)
        why = "is half written, with no picture in it yet; run `boda index build` again" if begun else "is not there"
        return f"{self.store.address}: the index {why}"

    def _checked(self, model: Any, there: Mapping[str, Any] | None = None) -> Any:
        """The encoder of a MODEL. Raises BodaError if the index was made by another."""
        encoder = self._load(str(model)) if isinstance(model, (str, Path)) else model
        there = self._current()[0].manifest if there is None else there
        if there and there["fingerprint"] != encoder.fingerprint:
            raise BodaError(
                f"{self.store.address} was made by {there['model']} ({there['fingerprint'][:12]}), not by {encoder.name} "
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
            view = self._view
            if view is not None and not self.store.is_local and time.monotonic() - self._looked < LOOK_AGAIN:
                return view
            for last in (False, False, True):
                data = self.store.manifest()
                if view is not None and data in (self._data, b""):
                    break
                if not data:
                    raise BodaError(self._missing())
                try:
                    snapshot = Snapshot.read(self.store, data)
                    view = self._view = snapshot, Fast(self.store, snapshot, view and view[1])
                    self._data = data
                    break
                except FileNotFoundError as error:  # two versions were written since the manifest was read
                    if last:
                        raise BodaError(f"{self.store.address}: {error.filename or error} is gone; build it anew") from error
            assert view is not None
            self._looked = time.monotonic()
            return view

    def vector(self, query: str | Picture | np.ndarray) -> np.ndarray:
        """(dim,) of a text, a picture (a path is a `Path`: a `str` is a text), or a vector as it is."""
        if isinstance(query, np.ndarray):
            return query.astype(np.float32)
        if self._encoder is None:
            self._encoder = self._checked(self._current()[0].manifest["model"])
        if isinstance(query, str):
            return self._encoder.texts([query])[0]
        return self._encoder.images([load_image(query)])[0]

    def search(
        self, query: str | Picture | np.ndarray, top: int = 10, where: str | None = None, group_by: str | None = None
    ) -> list[Hit]:
        """The pictures nearest to a text or a picture, best first.

        Args:
            query: a text; or a picture as `Path`, PIL image, ImageRef or bytes; or a vector.
            top: at most so many.
            where: a condition on what is kept, such as "price < 50000".
            group_by: only the best of the pictures that share this column's value.

        Raises:
            BodaError: a text of spaces only, a condition or column that is not there, or another model's index.
        """
        if top < 1:
            raise BodaError(f"top {top}: at least one hit must be wanted")
        snapshot, fast = self._current()
        columns = [name for name in snapshot.table.column_names if not name.startswith("_")]
        if group_by is not None and group_by not in columns:
            raise BodaError(f"--group-by {group_by}: no such column; kept are {', '.join(columns) or 'none'}")
        vector = self.vector(query)
        allowed = snapshot.alive & matching(snapshot.table, where) if where else snapshot.alive
        number, count, effort = int(allowed.sum()), top, 1
        while number:
            scores, rows = fast.nearest(vector, count, effort, allowed)
            if group_by is not None:
                first: dict[Any, int] = {}
                for place, row in enumerate(rows):
                    first.setdefault(snapshot.table[group_by][int(row)].as_py(), place)
                scores, rows = scores[list(first.values())], rows[list(first.values())]
            if len(rows) >= top or (count >= number and fast.is_whole(effort)):
                return [self._hit(snapshot, columns, int(row), score) for row, score in zip(rows[:top], scores)]
            count, effort = min(4 * count, number), 4 * effort
        return []

    def _hit(self, snapshot: Snapshot, columns: list[str], row: int, score: float) -> Hit:
        ref = ImageRef.from_json(snapshot.table["_picture"][row].as_py())
        return Hit(ref, float(score), {name: snapshot.table[name][row].as_py() for name in columns})

    def stats(self) -> dict[str, Any]:
        """What is in it, who made it, how large it is."""
        snapshot, _ = self._current()
        manifest, fast = snapshot.manifest, snapshot.manifest["fast"]
        size = sum(part["bytes"] for part in manifest["parts"]) + (fast["bytes"] if fast else 0)
        told = {name: manifest[name] for name in ("model", "fingerprint", "dim", "version", "complete", "broken")}
        return {
            "address": self.store.address,
            "n": int(snapshot.alive.sum()),
            "dropped": int((~snapshot.alive).sum()),
            **told,
            "bytes": size,
            "form": f"IVF, {fast['lists']} lists" if fast else "exact",
            "columns": [name for name in snapshot.table.column_names if not name.startswith("_")],
            "sources": [each["table"] or each["images"] for each in manifest["sources"]],
        }
