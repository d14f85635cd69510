"""The fast form of an index, derived from its record by faiss: exact for few vectors, IVF with 4-bit codes for many."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np

from boda.search.record import BLOCK, Snapshot
from boda.search.store import Store

EXACT = 50_000  # so many vectors are compared one by one: 1 ms, and nothing is lost
FILTERED = 5_000  # so many that a filter leaves are fetched and compared
PROBED = 32  # one list in so many is looked into, and so many at least
CANDIDATES, TRAINED = 20, 40  # vectors compared exactly for each hit; a list's training rows


def derive(store: Store, snapshot: Snapshot) -> dict[str, Any] | None:
    """Writes the form that fits a version, {name, rows, trained, lists, bytes}; None where comparing all is fast enough.

    Rows that came since the form was made are compared one by one at first, then added to it; it is trained again when the
    index has four times the rows it was trained for.
    """
    import faiss

    rows, old, dim = len(snapshot), snapshot.manifest["fast"], snapshot.manifest["dim"]
    if rows <= EXACT or (old and rows - old["rows"] <= max(EXACT // 5, old["rows"] // 20)):
        return old
    if old and rows < 4 * old["trained"]:
        index, trained = faiss.read_index(store.fetch(old["name"])), old["trained"]
    else:
        lists, trained = 2 ** round(np.log2(2 * rows**0.5)), rows
        codes = next(codes for codes in range(max(dim // 4, 1), 0, -1) if dim % codes == 0)
        index = faiss.index_factory(dim, f"IVF{lists},PQ{codes}x4fs", faiss.METRIC_INNER_PRODUCT)
        index.train(snapshot.take(np.sort(np.random.default_rng(0).choice(rows, min(rows, TRAINED * lists), replace=False))))
    for block in snapshot.blocks(index.ntotal):
        index.add(block)
    path = store.folder / f"fast-{uuid.uuid4().hex[:16]}.faiss"
    faiss.write_index(index, str(path))
    return {"name": path.name, "rows": rows, "trained": trained, "lists": index.nlist, "bytes": path.stat().st_size}


class Fast:
    """Answers for one version: `nearest` among its rows."""

    def __init__(self, store: Store, snapshot: Snapshot, earlier: Fast | None = None):
        import faiss

        fast = snapshot.manifest["fast"]
        self.snapshot, self.name, self.covered = snapshot, fast and fast["name"], fast["rows"] if fast else 0
        self.index: Any = earlier.index if earlier and earlier.name == self.name else None
        if fast and self.index is None:
            self.index = faiss.read_index(store.fetch(self.name))
        kind = faiss.ScalarQuantizer.QT_fp16
        self.rest = faiss.IndexScalarQuantizer(snapshot.manifest["dim"], kind, faiss.METRIC_INNER_PRODUCT)
        for block in snapshot.blocks(self.covered):
            self.rest.add(block)

    def nearest(self, query: np.ndarray, count: int, effort: int, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(scores, rows) of the `count` allowed rows nearest to a vector, best first; more effort probes more lists.

        All allowed rows are compared if they are few, or if all are wanted: then none is missed.
        """
        import faiss

        number = int(allowed.sum())
        if self.index is not None and number <= max(FILTERED, count):
            rows = np.flatnonzero(allowed)
            blocks = [rows[start : start + BLOCK] for start in range(0, number, BLOCK)]
            return _best(np.concatenate([self.snapshot.take(block) @ query for block in blocks]), rows, count)

        def select(which: np.ndarray):
            return None if which.all() else faiss.IDSelectorBitmap(np.packbits(which, bitorder="little"))

        chosen = faiss.SearchParameters(sel=select(allowed[self.covered :]))
        scores, rows = self.rest.search(query[None], max(1, min(count, self.rest.ntotal)), params=chosen)
        scores, rows = scores[0], np.where(rows[0] < 0, -1, rows[0] + self.covered)
        if self.index is not None:
            # The fewer rows are allowed, the more lists it takes to meet as many of them.
            probes = min(self.index.nlist, max(PROBED, self.index.nlist // PROBED) * effort * len(allowed) // number)
            chosen = faiss.SearchParametersIVF(nprobe=probes, sel=select(allowed[: self.covered]))
            found = self.index.search(query[None], count + CANDIDATES * min(max(count, 10), 100), params=chosen)[1][0]
            found = found[found >= 0]
            scores, rows = np.append(scores, self.snapshot.take(found) @ query), np.append(rows, found)
        return _best(scores[rows >= 0], rows[rows >= 0], count)


def _best(scores: np.ndarray, rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((rows, -scores))[:count]  # ties by row, so that the same question has the same answer
    return scores[order], rows[order]
