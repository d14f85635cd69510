"""Several data sets as one: in the order given, as often as weights say, and each row once where that is asked for."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import repeat
from pathlib import Path
from typing import Any

from boda.data.convert import convert
from boda.data.files import Place
from boda.data.sample import Sample
from boda.data.sources import DATA_SUFFIXES, BadRows, read
from boda.errors import BadRow, BodaError
from boda.files import read_json


def merge(
    paths: Sequence[str | Path],
    out: str | Path,
    to: str | None = None,
    *,
    weights: Sequence[float] | None = None,
    drop_duplicates: bool = False,
    reading: dict[str, Any] | None = None,
    **writing: Any,
) -> dict[str, Any]:
    """Writes sets, one after the other, as one: with new ids, and in `source` the file and row that each came from.

    Args:
        to: as of `convert`; None = the format of the first set, or messages where that is none of them.
        weights: how often each set is taken; of a fraction that share of its rows, always the same ones.
        drop_duplicates: whether rows are left out that say what one before them said, of the same pictures (by their bytes).
        reading: other arguments of `read`, the same for all.
        writing: other arguments of `convert`.

    Returns what `convert` returns, and {sets: {path: samples}, duplicates}. Raises BodaError as `convert` and `read` do.
    """
    reading, times = reading or {}, list(weights or [1.0] * len(paths))
    if len(times) != len(paths) or not all(0 < each < float("inf") for each in times):
        raise BodaError(f"--weights are numbers above 0, one for each set; {len(paths)} sets have {', '.join(map(str, times))}")
    files = [(str(path), weight, file) for path, weight in zip(paths, times) for file in set_files(Path(path))]
    counts: Counter[str] = Counter({name: 0 for name, _, _ in files})
    dropped: Counter[str] = Counter()

    def start(bad: BadRows) -> Iterator[Sample]:
        seen: set[bytes] = set()
        picture = lru_cache(maxsize=64)(lambda image: hashlib.sha256(image.read()).hexdigest())
        for name, weight, file in files:
            for number, sample in enumerate(read(file, bad_rows=bad, **reading)):
                taken = _times(weight, f"{file.name}:{number}")
                if taken and drop_duplicates:
                    try:
                        pictures = [picture(image) for image in sample.images]
                    except BodaError as error:
                        bad.add(error if isinstance(error, BadRow) else sample.bad("images", str(error)))
                        continue
                    key = _digest(repr((sample.messages, pictures, sample.rejected)))
                    if key in seen:
                        dropped[name] += 1
                        continue
                    seen.add(key)
                counts[name] += taken
                yield from repeat(sample, taken)

    done = convert(start, to or _format(files[0][2], reading), out, **writing)
    return done | {"sets": dict(counts), "duplicates": dropped.total()}


def set_files(path: Path) -> list[Path]:
    """The files of a set, in the order of their names: those of a translation job, and of a folder of several data files.

    Raises BodaError: the job is not finished.
    """
    if (path / "data").is_dir() and (job := read_json(path / "manifest.json")):
        if "finished" not in job:
            raise BodaError(f"{path}: the job is not finished; run its boda data translate again, then merge")
        return sorted((path / "data").iterdir())
    found = [each for each in path.iterdir() if Place(str(each)).suffix in DATA_SUFFIXES] if path.is_dir() else []
    return sorted(found) if len(found) > 1 else [path]


def _format(path: Path, reading: dict[str, Any]) -> str:
    """The format to write of the format read."""
    bad = BadRows()
    first = next(read(path, bad_rows=bad, **reading | {"limit": 1, "probe": False}), None)
    if first and first.source.dataset.endswith(".parquet"):
        return "parquet"
    return {"llava": "llava", "sharegpt": "llava", "webdataset": "webdataset"}.get(next(iter(bad.formats)), "messages")


def _times(weight: float, row: str) -> int:
    """How often a row is taken: the whole times, and once more for the fraction's share of all rows."""
    return int(weight) + (int.from_bytes(_digest(row)) / 2**128 < weight % 1)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
