"""Documents of several pictures with their words: asked about the latest one, or shown what to say by those before.

A document is told from its end: the same seed and number with fewer pictures are its last ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

from boda.data.drawn.canvas import COLOURS, PATTERNS, SHAPES, Dice
from boda.data.drawn.scenes import HELD_OUT_PAIRS, SIZES, scene_facts
from boda.data.drawn.sentences import FULL, NUMBERS, STYLES, ask, describe, is_a, noun_phrase, say_pattern, say_size
from boda.errors import BodaError

if TYPE_CHECKING:
    from boda.data.drawn.samples import Choice

# Pictures of the longest documents; short ones are more frequent, but of names, which have to come again.
MOST = {"latest": 5, "captions": 6, "task": 12, "marks": 12, "names": 12}
MOST_TURNS = 33
APART = 100  # picture numbers from one document to the next

# All that can be said of a picture whose objects look the same.
COUNTS = tuple(f"{number} 개" for number in NUMBERS[1:5])
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS), "shape": SHAPES, "size": tuple(SIZES), "pattern": PATTERNS, "count": COUNTS,
}  # fmt: skip
SAY: dict[str, Callable[[str, str], str]] = {**dict.fromkeys(ATTRIBUTES, is_a), "size": say_size, "pattern": say_pattern}

# A task that is shown and not named: to say an attribute in a form. Some pairs of these are kept for testing.
NOUNS = {"큰": "큰 것", "작은": "작은 것", "": "민무늬"}
FORMS: dict[str, Callable[[str], str]] = {
    **{style: partial(is_a, style=style) for style in STYLES},
    "label": "답: {}".format, "brackets": "[{}]".format, "shout": "{}!".format, "quotes": "'{}'".format,
}  # fmt: skip
HELD_OUT_TASKS = frozenset((a, f) for i, a in enumerate(ATTRIBUTES) for j, f in enumerate(FORMS) if (i + j) % 4 == 3)

# ... or in a form of words that mean nothing and are new in every document.
MARKED = ("{0}: {x}", "{x} {0}", "{0} {x} {1}", "[{0}] {x}", "{x}, {0}")

# Names that mean nothing, of two frequent syllables. Those kept for testing share their syllables with others.
NAMES: dict[str, tuple[str, ...]] = {
    pair: tuple(
        first + second
        for i, first in enumerate("가고구기나다두라로리마모무미바부비사소수시아오우자주지차추치카타파피하화")
        for j, second in enumerate("디커슬울토곱늬락뭐슨습엇촌큼터틀풍")
        if ((i + j) % 5 == 0) == (pair == "unseen")
    )
    for pair in ("seen", "unseen")
}


@dataclass(frozen=True)
class Document:
    """Pictures by name, the question and the answer beside each, and what evaluation groups by."""

    pictures: tuple[str, ...]
    turns: tuple[tuple[str, str], ...]
    tags: dict[str, str]


def document(choice: Choice, seed: int, number: int) -> Document:
    """The document of a number. Raises BodaError if there is none of the kinds asked for."""
    dice = Dice("interleaved", seed, number)
    kinds = [kind for kind in choice.kind if kind in MOST]
    if not kinds:
        raise BodaError(f"no interleaved document is of the kind '{choice.kind[0]}'; there are {', '.join(MOST)}")
    kind, pair = dice.pick(kinds), dice.pick(choice.pair)
    length = dice.random() ** (1 if kind == "names" else 2)
    turns = int(dice.pick(choice.turns)) if choice.turns else 2 + int(length * (MOST[kind] - 1))
    names = tuple(f"{seed}/{number * APART + place}" for place in range(turns))
    # Its own dice: what is told does not hang on how much is.
    pictures, told, tags = _TELL[kind](Dice(kind, seed, number), names, pair, choice)
    return Document(tuple(pictures[::-1]), tuple(told[::-1]), {"type": kind, "pair": pair, **tags})


Told = tuple[list[str], list[tuple[str, str]], dict[str, str]]  # pictures and turns, the last first, and tags


def _latest(dice: Dice, names: tuple[str, ...], pair: str, choice: Choice) -> Told:
    """Pictures with questions and captions. What the last is asked about is otherwise in all before it, the question too."""
    asked, style = dice.pick(tuple(ATTRIBUTES)), dice.pick(choice.style).replace(FULL, "formal")
    value = dice.pick(ATTRIBUTES[asked])
    looks = [_look(dice, {asked: value}, pair == "unseen")]
    turns = [_ask(looks[0], asked, style, dice)]
    before, others = asked, []
    for _ in names[1:]:
        looks.append(_look(dice, {asked: dice.pick([each for each in ATTRIBUTES[asked] if each != value])}))
        before = dice.pick([each for each in (*ATTRIBUTES, "description") if each != before])
        turns.append(_ask(looks[-1], before, style, dice))
        others.append(SAY[asked](looks[-1][asked], style))
    tags = {"style": style, "asked": asked, "others": "|".join(others[::-1])}
    return [_name(look, name) for look, name in zip(looks, names)], turns, tags


def _captions(dice: Dice, names: tuple[str, ...], pair: str, choice: Choice) -> Told:
    """Each picture with a few words on it, with or without size and pattern throughout."""
    full = dice.chance(0.5)
    pictures: list[str] = []
    turns: list[tuple[str, str]] = []
    for place, name in enumerate(names):
        unseen = pair == "unseen" and place == 0
        if dice.chance(0.3) and not unseen:
            pictures.append(f"scene/2/seen/{name}")
            turns.append(("", describe(scene_facts("2", "seen", *map(int, name.split("/"))), "short")))
        else:
            look = _look(dice, {}, unseen)
            pictures.append(_name(look, name))
            turns.append(("", _caption(look, full)))
    return pictures, turns, {}


def _task(dice: Dice, names: tuple[str, ...], pair: str, choice: Choice) -> Told:
    """One attribute of each picture, said in one form throughout."""
    tasks = [(a, f) for a in ATTRIBUTES for f in FORMS if ((a, f) in HELD_OUT_TASKS) == (pair == "unseen")]
    attribute, form = dice.pick(tasks)
    looks = [_look(dice, {attribute: dice.pick(ATTRIBUTES[attribute])}) for _ in names]
    values = [NOUNS.get(look[attribute], look[attribute]) for look in looks]
    tags = {"attribute": attribute, "form": form, "value": values[0]}
    return [_name(look, name) for look, name in zip(looks, names)], [("", FORMS[form](value)) for value in values], tags


def _marks(dice: Dice, names: tuple[str, ...], pair: str, choice: Choice) -> Told:
    """One attribute of each picture, between words that are made up for this document."""
    attribute, form, words = dice.pick(tuple(ATTRIBUTES)), dice.pick(MARKED), dice.some(NAMES[pair], 2)
    looks = [_look(dice, {attribute: dice.pick(ATTRIBUTES[attribute])}) for _ in names]
    turns = [("", form.format(*words, x=NOUNS.get(look[attribute], look[attribute]))) for look in looks]
    return [_name(look, name) for look, name in zip(looks, names)], turns, {"attribute": attribute}


def _names(dice: Dice, names: tuple[str, ...], pair: str, choice: Choice) -> Told:
    """Two to four colours (shapes) bear names that are made up for this document; of each picture its name."""
    attribute = dice.pick(("colour", "shape"))
    values = dice.some(ATTRIBUTES[attribute], 2 + dice.below(3))
    called = dict(zip(values, dice.some(NAMES[pair], len(values))))
    looks = [_look(dice, {attribute: dice.pick(values), "count": COUNTS[0]}) for _ in names]
    turns = [("", called[look[attribute]]) for look in looks]
    known = "yes" if turns[0] in turns[1:] else "no"
    return [_name(look, name) for look, name in zip(looks, names)], turns, {"attribute": attribute, "known": known}


_TELL: dict[str, Callable[[Dice, tuple[str, ...], str, Choice], Told]] = {
    "latest": _latest, "captions": _captions, "task": _task, "marks": _marks, "names": _names,
}  # fmt: skip


def _look(dice: Dice, fixed: dict[str, str], unseen: bool = False) -> dict[str, str]:
    """A value of every attribute, those that are fixed as they are; `unseen`: colour and shape are a held-out pair."""
    colour, shape = dice.pick(_pairs(unseen, fixed.get("colour", ""), fixed.get("shape", "")))
    # Only large objects have patterns.
    size = fixed.get("size") or ("큰" if dice.chance(0.6) or fixed.get("pattern") else "작은")
    pattern = dice.pick(PATTERNS[1:]) if dice.chance(0.3) and size == "큰" else ""
    count = dice.pick(COUNTS) if dice.chance(0.3) else COUNTS[0]
    return {"size": size, "colour": colour, "pattern": pattern, "shape": shape, "count": count} | fixed


@cache
def _pairs(unseen: bool, colour: str, shape: str) -> list[tuple[str, str]]:
    """The pairs with this colour and this shape, of those held out or of the others."""
    pairs = [(c, s) for c in ([colour] if colour else COLOURS) for s in ([shape] if shape else SHAPES)]
    return [pair for pair in pairs if (pair in HELD_OUT_PAIRS) == unseen]


def _name(look: dict[str, str], name: str) -> str:
    """The name of a picture of what looks so: `alike/3-큰-빨간색-줄무늬/별/0/17`."""
    parts = (str(COUNTS.index(look["count"]) + 1), look["size"], look["colour"], look["pattern"])
    return f"alike/{'-'.join(filter(None, parts))}/{look['shape']}/{name}"


def _caption(look: dict[str, str], full: bool) -> str:
    return noun_phrase(look, full) + (f" {look['count']}" if look["count"] != COUNTS[0] else "")


def _ask(look: dict[str, str], what: str, style: str, dice: Dice) -> tuple[str, str]:
    """A question on an attribute, or for a caption, and its answer."""
    if what == "description":
        return ask(what, "short", "", dice), _caption(look, full=False)
    return ask(what, style, "도형", dice), SAY[what](look[what], style)
