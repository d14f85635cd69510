"""`ocr-boxes`: where in a picture a text stands, as a box [x1, y1, x2, y2] in shares of width and height, by overlap (IoU).

Either the items of a file whose answers are boxes (those whose answers are texts are `ocr-text`'s), or questions built by seed from
AI Hub 81's textinthewild_data_info.json: words that stand once in their picture, one a picture. An answer that is no box scores 0.
Published (the Small Korean VLM) it is left out of the mean instead, which is then over the boxes that a model happened to write.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from boda.data.sample import IMAGE_MARK, ImageRef, Sample, conversation
from boda.data.sources import resolve_data
from boda.data.sources.common import PICTURES
from boda.errors import WHY, BodaError, explaining
from boda.evaluate.metrics.boxes import box_score, box_score_upstream, box_scores, parse_box
from boda.evaluate.task import Task, read_options, summary
from boda.evaluate.tasks.drawn import read_numbers
from boda.evaluate.tasks.questions import of_samples, questions

VERSION = "1"
RULE = "Small Korean VLM: mean IoU of answers that are four numbers, as JSON or with commas between; others are left out"
QUESTION = (
    "이 이미지에서 '{}' 글자가 있는 영역의 바운딩 박스를 알려주세요. "
    "[x1, y1, x2, y2] 형식으로, 이미지의 너비와 높이를 1로 하여 소수점 둘째 자리까지 답해 주세요."
)
BUILT = 1000  # questions unless said
OF_FILES = ("images", "format", "question", "answer")  # options of files with questions and answers


def from_option(option: str, data_dir: str | Path | None) -> Task:
    """The task of `ocr-boxes:PATH[:seed=N][:number=N][:images=DIR]`, number and seed for AI Hub 81's labels alone."""
    path, given = read_options("ocr-boxes", option, "seed", "number", *OF_FILES)
    if not path:
        raise BodaError("ocr-boxes needs a file: items whose answers are boxes, or AI Hub 81's textinthewild_data_info.json")
    place = Path(resolve_data(path, data_dir))
    labels = _labels(place)
    if labels:
        check_given("ocr-boxes", given, ("seed", "number", "images"), "AI Hub 81's labels")
        seed, number, _ = read_numbers("ocr-boxes", {"number": str(BUILT), "seed": "0", **given}, ())
        images = Path(resolve_data(given["images"], data_dir)) if "images" in given else place.parent
        samples = [*built(labels, images, seed, number)]
    else:
        check_given("ocr-boxes", given, OF_FILES, "a file of items")
        rows = questions(path, data_dir=data_dir, **given).load(None)  # type: ignore[arg-type]
        samples = [row.value for row in rows if is_box(row.value.messages[-1].text)]
    if not samples:
        raise BodaError(
            f"ocr-boxes: {place} has no question whose answer is a box, such as [0.1, 0.2, 0.3, 0.4]; ocr-text reads texts"
        )
    return replace(
        of_samples(samples, list, f"ocr-boxes:{option}", version=VERSION),
        score=lambda row, answer: score(row.value, answer),
        summarise=summarise,
        decoding={"temperature": 0.0, "max_new_tokens": 64},
        note="mean IoU; an answer without a box scores 0",
    )


def check_given(task: str, given: dict[str, str], allowed: Sequence[str], kind: str) -> None:
    """Raises BodaError: an option that this kind of data has not."""
    if wrong := sorted(set(given) - set(allowed)):
        raise BodaError(f"{task}: {wrong[0]} is not for {kind}; here are {', '.join(allowed)}")


def is_box(text: str) -> bool:
    """Whether a reference is a box and nothing else: [0.1, 0.2, 0.3, 0.4], with or without brackets."""
    return parse_box(text) is not None and box_score_upstream(text, text) is not None


