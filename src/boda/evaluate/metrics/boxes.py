"""Boxes that models write as text: reading them, and how much of a box is found (intersection over union)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence

from boda.errors import BodaError

Box = tuple[float, float, float, float]  # x1, y1, x2, y2: two corners
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_FOUR = re.compile(rf"[\[(]\s*({_NUMBER}(?:\s*,\s*|\s+){_NUMBER}(?:\s*,\s*|\s+){_NUMBER}(?:\s*,\s*|\s+){_NUMBER})\s*[\])]")
_ANY = re.compile(rf"(?<![\w.]){_NUMBER}(?![\w.]*\d)")  # not the 1 of x1


def parse_box(text: str) -> Box | None:
    """The box that a text tells: its first four numbers in brackets, else its numbers if there are just four; None otherwise.

    Numbers are taken as they are: whether 52 is a pixel or a per cent cannot be seen from it, so nothing is scaled.
    """
    bracketed = _FOUR.search(text)
    numbers = [float(each) for each in _ANY.findall(bracketed[1] if bracketed else text)]
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        return None
    return (numbers[0], numbers[1], numbers[2], numbers[3])


def iou(first: Sequence[float], second: Sequence[float]) -> float:
    """Intersection over union of two boxes, 0 to 1, whichever opposite corners they are given by. A box without an area (a thin
    word, rounded) has it with itself alone: 1 with an equal one, else 0."""
    (left, top, right, bottom), other = _upright(first), _upright(second)
    shared = max(0.0, min(right, other[2]) - max(left, other[0])) * max(0.0, min(bottom, other[3]) - max(top, other[1]))
    union = (right - left) * (bottom - top) + (other[2] - other[0]) * (other[3] - other[1]) - shared
    return shared / union if union > 0 and shared > 0 else float((left, top, right, bottom) == other)


def box_score(answer: str, reference: str) -> float:
    """IoU of the box that an answer tells with the reference's, 0 where it tells none. Raises BodaError: the reference is no box."""
    box, wanted = parse_box(answer), parse_box(reference)
    if wanted is None:
        raise BodaError(f"'{reference[:80]}' is no box; the reference of a box is written [x1, y1, x2, y2]")
    return iou(box, wanted) if box else 0.0


def box_score_upstream(answer: str, reference: str) -> float | None:
    """IoU by the rule of the Small Korean VLM's evaluation: None, which leaves the row out of its mean, unless both texts are a JSON
    list of four numbers or four numbers between commas and nothing else; reversed corners are negative areas (an IoU may be below 0
    or above 1); 0 for a union of 0, so a box without an area does not match itself. (Another model's boxes it reads otherwise: the
    first in brackets, both rounded to a tenth. That is no rule for all models, and not here.)"""
    one, other = _four(reference), _four(answer)
    if one is None or other is None:
        return None
    shared = max(0, min(one[2], other[2]) - max(one[0], other[0])) * max(0, min(one[3], other[3]) - max(one[1], other[1]))
    union = (one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - shared
    return shared / union if union != 0 else 0.0


def box_scores(pairs: Sequence[tuple[str, str]]) -> dict:
    """Of (answer, reference) pairs: `iou` (mean), `iou_50` and `iou_75` (shares with at least so much), `unread` (answers that tell no
    box, which count 0) and `upstream`, the same by the published rule, over the `n` pairs it keeps (None where it keeps none).

    Raises BodaError: no pairs, or a reference that is no box.
    """
    if not pairs:
        raise BodaError("there are no boxes to score")
    kept = [score for pair in pairs if (score := box_score_upstream(*pair)) is not None]
    unread = sum(parse_box(answer) is None for answer, _ in pairs)
    return {**_shares([box_score(*pair) for pair in pairs]), "unread": unread, "upstream": {**_shares(kept), "n": len(kept)}}


def _shares(scores: Sequence[float]) -> dict[str, float | None]:
    limits = {"iou_50": 0.5, "iou_75": 0.75}
    if not scores:
        return dict.fromkeys(("iou", *limits))
    shares = {name: sum(score >= limit for score in scores) / len(scores) for name, limit in limits.items()}
    return {"iou": sum(scores) / len(scores), **shares}


def _upright(box: Sequence[float]) -> Box:
    left, right = sorted((box[0], box[2]))
    top, bottom = sorted((box[1], box[3]))
    return (left, top, right, bottom)


def _four(text: str) -> list[float] | None:
    """The published rule of reading; it takes true, NaN and Infinity for numbers, as Python does."""
    try:
        box = json.loads(text)
        if isinstance(box, list) and len(box) == 4 and all(isinstance(each, (int, float)) for each in box):
            return box
    except (ValueError, RecursionError):
        pass
    try:
        box = [float(each.strip()) for each in text.strip().split(",")]
    except ValueError:
        return None
    return box if len(box) == 4 else None
