"""What tasks on pair models are made of: searches of texts among pictures, pictures among texts, and pictures among classes."""

from __future__ import annotations

import json
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from boda.data.images import load_image
from boda.data.sample import ImageRef
from boda.data.templates import Template
from boda.errors import BodaError
from boda.evaluate.metrics.ranking import chance, hits, places
from boda.evaluate.task import PairTask, Row, Watch, limited, summary, version_of

BLOCK = 256


def fill(template: str, label: str) -> str:
    """`이것은 {} 이다.` or `{:이가} 있다.` with the label in its place. Raises BodaError: no such place, or an empty label."""
    named = Template(re.sub(r"(?<!\{)\{(:[^{}]*)?\}(?!\})", r"{label\1}", template))
    if named.columns != ["label"]:
        raise BodaError(f"template '{template}': write {{}} where the label goes, as in '이것은 {{}} 이다.'")
    return named.fill({"label": label}, 0)


def text_vectors(encoder, texts: Sequence[str], templates: Sequence[str] = ("{}",)) -> np.ndarray:
    """(T, dim): for each text the mean of its vectors in all templates, normalised again."""
    vectors = encoder.texts([fill(template, text) for template in templates for text in texts])
    means = vectors.reshape(len(templates), len(texts), -1).mean(0)
    return means / np.linalg.norm(means, axis=-1, keepdims=True)


def vectors_of(encoder, things: Sequence, templates: Sequence[str], watched: Iterable) -> tuple[np.ndarray, dict[int, str]]:
    """(N, dim) of texts or of pictures, and what is wrong with pictures that cannot be read, whose vectors are zero."""
    if isinstance(things[0], str):
        return text_vectors(encoder, things, templates), {}
    errors: dict[int, str] = {}

    def readable() -> Iterator:
        for place, picture in enumerate(watched):
            try:
                yield load_image(picture)
            except BodaError as error:
                errors[place] = str(error)

    found = encoder.images(readable())
    vectors = np.zeros((len(things), encoder.dim), np.float32)
    vectors[[place for place in range(len(things)) if place not in errors]] = found
    return vectors, errors


@dataclass(frozen=True, eq=False)
class Search:
    """Queries, each with its relevant ones in a gallery; either side is all texts or all pictures."""

    name: str  # of the set that results count it to
    queries: Sequence[Any]
    gallery: Sequence[Any]
    relevant: Sequence[Sequence[int]]  # for each query, places in the gallery
    metrics: Callable[[list[int]], dict[str, float]] = hits  # places where they were found -> scores, the query's own first
    templates: Sequence[str] = ("{}",)  # of the gallery's texts

    def images(self, query: int) -> list[ImageRef]:
        """The pictures of a record; queries on the same one stand and fall together."""
        both = (self.queries[query], self.gallery[self.relevant[query][0]])
        return [each for each in both if isinstance(each, ImageRef)]

    def measure(self, encoder, wanted: Sequence[int], watch: Watch, sides: dict) -> Iterator[tuple[Any, dict, str]]:
        """For each wanted query the best of the gallery, its scores, and what went wrong, if anything.

        `sides` keeps the vectors of galleries by id and templates: the gallery of one search may be the queries of another.
        """
        key, asked_key = (id(self.gallery), tuple(self.templates)), (id(self.queries), ("{}",))
        if key not in sides:
            sides[key] = vectors_of(encoder, self.gallery, self.templates, watch(self.gallery, self.name))
            if errors := list(sides[key][1].values()):
                said = f"{len(errors)} of {len(self.gallery)} pictures cannot be read and are left out"
                warnings.warn(f"{self.name}: {said}: {'; '.join(errors[:3])}", stacklevel=2)
        gallery, missing = sides[key]
        if asked_key in sides:
            vectors, errors_at = sides[asked_key]
            vectors, broken = vectors[wanted], [errors_at.get(query) for query in wanted]
        else:
            asked = [self.queries[query] for query in wanted]
            vectors, errors_at = vectors_of(encoder, asked, ("{}",), asked)
            broken = [errors_at.get(place) for place in range(len(wanted))]
        scores = vectors @ gallery.T
        scores[:, list(missing)] = -np.inf
        for query, line, error in zip(wanted, scores, broken):
            relevant = self.relevant[query]
            error = error or next((missing[each] for each in relevant if each in missing), "")
            yield self.gallery[int(np.argmax(line))], {} if error else self.metrics(places(line, relevant)), error