def score(sample: Sample, answer: str) -> dict:
    """IoU of the box that an answer gives with the reference's; 0 without one."""
    gold = sample.messages[-1].text
    facts = {"extracted": parse_box(answer), "gold": gold, "tags": dict(sample.tags)}
    return {"score": box_score(answer, gold), "upstream": box_score_upstream(answer, gold), **facts}


def summarise(records: list[dict]) -> dict:
    """Mean IoU and shares of boxes that overlap by half and by three quarters, by both rules."""
    pairs = [(record["raw"], record["gold"]) for record in records if not record["failed"]]
    if not pairs:
        return summary(records)
    found = box_scores(pairs)
    kept = found["upstream"]
    upstream = {"score": kept.pop("iou"), "n": kept.pop("n"), "rule": RULE, "metrics": kept}
    metrics = {name: found[name] for name in ("iou_50", "iou_75")}
    return {**summary(records), "upstream": upstream, "unread": found["unread"], "metrics": metrics}


def _labels(place: Path) -> dict:
    """AI Hub 81's labels, if the file is one of them."""
    if place.suffix != ".json" or not place.is_file():
        return {}
    with explaining(f"{place} is no JSON ({WHY})", ValueError):
        found = json.loads(place.read_text(encoding="utf-8-sig"))
    return found if isinstance(found, dict) and {"images", "annotations"} <= set(found) else {}


def built(labels: dict, images: Path, seed: int, number: int) -> Iterator[Sample]:
    """So many questions of AI Hub 81's labels, by the seed: a word a picture, one that stands there once and has a box in it.

    Pictures are found by their names below `images`. Raises BodaError: labels of another form, or a picture is missing.
    """
    with explaining("ocr-boxes: labels of another form than AI Hub 81's (images: id, width, height, file_name; annotations: image_id, "
                    f"text, attributes.class, bbox): {WHY}", LookupError, TypeError, ValueError, ZeroDivisionError):  # fmt: skip
        sizes = {str(each["id"]): (each["file_name"], float(each["width"]), float(each["height"])) for each in labels["images"]}
        words: dict[str, list[tuple[str, Sequence[float]]]] = defaultdict(list)
        for each in labels["annotations"]:
            if each["attributes"]["class"] == "word" and each["text"] and str(each["image_id"]) in sizes:
                words[str(each["image_id"])].append((unicodedata.normalize("NFC", each["text"]), each["bbox"]))
        chosen = []
        for picture, found in words.items():
            often = Counter(text for text, _ in found)
            fitting = [(text, box) for text, bbox in found if often[text] == 1 and (box := _shares(bbox, *sizes[picture][1:]))]
            if fitting:
                chosen.append((picture, *min(fitting, key=lambda each: _lot(seed, picture, each[0]))))
    chosen = sorted(chosen, key=lambda each: _lot(seed, each[0]))[:number]
    below = {path.name: path for path in images.rglob("*") if path.suffix.lower() in PICTURES}
    for picture, text, box in chosen:
        name = Path(sizes[picture][0]).name
        if name not in below:
            raise BodaError(f"ocr-boxes: no picture {name} below {images}; images=DIR names another folder")
        answer = f"[{', '.join(f'{share:.2f}' for share in box)}]"
        yield conversation(
            ("user", f"{IMAGE_MARK}{QUESTION.format(text)}"), ("assistant", answer), images=(ImageRef(str(below[name])),)
        )


def _shares(bbox: Sequence[float], width: float, height: float) -> tuple[float, ...] | None:
    """x, y, width, height in pixels -> x1, y1, x2, y2 to two decimals; None where nothing of it is in the picture, or left."""
    x, y, across, down = map(float, bbox)
    box = tuple(
        round(min(max(share, 0.0), 1.0), 2) for share in (x / width, y / height, (x + across) / width, (y + down) / height)
    )
    return box if box[0] < box[2] and box[1] < box[3] else None


def _lot(seed: int, *names: str) -> bytes:
    """An order that depends on the seed alone."""
    return hashlib.sha256("/".join([str(seed), *names]).encode()).digest()
