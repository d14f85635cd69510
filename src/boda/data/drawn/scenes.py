"""Scenes: which objects lie where, drawn at random with colour-shape pairs that are kept for testing."""

from __future__ import annotations

import math
import re

from boda.data.drawn.canvas import COLOURS, FAINT, GROUNDS, PATTERNS, SHAPES, SIZE, Dice, colours_on
from boda.errors import BodaError

PLACES = (
    "왼쪽 위", "위쪽 가운데", "오른쪽 위", "왼쪽 가운데", "한가운데", "오른쪽 가운데", "왼쪽 아래", "아래쪽 가운데", "오른쪽 아래",
)  # fmt: skip
SIZES = {"큰": (12.0, 14.5), "작은": (7.5, 9.0)}  # radius in pixels; between them nothing, so that every size has its name
LAYOUTS = {"one": (1, 1), "few": (2, 4), "many": (5, 7)}
CELL = SIZE // 3
TURNS = {"화살표": (0, 90, 180, 270), "초승달": (0, 180)}  # shapes that are drawn in several directions

# Every colour is in one pair, every shape in one or two. Neither pictures nor words of the training data have them together.
HELD_OUT_PAIRS = frozenset((colour, SHAPES[(3 * number + 1) % len(SHAPES)]) for number, colour in enumerate(COLOURS))


def scene(dice: Dice, layout: str | None = None, unseen: bool = False, number: int | None = None) -> dict:
    """The facts of a scene: `ground` and `objects`, in reading order.

    `layout` None: any; `unseen`: at least one object's colour and shape are a held-out pair, else none's are; `number`: exactly so
    many objects, in place of a layout. Raises BodaError for more objects than the picture has places, or an unknown layout.
    """
    if number is None:
        if layout is not None and layout not in LAYOUTS:
            raise BodaError(f"no layout '{layout}'; layouts are {', '.join(LAYOUTS)}")
        least, most = LAYOUTS[layout or dice.pick(tuple(LAYOUTS))]
        number = least + dice.below(most - least + 1)
    check_number(number)
    ground = dice.pick(GROUNDS)
    colours = colours_on(ground)
    allowed = [(colour, shape) for colour in colours for shape in SHAPES if (colour, shape) not in HELD_OUT_PAIRS]
    held = [pair for pair in sorted(HELD_OUT_PAIRS) if pair[0] in colours]
    # Crowded scenes take few colours and shapes: then some recur, and there is something to count and to tell apart.
    if number > 1 and dice.chance(0.5):
        some_colours = dice.some(colours, min(len(colours), 2 + dice.below(3)))
        some_shapes = dice.some(SHAPES, 2 + dice.below(3))
        allowed = [pair for pair in allowed if pair[0] in some_colours and pair[1] in some_shapes] or allowed
    cells = sorted(dice.some(range(len(PLACES)), number))
    chosen = dice.below(number) if unseen else -1
    objects = [_object(dice, cell, *dice.pick(held if k == chosen else allowed)) for k, cell in enumerate(cells)]
    return {"ground": {"colour": ground, "kind": dice.pick(FAINT), "seed": dice.below(1 << 30)}, "objects": objects}


def scene_facts(layout: str, pair: str, seed: int, number: int) -> dict:
    """The facts of the scene that a name such as `scene/few/seen/0/17` means; a number as layout: so many objects."""
    objects = int(layout) if layout.isdecimal() else None
    return scene(Dice("scene", layout, pair, seed, number), layout, pair == "unseen", objects)


def alike_facts(look: str, shape: str, seed: int, number: int) -> dict:
    """The facts of a scene whose objects look the same: `3-큰-빨간색-줄무늬`, `별`. Raises BodaError where nothing looks so."""
    found = re.fullmatch("([1-9])-([가-힣]+)-([가-힣]+)(?:-([가-힣]+))?", look)
    objects, size, colour, pattern = found.groups("") if found else ("",) * 4
    if size not in SIZES or colour not in COLOURS or pattern not in (PATTERNS if size == "큰" else "") or shape not in SHAPES:
        raise BodaError(f"nothing that is drawn looks like '{look}' and '{shape}'; '3-큰-빨간색-줄무늬' and '별' would do")
    dice = Dice("alike", look, shape, seed, number)
    ground = dice.pick([each for each in GROUNDS if colour in colours_on(each)])
    cells = sorted(dice.some(range(len(PLACES)), int(objects)))
    things = [_object(dice, cell, colour, shape, size, pattern) for cell in cells]
    return {"ground": {"colour": ground, "kind": dice.pick(FAINT), "seed": dice.below(1 << 30)}, "objects": things}


def check_number(number: int) -> None:
    """Raises BodaError unless a scene can hold so many objects."""
    if not 1 <= number <= len(PLACES):
        raise BodaError(f"a scene cannot hold {number} objects: it has {len(PLACES)} places, and one object at least")


def _object(dice: Dice, cell: int, colour: str, shape: str, size: str = "", pattern: str = "") -> dict:
    """An object at a place; with a size, the pattern is given too."""
    any_size = not size
    size = size or ("큰" if dice.chance(0.6) else "작은")
    radius = round(2 * dice.between(*SIZES[size])) / 2
    free = CELL // 2 - 1 - math.ceil(radius)  # how far the middle may move within its cell
    if any_size and size == "큰" and dice.chance(0.3):
        pattern = dice.pick(PATTERNS[1:])
    return {
        "shape": shape,
        "colour": colour,
        "size": size,
        "pattern": pattern,
        "cell": cell,
        "x": cell % 3 * CELL + CELL // 2 + dice.below(2 * free + 1) - free,
        "y": cell // 3 * CELL + CELL // 2 + dice.below(2 * free + 1) - free,
        "radius": radius,
        "turn": dice.pick(TURNS.get(shape, (0,))) + 4 * dice.below(7) - 12,
        "ink": tuple(max(0, min(255, value + dice.below(25) - 12)) for value in COLOURS[colour]),
    }


def place_of(thing: dict) -> str:
    return PLACES[thing["cell"]]


def is_unseen(thing: dict) -> bool:
    return (thing["colour"], thing["shape"]) in HELD_OUT_PAIRS
