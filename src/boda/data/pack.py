"""The samples of a step -> rows, dealt to processes; a row -> the tensors of a Batch.

A row is a run of segments. A unit is what must stay in one row: a sample alone, or a picture with several questions on it, where
the text up to the picture is a segment of its own and every question a segment whose `prefix` it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from boda.data.prepared import PreparedData
from boda.data.render import expand_images
from boda.data.sample import ImageRef
from boda.errors import BodaError


@dataclass(frozen=True)
class Unit:
    """Samples of one row that share their first `prefix` ids and the picture at their end (prefix 0: one sample alone)."""

    samples: tuple[int, ...]
    prefix: int
    length: int


@dataclass(frozen=True)
class Row:
    """Units that are computed together; `length` in tokens."""

    units: tuple[Unit, ...]

    @property
    def length(self) -> int:
        return sum(unit.length for unit in self.units)


def units_of(data: PreparedData, samples: np.ndarray, row_length: int, share: bool) -> list[Unit]:
    """Samples -> units, each at most row_length tokens long where its samples are."""
    if not (share and data.num_image_tokens):  # beside a text, a picture has no tokens to share
        return [Unit((int(index),), 0, int(data.lengths[index])) for index in samples]
    groups: dict[int, list[int]] = {}
    for place, index in enumerate(samples):
        group = int(data.groups[index])
        groups.setdefault(group if group >= 0 else -1 - place, []).append(int(index))
    units = []
    for members in groups.values():
        prefix = int(data.prefix[members[0]]) if len(members) > 1 else 0
        prefix_length = prefix + data.num_image_tokens - 1 if prefix else 0
        part: list[int] = []
        length = prefix_length
        for index in members:
            own = int(data.lengths[index]) - prefix_length
            if part and length + own > row_length:
                units.append(_unit(part, prefix, length, data))
                part, length = [], prefix_length
            part.append(index)
            length += own
        units.append(_unit(part, prefix, length, data))
    return units


def _unit(samples: list[int], prefix: int, length: int, data: PreparedData) -> Unit:
    if len(samples) == 1:
        return Unit((samples[0],), 0, int(data.lengths[samples[0]]))
    return Unit(tuple(samples), prefix, length)


def pack(units: list[Unit], row_length: int, packing: bool = True) -> list[Row]:
    """Units -> rows of at most row_length tokens, best fit with the longest first; without packing one unit a row."""
    if not packing:
        return [Row((unit,)) for unit in units]
    rows: list[list[Unit]] = []
    space: list[int] = []
    for unit in sorted(units, key=lambda unit: (-unit.length, unit.samples)):
        fits = [(free, number) for number, free in enumerate(space) if free >= unit.length]
        if fits:
            number = min(fits)[1]
            rows[number].append(unit)
            space[number] -= unit.length
        else:
            rows.append([unit])
            space.append(row_length - unit.length)
    return [Row(tuple(row)) for row in rows]


def deal(rows: list[Row], processes: int) -> list[list[Row]]:
    """Rows -> one list for each process, all of the same length (empty rows fill up), with the costs as even as can be."""
    each = -(-len(rows) // processes)
    hands: list[list[Row]] = [[] for _ in range(processes)]
    cost = [0] * processes
    for row in sorted(rows, key=lambda row: (-row.length, row.units[0].samples)):
        open_hands = [number for number in range(processes) if len(hands[number]) < each]
        number = min(open_hands, key=lambda number: (cost[number], number))
        hands[number].append(row)
        cost[number] += row.length
    for hand in hands:
        hand.extend(Row(()) for _ in range(each - len(hand)))
    return hands


def step_rows(
    data: PreparedData, samples: np.ndarray, row_length: int, processes: int, packing: bool, share: bool
) -> list[list[Row]]:
    """Samples of a step -> for each process its rows."""
    units = units_of(data, samples, row_length, share and packing)
    return deal(pack(units, row_length, packing), processes)


def build_batch(
    data: PreparedData, row: Row, load_pixels: Callable[[ImageRef], np.ndarray], position: tuple[int, int], pad_id: int = 0
) -> dict:
    """A row -> Batch: the tensors of one forward pass.

    input_ids (1, L), position_ids (1, L), cu_seq_lens (S+1,), prefix (S,), label_positions (K,), labels (K,), image_segment (I,),
    sample_ids (S,), pixel_values (I, 3, H, W) where there are pictures, position (epoch, step), and `bad_images`: what was wrong
    with pictures that could not be read (their samples are left out). An empty row has one token and no label.
    """
    import torch

    pieces = _Pieces()
    bad: list[tuple[int, str]] = []
    for unit in row.units:
        rows = {index: data.row(index) for index in unit.samples}
        loaded: dict[str, np.ndarray] = {}
        readable = set()
        for index, rendered in rows.items():
            try:
                loaded.update({image.key: load_pixels(image) for image in rendered.images if image.key not in loaded})
                readable.add(index)
            except BodaError as error:
                bad.append((index, str(error)))
        samples = [index for index in unit.samples if index in readable]  # with a weight above 1 one may be there twice
        if not samples:
            continue
        parent = -1
        if unit.prefix:
            first = rows[samples[0]]
            head = first.input_ids[: unit.prefix]
            parent = pieces.add(samples[0], _expand(data, head), np.zeros(0, dtype=bool), -1, 0)
            pieces.pictures(parent, [loaded[first.images[0].key]])
        for index in samples:
            rendered = rows[index]
            skip = unit.prefix
            ids = _expand(data, rendered.input_ids[skip:])
            trained = _expand_mask(data, rendered.input_ids[skip:], rendered.trained[skip:])
            segment = pieces.add(index, ids, trained, parent, pieces.length_of(parent))
            pieces.pictures(segment, [loaded[image.key] for image in rendered.images[1 if skip else 0 :]])
    if not pieces.ids:
        pieces.add(-1, np.array([pad_id], dtype=np.int32), np.zeros(1, dtype=bool), -1, 0)
    return pieces.tensors(torch) | {"position": position, "bad_images": bad}


def _expand(data: PreparedData, ids: np.ndarray) -> np.ndarray:
    return expand_images(ids, data.image_id, data.num_image_tokens) if data.num_image_tokens else ids


def _expand_mask(data: PreparedData, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.repeat(mask, np.where(ids == data.image_id, data.num_image_tokens, 1)) if data.num_image_tokens else mask


class _Pieces:
    """Segments of a row as they are put together."""

    def __init__(self):
        self.ids, self.positions, self.label_positions, self.labels = [], [], [], []
        self.borders, self.prefix, self.sample_ids = [0], [], []
        self.pixels, self.image_segment = [], []

    def add(self, sample: int, ids: np.ndarray, trained: np.ndarray, parent: int, offset: int) -> int:
        start = self.borders[-1]
        targets = np.flatnonzero(trained)
        # The token before predicts; a segment's first token has none of its own and is never trained.
        assert not len(targets) or targets[0] > 0
        self.ids.append(ids)
        self.positions.append(np.arange(offset, offset + len(ids)))
        self.label_positions.append(start + targets - 1)
        self.labels.append(ids[targets])
        self.borders.append(start + len(ids))
        self.prefix.append(parent)
        self.sample_ids.append(sample)
        return len(self.prefix) - 1

    def length_of(self, segment: int) -> int:
        return self.borders[segment + 1] - self.borders[segment] if segment >= 0 else 0

    def pictures(self, segment: int, pixels: list[np.ndarray]) -> None:
        self.pixels += pixels
        self.image_segment += [segment] * len(pixels)

    def tensors(self, torch) -> dict:
        long = lambda arrays: torch.from_numpy(np.concatenate(arrays).astype(np.int64))  # noqa: E731
        batch = {
            "input_ids": long(self.ids)[None],
            "position_ids": long(self.positions)[None],
            "cu_seq_lens": torch.tensor(self.borders, dtype=torch.int32),
            "prefix": torch.tensor(self.prefix, dtype=torch.int32),
            "label_positions": long(self.label_positions),
            "labels": long(self.labels),
            "image_segment": torch.tensor(self.image_segment, dtype=torch.int32),
            "sample_ids": torch.tensor(self.sample_ids, dtype=torch.int64),
        }
        if self.pixels:
            batch["pixel_values"] = torch.from_numpy(np.stack(self.pixels))
        return batch
