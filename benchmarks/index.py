"""An index of pictures: building, asking, memory and disk, next to faiss HNSW and flat, and its record next to LanceDB's.

    python benchmarks/run.py index [vectors=200000] [dim=512] [queries=500] [record=false]
    python benchmarks/run.py index large=true [vectors=3000000] [model=MODEL]     # Boda alone, too large for the others

Vectors lie round centres (one for every 100), as far from them as the centres are from the origin; they are made anew where they
are needed, so that no side holds what another would not. Every side runs in a process of its own. `record=true` needs lancedb in
the peers' environment.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

BLOCK, TOP = 4096, 10  # as many rows as `boda index build` commits at once


def vectors(count: int, dim: int, salt: int = 0, whole: int = 0):
    """Unit vectors (k, dim) float32, a block at a time; `salt` gives others round the same centres of `whole` vectors."""
    centres = np.random.default_rng(7).standard_normal(((whole or count) // 100, dim), dtype=np.float32)
    for start in range(0, count, BLOCK):
        rng = np.random.default_rng((salt, start))
        size = min(BLOCK, count - start)
        found = centres[rng.integers(len(centres), size=size)] + rng.standard_normal((size, dim), dtype=np.float32)
        yield found / np.linalg.norm(found, axis=1, keepdims=True)


class Memory(threading.Thread):
    """Anonymous memory of this process, sampled: what is mapped from files is the system's cache and goes when it is needed."""

    def __init__(self):
        super().__init__(daemon=True)
        self.samples: list[float] = []
        self.start()

    def run(self) -> None:
        while True:
            lines = Path("/proc/self/status").read_text().splitlines()
            self.samples.append(int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024)
            time.sleep(0.05)


