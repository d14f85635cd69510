"""`drawn-pairs`: fresh drawn pictures: where a named object is, descriptions and scenes, words among all 200.

`tile`: colour and shape name one object of a scene of two to four; does its place fit best of 3 x 3 tiles (`grid`), and is it the
hottest on the map of the patches (`heat map`)? Colour-shape pairs and a font that training never shows stand apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from boda.data.drawn.canvas import Dice
from boda.data.drawn.fonts import HELD_OUT, SEEN
from boda.data.drawn.samples import read, scene_facts
from boda.data.drawn.scenes import CELL, PLACES, is_unseen
from boda.data.drawn.sentences import noun_phrase
from boda.data.drawn.words import WORDS
from boda.data.sample import ImageRef
from boda.errors import BodaError
from boda.evaluate.pairs import Search, both_ways, pair_task, text_vectors
from boda.evaluate.patches import cut, dense_scores, tile_scores
from boda.evaluate.task import PairTask, Watch
from boda.evaluate.tasks.drawn import TEST_SEED
from boda.evaluate.tasks.zero_shot import zero_shot

NUMBER = 200
TEXTS = ("{}",)  # the name of an object, or a word, by itself: so drawn pictures are captioned


@dataclass(frozen=True, eq=False)
class Tiles(Search):
    """Names of objects that look for the place they are at, each in a scene of its own."""

    scenes: Sequence[ImageRef] = ()

    def images(self, query: int) -> list[ImageRef]:
        return [self.scenes[query]]

    def measure(self, encoder, wanted: Sequence[int], watch: Watch, sides: dict) -> Iterator[tuple[Any, dict, str]]:
        texts = text_vectors(encoder, [self.queries[query] for query in wanted], TEXTS)
        for query, text in zip(wanted, texts):
            picture, [cell] = self.scenes[query].picture(), self.relevant[query]
            best = int(np.argmax(tile_scores(encoder, cut(picture, 3, 3), text)))
            heat = dense_scores(encoder, picture, text).reshape(3, CELL, 3, CELL).mean((1, 3))
            yield PLACES[best], {"grid": float(best == cell), "heat map": float(np.argmax(heat) == cell)}, ""


def from_option(option: str, data_dir: str | Path | None) -> PairTask:
    """The task, with as many pictures in each of its sets."""
    if option:
        raise BodaError(f"drawn-pairs has no options such as '{option}'; --limit takes fewer rows")
    told = read("descriptions", NUMBER, TEST_SEED, {"style": "polite"})
    searches: list[Search] = [_tiles("tile, pair seen", "seen"), _tiles("tile, pair never seen together", "unseen")]
    searches += both_ways([(each.images[0], [each.messages[-1].text]) for each in told], "description, ")
    for name, fonts in (("word, font seen", SEEN), ("word, font held out", (HELD_OUT,))):
        pictures = [each.images[0] for each in read("words", NUMBER, TEST_SEED, {"kind": "word", "font": fonts})]
        searches.append(zero_shot(name, [(picture, picture.drawn.split("/")[2]) for picture in pictures], WORDS, TEXTS))
    return pair_task("drawn-pairs", searches, "mean of best tiles, R@1 of descriptions, top-1 of words")


def _tiles(name: str, pair: str) -> Tiles:
    """Scenes with an object, of a held-out pair or of none, that its colour and shape name alone."""
    found: list[tuple[str, int, ImageRef]] = []
    place = 0
    while len(found) < NUMBER:
        things = [(noun_phrase(each, full=False), each) for each in scene_facts("few", pair, TEST_SEED, place)["objects"]]
        names = [noun for noun, _ in things]
        fitting = [(n, each["cell"]) for n, each in things if names.count(n) == 1 and is_unseen(each) == (pair == "unseen")]
        if fitting:
            scene = ImageRef(drawn=f"scene/few/{pair}/{TEST_SEED}/{place}")
            found.append((*Dice("tile", TEST_SEED, place).pick(fitting), scene))
        place += 1
    nouns, cells, scenes = zip(*found)
    return Tiles(name, nouns, PLACES, [[cell] for cell in cells], scenes=scenes)
