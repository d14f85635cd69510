"""Demonstrations: solved examples that stand before a question as earlier turns, chosen at random or for their pictures."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from boda.data.sample import ImageRef, Sample
from boda.errors import BodaError
from boda.evaluate.pairs import vectors_of
from boda.evaluate.task import Row
from boda.terminal import watched


class Demonstrations:
    """Examples for every question, each on another picture and none on a picture of the question's own.

    More of them only put further ones in front. At random: the pictures of `samples` are equally likely, whatever the number of
    samples on them, and it depends on the seed and the row's name alone. With `encoder`, which opens an Encoder: by the likeness of
    first pictures (cosine), the likest last. `most`: so many are asked for at most. Raises BodaError: fewer pictures than that.
    """

    def __init__(self, samples: Sequence[Sample], most: int, seed: int = 0, encoder: Callable[[], Any] | None = None):
        groups: dict[str, list[Sample]] = defaultdict(list)
        for number, sample in enumerate(samples):
            groups[sample.images[0].key if sample.images else f"row {number}"].append(sample)
        self.groups, self.most, self.seed, self.encoder = list(groups.values()), most, seed, encoder
        self._chosen: dict[str, list[Sample]] = {}
        if len(self.groups) < most:
            raise self._too_few()

    def of(self, row: Row, number: int) -> list[Sample]:
        """So many demonstrations for a row (its value is a Sample), in the order that they are shown."""
        if number and row.id not in self._chosen:
            self._chosen[row.id] = self._choose(row)
        return self._chosen[row.id][:number][::-1] if number else []

    def _choose(self, row: Row) -> list[Sample]:
        rng, found = random.Random(f"{self.seed}/{row.id}"), list[Sample]()
        own = {_content(image) for image in row.value.images}
        for group in self._by_likeness(row.value) if self.encoder else self._at_random(rng):
            sample = rng.choice(group)
            if own.isdisjoint(map(_content, sample.images)):
                found.append(sample)
                if len(found) == self.most:
                    return found
        raise self._too_few()

    def _at_random(self, rng: random.Random) -> Iterator[list[Sample]]:
        """All groups, one by one: a shuffled list would be made anew for every row."""
        drawn: set[int] = set()
        while len(drawn) < len(self.groups):
            place = rng.randrange(len(self.groups))
            if place not in drawn:
                drawn.add(place)
                yield self.groups[place]

    def _by_likeness(self, sample: Sample) -> Iterator[list[Sample]]:
        groups, vectors, encoder = self._encoded
        (vector,), _ = vectors_of(encoder, sample.images[:1], (), sample.images[:1])
        return (groups[place] for place in np.argsort(-(vectors @ vector), kind="stable"))

    @cached_property
    def _encoded(self) -> tuple[list[list[Sample]], np.ndarray, Any]:
        """Groups whose picture can be read, and the vectors of these pictures."""
        assert self.encoder
        encoder, pictures = self.encoder(), [group[0].images[0] for group in self.groups]
        vectors, errors = vectors_of(encoder, pictures, (), watched(pictures, "pictures to choose from", len(pictures)))
        kept = [place for place in range(len(pictures)) if place not in errors]
        return [self.groups[place] for place in kept], vectors[kept], encoder

    def _too_few(self) -> BodaError:
        return BodaError(
            f"{self.most} shots need as many pictures besides the question's own; there are {len(self.groups):,} in all: "
            "fewer shots, or a larger train="
        )


def with_shots(sample: Sample, shown: Sequence[Sample]) -> Sample:
    """The sample after the turns of those shown, as one conversation; the system text is its own."""
    system = sample.messages[: sample.messages[0].role == "system"]
    turns = [message for each in (*shown, sample) for message in each.messages if message.role != "system"]
    first = sum(message.num_images for message in system)
    before = [image for each in shown for image in each.images]
    return replace(sample, messages=(*system, *turns), images=(*sample.images[:first], *before, *sample.images[first:]))


@lru_cache(maxsize=1 << 17)
def _content(image: ImageRef) -> str:
    """What a picture shows, by its bytes: the same file may lie in two folders."""
    return image.drawn or hashlib.sha256(image.read()).hexdigest()