def both_ways(captioned: Sequence[tuple[ImageRef, Sequence[str]]], prefix: str = "") -> list[Search]:
    """Pictures and their captions: each caption looks for its picture, each picture for any of its captions (COCO's protocol)."""
    pictures = [picture for picture, _ in captioned]
    texts = [text for _, captions in captioned for text in captions]
    owners = [[number] for number, (_, captions) in enumerate(captioned) for _ in captions]
    places_of = iter(range(len(texts)))
    captions_of = [[next(places_of) for _ in captions] for _, captions in captioned]
    to_image = Search(f"{prefix}text to image", texts, pictures, owners)
    return [to_image, Search(f"{prefix}image to text", pictures, texts, captions_of)]


def pair_task(name: str, searches: Sequence[Search], note: str) -> PairTask:
    """The task of these searches. A limit leaves out queries, never anything of a gallery, so that scores stay comparable."""
    rows, asked = [], []
    for number, search in enumerate(searches):
        if not search.queries or not search.gallery:
            raise BodaError(f"{name}: {search.name} has no queries, or nothing to look in")
        rows += [Row(f"{number}/{search.name}/{query}", (search, query)) for query in range(len(search.queries))]
        things = (search.name, search.relevant, search.templates, *search.queries, *search.gallery)
        asked += [thing.key if isinstance(thing, ImageRef) else thing for thing in things]

    def measure(encoder, rows: Sequence[Row], watch: Watch) -> Iterator[dict]:
        sides: dict = {}
        for search in searches:
            wanted = [row for row in rows if row.value[0] is search]
            for block in (wanted[start : start + BLOCK] for start in range(0, len(wanted), BLOCK)):
                measured = search.measure(encoder, [row.value[1] for row in block], watch, sides)
                yield from (_record(row, *found) for row, found in zip(block, measured))

    def load(limit: int | None) -> list[Row]:
        return limited(rows, limit, lambda row: row.value[0].name)

    return PairTask(name, version_of("1", asked), load, measure, _summarise, note)


def _record(row: Row, best: Any, metrics: dict[str, float], error: str) -> dict:
    search, query = row.value
    asked, gold = search.queries[query], search.gallery[search.relevant[query][0]]
    record: dict = {"row": row.id, "prompt": [{"role": "user", "content": asked}] if isinstance(asked, str) else []}
    record |= {"images": [json.loads(image.to_json()) for image in search.images(query)], "raw": str(best), "gold": str(gold)}
    record |= {"tags": {"set": search.name}, "metrics": metrics, "score": next(iter(metrics.values()), None), "failed": False}
    record["chance"] = chance(search.metrics, len(search.relevant[query]), len(search.gallery))
    return record if not error else {**record, "raw": None, "failed": True, "error": error}


def _summarise(records: list[dict]) -> dict:
    """The mean of the queries' own scores, what a random order scores, and every metric of every set."""
    groups: dict[str, dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        for metric, value in record["metrics"].items():
            groups[record["tags"]["set"]][metric].append({**record, "score": value})
    by_metric = {name: {metric: summary(some) for metric, some in group.items()} for name, group in groups.items()}
    guesses = [record["chance"] for record in records if not record["failed"] and "chance" in record]  # not in older runs
    return {**summary(records), **({"chance": sum(guesses) / len(guesses)} if guesses else {}), "groups": by_metric}
