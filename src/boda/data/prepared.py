"""Rendered samples on disk: ids, labels and where the pictures are, ready for random access from any process.

Preparing reads every source once, writes flat arrays under a temporary name and renames the folder when it is whole. Only text
and places of pictures are stored, never pixels.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from boda.data.pairs import PairRenderer
from boda.data.render import Rendered, Renderer
from boda.data.sample import ImageRef, Sample
from boda.errors import BadRow, BodaError
from boda.files import read_json, whole_folder, write_json

COLUMNS = ("lengths", "targets", "prefix", "shared", "groups", "sources", "shards", "answers")
ARRAYS = ("ids", "trained", "starts", *COLUMNS, "image_starts")


@dataclass
class PreparedData:
    """Random access to prepared samples; arrays are memory-mapped, so processes share them.

    Attributes: lengths (N,) tokens of each sample with pictures in full; targets (N,) trained tokens; prefix (N,) tokens that
    may be shared (pictures as one); shared (N,) the same with pictures in full; groups (N,) equal where that prefix (of a picture
    and its text: the picture) is, else -1; sources (N,); shards (N,) equal where the picture lies in the same tar shard, -1 if in
    none; answers (N, 2) where the last answer begins and ends (pictures as one); width: places that belong together, 2 where a
    chosen answer is followed by the rejected one.
    """

    folder: Path
    num_image_tokens: int
    image_id: int
    weights: list[float]
    truncated: int
    width: int
    arrays: dict[str, np.ndarray]
    names: list[str]
    pictures: list[str]

    @classmethod
    def open(cls, folder: Path) -> PreparedData:
        header = read_json(folder / "header.json")
        del header["key"]
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
        names = (folder / "names.txt").read_text(encoding="utf-8").split("\n")[:-1]
        pictures = (folder / "pictures.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
        return cls(folder, arrays=arrays, names=names, pictures=pictures, **header)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getattr__(self, name: str) -> np.ndarray:
        if name in ARRAYS:
            return self.arrays[name]
        raise AttributeError(name)

    def __reduce__(self):
        return PreparedData.open, (self.folder,)

    def row(self, index: int) -> Rendered:
        """One sample. `input_ids` has one token a picture."""
        start, end = int(self.starts[index]), int(self.starts[index + 1])
        first, last = int(self.image_starts[index]), int(self.image_starts[index + 1])
        images = tuple(ImageRef.from_json(line) for line in self.pictures[first:last])
        ids, trained = np.asarray(self.ids[start:end]), np.asarray(self.trained[start:end])
        return Rendered(ids, trained, images, int(self.prefix[index]), answer=tuple(self.answers[index].tolist()))

    def places(self, samples: np.ndarray) -> np.ndarray:
        """(n,) numbers of samples -> (n * width,) places of all that belongs to them, in order."""
        return (np.asarray(samples)[:, None] * self.width + np.arange(self.width)).ravel()

    def name(self, index: int) -> str:
        """File and row of a sample, for messages."""
        return self.names[index]


def fingerprint(*parts: object) -> str:
    """A short name for everything that decides what preparing gives."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def prepare(
    sources: Sequence[tuple[Callable[[], Iterable[Sample]], float]],
    renderer: Renderer | PairRenderer,
    folder: Path,
    key: str,
    report: Callable[[BadRow], None],
    progress: Callable[[int], None] = lambda count: None,
) -> PreparedData:
    """Renders all sources into `folder`, or opens it if it was prepared from the same `key` before.

    Sources are functions that start reading one, with their weights; `report` is told of each sample that cannot be used,
    `progress` how many have been read. Raises BodaError if no sample could be used or the disk is full.
    """
    key = fingerprint(key, ARRAYS)
    if read_json(folder / "header.json").get("key") == key:
        return PreparedData.open(folder)
    shutil.rmtree(folder, ignore_errors=True)  # there may be no room for both
    with whole_folder(folder, f"prepared data to {folder}", "free some space or choose another --out") as partial:
        _write(sources, renderer, partial, key, report, progress)
    return PreparedData.open(folder)


def _write(sources, renderer: Renderer | PairRenderer, folder: Path, key: str, report, progress) -> None:
    starts, image_starts = [0], [0]
    columns: dict[str, list] = {name: [] for name in COLUMNS}
    group_numbers: dict[bytes, int] = {}
    shard_numbers: dict[str, int] = {}
    truncated = 0
    with (
        (folder / "ids.raw").open("wb") as ids,
        (folder / "trained.raw").open("wb") as trained,
        (folder / "names.txt").open("w", encoding="utf-8") as names,
        (folder / "pictures.jsonl").open("w", encoding="utf-8") as pictures,
    ):
        for number, sample, rendered in _rendered(sources, renderer, report, progress):
            ids.write(rendered.input_ids.tobytes())
            trained.write(rendered.trained.tobytes())
            names.write(f"{sample.source.dataset}, row {sample.source.row}".replace("\n", " ") + "\n")
            for image in rendered.images:
                pictures.write(image.to_json() + "\n")
            starts.append(starts[-1] + len(rendered.input_ids))
            image_starts.append(image_starts[-1] + len(rendered.images))
            head = rendered.input_ids[: rendered.prefix]
            pictures_shared = int((head == renderer.image_id).sum()) if renderer.num_image_tokens else len(rendered.images)
            group = -1
            if rendered.prefix or pictures_shared:
                keys = "".join(image.key for image in rendered.images[:pictures_shared])
                group = group_numbers.setdefault(
                    hashlib.sha256(head.tobytes() + keys.encode()).digest()[:16], len(group_numbers)
                )
            shared = len(head) + pictures_shared * (renderer.num_image_tokens - 1) if rendered.prefix else 0
            shard = -1
            if rendered.images and rendered.images[0].offset >= 0:
                shard = shard_numbers.setdefault(rendered.images[0].path, len(shard_numbers))
            truncated += rendered.truncated
            length, targets = renderer.length(rendered), int(rendered.trained.sum())
            facts = (length, targets, rendered.prefix, shared, group, number, shard, rendered.answer)
            for column, fact in zip(columns.values(), facts):
                column.append(fact)
    if len(starts) == 1:
        raise BodaError("no sample of the data could be used; see bad_rows.jsonl for the reasons")
    for name, kind in (("ids", np.int32), ("trained", bool)):
        np.save(folder / f"{name}.npy", np.fromfile(folder / f"{name}.raw", dtype=kind))
        (folder / f"{name}.raw").unlink()
    for name, values in {**columns, "starts": starts, "image_starts": image_starts}.items():
        np.save(folder / f"{name}.npy", np.array(values, dtype=np.int64))
    header = {
        "key": key,
        "num_image_tokens": renderer.num_image_tokens,
        "image_id": renderer.image_id,
        "weights": [weight for _, weight in sources],
        "truncated": truncated,
        "width": renderer.width,
    }
    write_json(folder / "header.json", header)


def _rendered(sources, renderer: Renderer | PairRenderer, report, progress) -> Iterator[tuple[int, Sample, Rendered]]:
    count = 0
    for number, (read, _) in enumerate(sources):
        for sample in read():
            count += 1
            if count % 500 == 0:
                progress(count)
            try:
                yield from ((number, sample, rendered) for rendered in renderer.render_all(sample))
            except BadRow as bad:
                report(bad)
    progress(count)
