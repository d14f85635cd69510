"""All objects of a scene told in random order: what lies where, and what looks how."""

from __future__ import annotations

from boda.data.drawn.canvas import Dice
from boda.data.drawn.scenes import place_of
from boda.data.drawn.sentences import Said, is_a, noun_phrase, particled, reference, said_of, there_is

# What is asked for, and the key by which objects are called there (None: by their places, or with all that is known of them).
INVENTORY: tuple[tuple[str, str | None], ...] = (
    ("그림의 도형을 하나씩 말해 주세요.", None),
    ("도형이 어디에 있는지 하나씩 말해 주세요.", None),
    ("모양마다 어떤 도형인지 말해 주세요.", "shape"),
    ("색깔마다 어떤 도형인지 말해 주세요.", "colour"),
)


def inventory(scene: dict, dice: Dice, style: str) -> Said:
    """All objects in random order: what lies at each place, where each object lies, or what has each shape (each colour).

    Told in reading order they can be counted off; in random order each must be found by what is said of it. Of a shape or a
    colour that several have nothing is said.
    """
    things, way = dice.some(scene["objects"], len(scene["objects"])), dice.below(len(INVENTORY))
    if key := INVENTORY[way][1]:
        alone = [thing for thing in things if sum(thing[key] == each[key] for each in things) == 1]
        things, way = (alone, way) if alone else (things, way % 2)
    question, key = INVENTORY[way]
    if key is None:
        clauses = [f"{place_of(t)}에는 {particled(noun_phrase(t), '이가')}" for t in things]
        if way == 1:
            clauses = [f"{particled(noun_phrase(t), '은는')} {place_of(t)}에" for t in things]
        return said_of("inventory", style, question, there_is(", ".join(clauses), style), "", things)
    name = lambda thing: thing["shape"] if key == "shape" else f"{thing['colour']} 도형"  # noqa: E731
    rest = lambda thing: noun_phrase(thing | ({"shape": "도형"} if key == "shape" else {"colour": ""}))  # noqa: E731
    said = ", ".join(f"{particled(name(thing), '은는')} {place_of(thing)}에 있는 {rest(thing)}" for thing in things)
    return said_of("inventory", style, question, is_a(said, style), "", things)


PROFILES = "도형마다 어떻게 생겨서 어디에 있는지 말해 주세요."


def profiles(scene: dict, dice: Dice, style: str) -> Said:
    """Each object that words can mean alone, in random order: called by some of what it is, then the rest and its place.

    Said before the place is, the rest cannot be found by it: what is found is what looks as it is called.
    """
    things, clauses = [], []
    for thing in dice.some(scene["objects"], len(scene["objects"])):
        if called := reference(thing, scene, "cell", dice):
            words = called.split()
            rest = [thing[key] for key in ("size", "colour", "pattern") if thing[key] and thing[key] not in words]
            rest.append("도형" if thing["shape"] in words else thing["shape"])
            things.append(thing)
            clauses.append(f"{particled(called, '은는')} {particled(' '.join(rest), '으로로')} {place_of(thing)}에")
    if not things:  # twins only
        return inventory(scene, dice, style)
    return said_of("profiles", style, PROFILES, there_is(", ".join(clauses), style), "", things)
