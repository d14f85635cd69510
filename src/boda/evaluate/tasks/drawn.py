"""`drawn`: fresh scenes and words that Boda draws, from a seed that no shipped recipe trains on.

Each question has a picture of its own. Some are about a colour and a shape that training never has together, some words are
in a font that it never has; the tag `set` tells these apart. Answers are compared as in `questions`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache, partial
from itertools import chain, islice
from pathlib import Path

from boda.data.drawn.fonts import HELD_OUT, SEEN
from boda.data.drawn.samples import MAX_SEED, check_seed, read
from boda.data.drawn.sentences import KINDS
from boda.data.sample import Sample, conversation
from boda.errors import BodaError
from boda.evaluate.metrics.particles import THINGS, particle_errors
from boda.evaluate.task import Row, Task, read_options
from boda.evaluate.tasks.questions import of_samples

VERSION = "1"
TEST_SEED, BASELINE_SEED = 2_026_000_000, 2_025_000_000
DEFAULT_NUMBER = 100
ABOUT_UNSEEN = ("colour", "shape", "position", "existence", "object")
# set: (type, collection, where, questions of the DEFAULT_NUMBER)
SETS: dict[str, tuple[str, str, dict, int]] = {
    **{f"{kind}, pair seen": (kind, "questions", {"kind": kind, "pair": "seen"}, 100) for kind in KINDS},
    **{f"{kind}, pair never seen together": (kind, "questions", {"kind": kind, "pair": "unseen"}, 60) for kind in ABOUT_UNSEEN},
    "description": ("description", "descriptions", {"style": "polite"}, 60),
    "word, font seen": ("word", "words", {"kind": "word", "font": SEEN}, 150),
    "word, font held out": ("word", "words", {"kind": "word", "font": HELD_OUT}, 150),
}
TYPES = tuple(dict.fromkeys(kind for kind, *_ in SETS.values()))
_APART = 10_000_000  # picture numbers from one set to the next
_EXAMPLES = 10
_ABOUT = re.compile(rf"(?:(?:왼쪽|오른쪽|위쪽|아래쪽|큰|작은|{'|'.join(THINGS)}) ?)+")


def from_option(option: str, data_dir: str | Path | None) -> Task:
    """The task of `drawn[:seed=N][:number=N][:only=TYPE,TYPE]`: of each type as many questions on seen pairs, the other sets scaled.

    Raises BodaError: another option, no such type, a seed out of range, or a number below 1.
    """
    path, given = read_options("drawn", option, "seed", "number", "only")
    if path:
        raise BodaError(f"drawn: '{path}' is no option; drawn[:seed=N][:number=N][:only={TYPES[0]},{TYPES[-1]}]")
    seed, number, only = read_numbers("drawn", given, TYPES)
    samples = [
        sample
        for place, (which, (kind, _, _, share)) in enumerate(SETS.items())
        if kind in only
        for sample in _of_set(which, seed, max(1, round(share * number / DEFAULT_NUMBER)), place * _APART)
    ]
    task = of_samples(
        samples,
        partial(_trained, only),
        f"drawn:{option}".rstrip(":"),
        kind_of=lambda sample: dict(sample.tags)["set"],
        version=VERSION,
        decoding={"temperature": 0.0, "max_new_tokens": 256},
        note="fresh drawn pictures; exact match after case, punctuation around, and the endings of 'it is X'",
    )

    def score(row: Row, answer: str) -> dict:
        scored = task.score(row, answer)
        scored["asked"] = _wording(scored["asked"])
        if scored["tags"]["type"] == "description":
            told, gold = _told(answer), _told(scored["gold"])
            scored["objects"] = len(told & gold) / max(len(told), len(gold))
        return {**scored, "particle_errors": particle_errors(answer)}

    return replace(task, score=score, summarise=lambda records: _with_remarks(task.summarise(records), records))


def read_numbers(task: str, given: dict[str, str], types: tuple[str, ...]) -> tuple[int, int, tuple[str, ...]]:
    """Seed, number and types of questions that are given, or the usual ones. Raises BodaError: out of range, or no such type."""
    numbers = {"seed": TEST_SEED, "number": DEFAULT_NUMBER}
    for key in numbers.keys() & given:
        if not (given[key].isascii() and given[key].isdecimal()):
            raise BodaError(f"{task}: {key} '{given[key]}' is no whole number (a seed is 0 to {MAX_SEED}, a number at least 1)")
        numbers[key] = int(given[key])
    seed, number = numbers.values()
    only = tuple(given["only"].split(",")) if "only" in given else types
    check_seed(seed)
    if number < 1:
        raise BodaError(f"{task}: number {number}: at least one question a set")
    if wrong := [kind for kind in only if kind not in types]:
        raise BodaError(f"{task}: no questions of type '{wrong[0]}'; types are {', '.join(types)}")
    return seed, number, only


def _of_set(which: str, seed: int, number: int, start: int) -> list[Sample]:
    """So many samples of a set, one a picture, with the tags that they are grouped by."""
    kind, collection, where, _ = SETS[which]
    fitting = (
        _tagged(sample, which)
        for sample in read(collection, 100 * number, seed, where, start)
        if where.get("pair", "seen") == dict(sample.tags)["pair"]  # an empty place is asked about in scenes of either kind
    )
    found = list(islice(fitting, number))
    assert len(found) == number and all(dict(sample.tags)["type"] == kind for sample in found), which
    return found


def _tagged(sample: Sample, which: str) -> Sample:
    tags = dict(sample.tags)
    kind, where, *_ = sample.images[0].drawn.split("/")
    if kind == "word":
        del tags["pair"]
    tags |= {"font" if kind == "word" else "layout": where, "set": which}
    return replace(sample, tags=tuple(tags.items()), rejected=None)


@lru_cache(maxsize=4)
def _trained(only: tuple[str, ...]) -> list[Sample]:
    """About 4,000 questions as training has them, for the baselines."""
    found = chain(read("questions", 540, BASELINE_SEED), read("words", 300, BASELINE_SEED, {"kind": "word"}))
    sets = {kind: which for which, (kind, *_, where, _) in reversed(SETS.items()) if where.get("pair") != "unseen"}
    samples = (_tagged(sample, sets[kind]) for sample in found if (kind := dict(sample.tags)["type"]) in only)
    turns = ((sample.tags, _wording(sample.messages[0].text), sample.messages[1].text) for sample in samples)
    return [conversation(("user", asked), ("assistant", answer), tags=tags) for tags, asked, answer in turns]


def _wording(question: str) -> str:
    """The question without what it is about: hardly two name the same things."""
    return re.sub(_ABOUT, "_", question)


def _told(description: str) -> set[str]:
    """The places and objects that a description in the polite style names."""
    said = description.strip().removesuffix(".").removesuffix(" 있어요")
    return {clause.replace("에는 ", "에 ").rstrip("이가") for clause in said.split(", ") if clause}


def _with_remarks(result: dict, records: list[dict]) -> dict:
    answered = [record for record in records if not record["failed"]]
    errors = [error for record in answered for error in record["particle_errors"]]
    examples = list(dict.fromkeys(errors))[:_EXAMPLES]
    shown = f" ({', '.join(examples)})" if examples else ""
    remarks = [f"particle errors in {len(answered):,} answers: {len(errors)}{shown}"]
    shares = [record["objects"] for record in answered if "objects" in record]
    if shares:
        result["description_objects"] = sum(shares) / len(shares)
        remarks.append(f"objects right in descriptions: {result['description_objects']:.1%}")
    return {**result, "particle_errors": {"count": len(errors), "examples": examples}, "remarks": remarks}
