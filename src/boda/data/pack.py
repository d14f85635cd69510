"""The samples of a step -> rows, dealt to processes; a row -> the tensors of a Batch.

A row is a run of segments. A unit is what must stay in one row: a sample alone, or a picture with several questions on it, where
the text up to the picture is a segment of its own and every question a segment whose `prefix` it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

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
    """Places of samples -> units, each at most row_length tokens long where what belongs together is."""
    together = [tuple(map(int, some)) for some in np.asarray(samples, dtype=np.int64).reshape(-1, data.width)]
    if not (share and (data.num_image_tokens or data.width > 1)):  # beside a text, a picture has no tokens to share
        return [Unit(some, 0, sum(int(data.lengths[index]) for index in some)) for some in together]
    groups: dict[int, list[tuple[int, ...]]] = {}
    for place, some in enumerate(together):
        group = int(data.groups[some[0]])
        groups.setdefault(group if group >= 0 else -1 - place, []).append(some)
    units = []
    for members in groups.values():
        prefix, shared = (int(values[members[0][0]]) for values in (data.prefix, data.shared))
        parts: list[tuple[list[int], int]] = []  # samples, length
        for some in members:
            own = sum(int(data.lengths[index]) - shared for index in some)
            part, length = parts.pop() if parts and parts[-1][1] + own <= row_length else ([], shared)
            parts.append(([*part, *some], length + own))
        units += [Unit(tuple(part), prefix if len(part) > 1 else 0, length) for part, length in parts]
    return units


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
    segments: list[_Segment] = []
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
        parent, offset, skip = -1, 0, unit.prefix
        before = 0  # pictures in the shared part
        if samples and skip:
            first = rows[samples[0]]
            before = int((first.input_ids[:skip] == data.image_id).sum())
            head = expand_images(first.input_ids[:skip], data.image_id, data.num_image_tokens)
            parent, offset = len(segments), len(head)
            pixels = [loaded[image.key] for image in first.images[:before]]
            segments.append(_Segment(samples[0], head, np.zeros(offset, dtype=bool), -1, 0, pixels))
        for index in samples:
            rendered = rows[index]
            widths = np.where(rendered.input_ids == data.image_id, data.num_image_tokens, 1)[skip:]
            ids, trained = (np.repeat(values[skip:], widths) for values in (rendered.input_ids, rendered.trained))
            pixels = [loaded[image.key] for image in rendered.images[before:]]
            segments.append(_Segment(index, ids, trained, parent, offset, pixels))
    segments = segments or [_Segment(-1, np.array([pad_id], dtype=np.int32), np.zeros(1, dtype=bool), -1, 0, [])]
    return _tensors(segments) | {"position": position, "bad_images": bad}


class _Segment(NamedTuple):
    sample: int
    ids: np.ndarray
    trained: np.ndarray
    parent: int
    offset: int  # of its first position: the length of its parent
    pixels: list[np.ndarray]


def _tensors(segments: list[_Segment]) -> dict:
    import torch

    def long(arrays: list[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(arrays).astype(np.int64))

    borders = np.cumsum([0, *(len(segment.ids) for segment in segments)])
    # The token before predicts; a segment's first token has none of its own and is never trained.
    assert not any(segment.trained[0] for segment in segments)
    batch = {
        "input_ids": long([segment.ids for segment in segments])[None],
        "position_ids": long([np.arange(len(segment.ids)) + segment.offset for segment in segments])[None],
        "cu_seq_lens": torch.tensor(borders, dtype=torch.int32),
        "prefix": torch.tensor([segment.parent for segment in segments], dtype=torch.int32),
        "label_positions": torch.from_numpy(np.flatnonzero(np.concatenate([segment.trained for segment in segments])) - 1),
        "labels": long([segment.ids[segment.trained] for segment in segments]),
        "image_segment": torch.tensor([n for n, segment in enumerate(segments) for _ in segment.pixels], dtype=torch.int32),
        "sample_ids": torch.tensor([segment.sample for segment in segments], dtype=torch.int64),
    }
    pixels = [array for segment in segments for array in segment.pixels]
    return batch | ({"pixel_values": torch.from_numpy(np.stack(pixels))} if pixels else {})