def build_boda(folder: str, count: int, dim: int) -> dict:
    import pyarrow as pa

    from boda.data.sample import ImageRef
    from boda.search.fast import derive
    from boda.search.record import Writer
    from boda.search.store import Store

    store, memory = Store(folder), Memory()
    appended, row, during = 0.0, 0, []
    with store.writing():
        writer = Writer(store, {"model": "none", "fingerprint": "none", "dim": dim, "sources": [], "broken": 0})
        for block in vectors(count, dim):
            rows = np.arange(row, row + len(block))
            table = {"_picture": [ImageRef(f"/data/products/{each // 1000:05d}/{each:09d}.jpg").to_json() for each in rows]}
            table |= {name: rows for name in ("_key", "_stamp", "_digest")} | {"_source": rows * 0}
            table |= {"row": rows, "price": rows * 37 % 200_000, "product": rows // 3}
            table, before = pa.table(table), time.perf_counter()
            writer.append(table, block)
            writer.commit()
            appended += time.perf_counter() - before
            row += len(block)
            during.append(memory.samples[-1])
        before = time.perf_counter()
        writer.commit(complete=True, fast=derive(store, writer.snapshot()))
        derived = time.perf_counter() - before
    bytes_of = lambda pattern: sum(path.stat().st_size for path in Path(folder).glob(pattern)) / 1e6  # noqa: E731
    return {
        "append_seconds": appended,
        "fast_seconds": derived,
        "anonymous_mb": {"first": during[0], "half": during[len(during) // 2], "last": during[-1]},
        "peak_anonymous_mb": max(memory.samples),
        "vectors_mb": bytes_of("part-*.npy"),
        "tables_mb": bytes_of("part-*.arrow"),
        "fast_mb": bytes_of("fast-*"),
    }


def ask(search, queries: np.ndarray, truth: np.ndarray) -> dict:
    """Single questions one after the other: rate, percentiles, recall@10."""
    for query in queries[:20]:
        search(query)
    times, right = [], 0
    for query, nearest in zip(queries, truth):
        before = time.perf_counter()
        found = search(query)
        times.append(1000 * (time.perf_counter() - before))
        right += len(set(found) & set(nearest.tolist()))
    p50, p99 = np.percentile(times, [50, 99])
    return {"per_second": 1000 / np.mean(times), "p50_ms": p50, "p99_ms": p99, "recall": right / truth.size}


def ask_boda(folder: str, queries: np.ndarray, truth: np.ndarray, model: str) -> dict:
    from boda.search import Index

    memory = Memory()
    before = time.perf_counter()
    index = Index(folder)
    index.search(queries[0])
    opened = time.perf_counter() - before
    found = ask(lambda query: [hit.values["row"] for hit in index.search(query, TOP)], queries, truth)
    filtered = ask(
        lambda query: [h.values["row"] for h in index.search(query, TOP, "price < 50000")], queries[:100], truth[:100]
    )
    grouped = ask(
        lambda query: [h.values["row"] for h in index.search(query, TOP, None, "product")], queries[:100], truth[:100]
    )
    found |= {"open_seconds": opened, "filtered_p50_ms": filtered["p50_ms"], "grouped_p50_ms": grouped["p50_ms"]}
    found["peak_anonymous_mb"] = max(memory.samples)
    if model:
        from boda.models.encoder import Encoder

        encoder, times = Encoder.load(model), []
        for number, query in enumerate(queries[:200]):
            before = time.perf_counter()
            encoder.texts([f"빨간 가방 {number}"])
            index.search(query, TOP)
            times.append(1000 * (time.perf_counter() - before))
        found["text_p50_ms"], found["text_p99_ms"] = np.percentile(times[5:], [50, 99])
    return found


def side_faiss(kind: str, count: int, dim: int, queries: np.ndarray, truth: np.ndarray) -> dict:
    import faiss

    index = faiss.IndexHNSWFlat(dim, 32, faiss.METRIC_INNER_PRODUCT) if kind == "hnsw" else faiss.IndexFlatIP(dim)
    if kind == "hnsw":
        index.hnsw.efConstruction, index.hnsw.efSearch = 100, 64
    making, began, source = 0.0, time.perf_counter(), vectors(count, dim)
    for _ in range(0, count, BLOCK):
        before = time.perf_counter()
        block = next(source)
        making += time.perf_counter() - before
        index.add(block)
    built = time.perf_counter() - began - making
    return {"build_seconds": built, **ask(lambda query: index.search(query[None], TOP)[1][0].tolist(), queries, truth)}


def side_truth(folder: str, count: int, dim: int, asked: int) -> dict:
    """Questions and the rows nearest to them, compared with every vector."""
    queries = np.concatenate(list(vectors(asked, dim, salt=1, whole=count)))
    scores, rows, start = np.zeros((asked, 0), np.float32), np.zeros((asked, 0), np.int64), 0
    for block in vectors(count, dim):
        scores = np.concatenate([scores, queries @ block.T], 1)
        rows = np.concatenate([rows, np.broadcast_to(np.arange(start, start + len(block)), (asked, len(block)))], 1)
        best = np.argpartition(-scores, TOP, 1)[:, :TOP]
        scores, rows = np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
        start += len(block)
    np.savez(folder + ".truth.npz", queries=queries, truth=rows)
    return {"queries": asked}


def side_record(folder: str, count: int, dim: int) -> dict:
    """What the fast form asks of a record: appended, 200 vectors taken, a condition, ten rows of metadata. lancedb's side."""
    import lancedb
    import pyarrow as pa

    def table_of(start: int, block: np.ndarray):
        rows = np.arange(start, start + len(block))
        flat = pa.FixedSizeListArray.from_arrays(pa.array(block.astype(np.float16).reshape(-1)), dim)
        names = [f"/data/products/{each // 1000:05d}/{each:09d}.jpg" for each in rows]
        return pa.table({"picture": names, "row": rows, "price": rows * 37 % 200_000, "product": rows // 3, "vector": flat})

    database, table, start, seconds = lancedb.connect(folder), None, 0, 0.0
    for block in vectors(count, dim):
        batch, before = table_of(start, block), time.perf_counter()
        table = database.create_table("pictures", batch) if table is None else table
        if start:
            table.add(batch)
        seconds += time.perf_counter() - before
        start += len(block)
    before = time.perf_counter()
    table.optimize()
    found = {"append_seconds": seconds + time.perf_counter() - before}
    some = lambda number: np.random.default_rng(0).choice(count, number, replace=False).tolist()  # noqa: E731
    found["take_200_ms"] = timed(lambda: table.take_offsets(some(200)).select(["vector"]).to_arrow())
    found["rows_10_ms"] = timed(lambda: table.take_offsets(some(10)).select(["picture", "price", "product"]).to_arrow())
    found["where_ms"] = timed(lambda: table.search().where("price < 50000").select(["row"]).limit(count).to_arrow())
    found["disk_mb"] = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 1e6
    return found


def record_boda(folder: str, count: int) -> dict:
    from boda.search.record import Snapshot
    from boda.search.store import Store
    from boda.search.where import matching

    store = Store(folder)
    snapshot = Snapshot(store, json.loads(store.manifest()))
    some = lambda number: np.random.default_rng(0).choice(count, number, replace=False)  # noqa: E731
    names = ("_picture", "price", "product")
    return {
        "take_200_ms": timed(lambda: snapshot.take(some(200))),
        "rows_10_ms": timed(lambda: [{name: snapshot.table[name][int(row)].as_py() for name in names} for row in some(10)]),
        "where_ms": timed(lambda: matching(snapshot.table, "price < 50000").nonzero()[0]),
    }


def timed(work) -> float:
    """Median milliseconds of 30."""
    times = []
    for _ in range(30):
        before = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - before))
    return float(np.median(times))


def main(run) -> None:
    from common import run_side

    large = run.option("large", False)
    count, dim = run.option("vectors", 3_000_000 if large else 200_000), run.option("dim", 512)
    asked, model = run.option("queries", 500), run.option("model", "")
    with tempfile.TemporaryDirectory() as place:
        folder = str(Path(place) / "index")
        side = lambda name, *rest, **how: run_side([__file__, name, folder, count, dim, *rest], timeout=4 * 3600, **how)  # noqa: E731
        side("truth", asked)
        run.say("compared everything with everything")
        built = side("build")
        found = side("ask", model or "-")
        build = built["append_seconds"] + built["fast_seconds"]
        rows = [answers("Boda", build, found, found["peak_rss_mb"])]
        for kind in () if large else ("hnsw", "flat"):
            peer = side(kind)
            run.say(f"{kind}: {peer['per_second']:.0f} questions a second")
            rows.append(answers(f"faiss {kind}", peer["build_seconds"], peer, peer["peak_rss_mb"]))
            run.raw(kind, peer)
        run.raw("build", built)
        run.raw("ask", found)
        note = (
            "One question at a time. Boda's answers are read from its record with address, score and columns; the others' are row "
            "numbers. Boda's memory counts pages of the vectors' files that the system has cached; without them it is "
            f"{found['peak_anonymous_mb']:.0f} MB. HNSW: 32 links, efConstruction 100, efSearch 64."
        )
        run.table(f"{count:,} x {dim} vectors, {asked} questions, recall@{TOP} against comparing all", rows, note)
        memory = built["anonymous_mb"]
        facts = {
            "record, s": built["append_seconds"],
            "fast form, s": built["fast_seconds"],
            "memory after the first block, MB": memory["first"],
            "at half, MB": memory["half"],
            "at the last, MB": memory["last"],
            "at most, with the fast form, MB": built["peak_anonymous_mb"],
            "vectors on disk, MB": built["vectors_mb"],
            "tables, MB": built["tables_mb"],
            "fast form, MB": built["fast_mb"],
            "opened in, s": found["open_seconds"],
            "p50 with --where, ms": found["filtered_p50_ms"],
            "p50 with --group-by, ms": found["grouped_p50_ms"],
        }
        if model:
            facts |= {"text in, hits out, p50 ms": found["text_p50_ms"], "p99 ms": found["text_p99_ms"]}
        note = f"Built from a stream of blocks of {BLOCK:,} rows, each committed. Memory is anonymous memory: files' pages not counted."
        run.table("Boda's index", [{"": name, "value": value} for name, value in facts.items()], note)
        if run.option("record", False):
            ours = {
                "append_seconds": built["append_seconds"],
                **side("record"),
                "disk_mb": built["vectors_mb"] + built["tables_mb"],
            }
            theirs = run.peer([__file__, "lancedb", folder + ".lance", count, dim])
            names = {
                "append_seconds": "appended, s",
                "take_200_ms": "200 vectors, ms",
                "rows_10_ms": "10 rows of metadata, ms",
                "where_ms": "condition, ms",
                "disk_mb": "disk, MB",
                "peak_rss_mb": "peak memory, MB",
            }
            both = {"Boda's record": ours, "LanceDB": theirs}
            run.table(
                "The record", [{"": who, **{text: each[key] for key, text in names.items()}} for who, each in both.items()]
            )


def answers(who: str, build: float, found: dict, memory: float) -> dict:
    shown = {
        "": who,
        "build, s": build,
        "questions/s": found["per_second"],
        "p50, ms": found["p50_ms"],
        "p99, ms": found["p99_ms"],
    }
    return {**shown, f"recall@{TOP}": f"{found['recall']:.4f}", "peak memory, MB": round(memory)}


if __name__ == "__main__":
    what, where, number, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    saved = np.load(where + ".truth.npz") if what in ("ask", "hnsw", "flat") else {}
    if what == "truth":
        told = side_truth(where, number, size, int(sys.argv[5]))
    elif what == "build":
        told = build_boda(where, number, size)
    elif what == "ask":
        told = ask_boda(where, saved["queries"], saved["truth"], sys.argv[5].strip("-"))
    elif what == "record":
        told = record_boda(where, number)
    elif what == "lancedb":
        told = side_record(where, number, size)
    else:
        told = side_faiss(what, number, size, saved["queries"], saved["truth"])
    print(json.dumps(told, default=float))
