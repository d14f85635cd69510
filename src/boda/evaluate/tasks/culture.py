"""`culture-ko`: what a Korean picture shows, as a choice of four.

From a file of the Small Korean VLM's own items (LLaVA's form, the options within the question), or from the user's copy of AI Hub
79 (Korean food, a folder a dish) or 144 (Korean things, a JSON beside each picture): then every question is made here, from a seed,
the three wrong options being of the same larger class. `upstream` is the rule of github.com/AIKU-Official/aiku-25-1-Small-Korean-VLM,
k_culture_eval/eval_metric.py; `equal` and `first_character` are those of its other two scorers, where references are a letter.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from boda.data.drawn.canvas import Dice
from boda.data.files import Place
from boda.data.rows import text_rows
from boda.data.sample import IMAGE_MARK, ImageRef
from boda.data.sources import resolve_data
from boda.errors import WHY, BadRow, BodaError, explaining
from boda.evaluate.multiple_choice import BY_LETTER, Question, answer_of, choice_task, options_in, with_letters
from boda.evaluate.rules import first_letter, verbatim, word
from boda.evaluate.task import Task, read_options
from boda.evaluate.tasks.drawn import read_numbers

VERSION, NUMBER = "1", 500
PICTURES = (".jpg", ".jpeg", ".png")
DISH, THING = "이 사진 속 음식은 무엇인가요?", "이 사진 속 사물은 무엇인가요?"


def from_option(option: str, data_dir: str | Path | None) -> Task:
    """The task of `culture-ko:PATH[:images=DIR]`, of a JSON file, or `culture-ko:PATH[:seed=N][:number=N][:label=a.b.c]`, of a folder.

    Raises BodaError: no such data, an item without a letter as its answer, no folder a dish, no label where `label` says.
    """
    path, given = read_options("culture-ko", option, "images", "seed", "number", "label")
    if not path:
        raise BodaError("culture-ko needs data: culture-ko:FILE.json, or the folder of AI Hub 79 or 144: culture-ko:kfood")
    place = Place.of(resolve_data(path, data_dir).absolute())
    is_file = place.suffix in (".json", ".jsonl")
    if idle := sorted(given.keys() & ({"seed", "number", "label"} if is_file else {"images"})):
        raise BodaError(
            f"culture-ko: '{idle[0]}' is for {'folders of pictures' if is_file else 'files of questions'}; leave it out"
        )
    name = "culture-ko" if is_file else f"culture-ko:{'things' if 'label' in given else 'food'}"
    if is_file:
        images = Place.of(resolve_data(given["images"], data_dir)) if "images" in given else place.parent
        questions = [*_items(place, images)]
        if not questions:
            raise BodaError(f"{place} holds no question")
        if not any(Place(image.path, image.member).is_file for question in questions for image in question.images):
            raise BodaError(f"none of the pictures of {place} is in {images}; name their folder: culture-ko:{path}:images=DIR")
    else:
        questions = _built(place, given)
    return choice_task(
        ":".join([name, *(f"{key}={given[key]}" for key in ("seed", "number") if key in given)]),
        VERSION,
        questions,
        word,
        "Small Korean VLM eval_metric.py: the first lone A-D of the upper-cased answer",
        more={"equal": verbatim, "first_character": first_letter},
        decoding={"temperature": 0.0, "max_new_tokens": 100},
        note="accuracy; equal: the answer is the letter and nothing else; first_character: of the stripped answer, empty ones left out",
    )


def _items(place: Place, images: Place) -> Iterator[Question]:
    """The questions of a file."""
    form = '{"id", "image", "conversations": [{"from": "human", "value": "<image>\\n..."}, {"from": "gpt", "value": "B"}]}'
    seen = set()
    for number, row in text_rows(place):
        if isinstance(row, BadRow):
            raise row
        with explaining(
            f"{place}, row {number} is no item of culture-ko, which are published as {form}", LookupError, TypeError
        ):
            said = {turn["from"]: str(turn["value"]) for turn in reversed(row["conversations"])}
            asked, letter = said["human"], word(said["gpt"])
            name, picture = str(row["id"]), images.child(str(row["image"]).lstrip("/"))
        if name in seen:
            raise BodaError(f"{place}: two items have the id '{name}'; each names one question")
        seen.add(name)
        asked = unicodedata.normalize("NFC", re.sub(rf"{IMAGE_MARK}\s*\n?", "", asked)).strip()
        options = options_in(asked)
        if options is None or len(options) != 4:
            options = tuple("ABCD")  # told in a way that is not understood: letters alone are read
        answer = answer_of(str(place), name, letter or said["gpt"], options)
        yield Question(name, asked, options, answer, (ImageRef(picture.path, picture.member),))


def _built(place: Place, given: dict[str, str]) -> list[Question]:
    """Questions on pictures of every label in turn, the same ones wherever the data lie; a larger number only adds to them."""
    seed, number, _ = read_numbers("culture-ko", {"seed": "0", "number": str(NUMBER), **given}, ())
    by_label: dict[tuple[str, str], dict[str, ImageRef]] = defaultdict(dict)
    for kind, label, name, image in _labelled(place, given.get("label", "")):
        by_label[kind, label].setdefault(f"{kind}/{label}/{name}", image)
    labels = sorted({label for _, label in by_label})
    if len(labels) < 4:
        raise BodaError(
            f"{place} has pictures of {len(labels)} labels, and a question needs four; it is read as CLASS/LABEL/*.jpg"
        )
    turns = []  # the first picture of each label, then the second ...
    for (kind, label), pictures in by_label.items():
        hashed = sorted((hashlib.sha256(f"{seed} {name}".encode()).digest(), name) for name in pictures)
        turns += [(turn, digest, name, kind, label) for turn, (digest, name) in enumerate(hashed)]
    questions = []
    for _, _, name, kind, label in sorted(turns)[:number]:
        dice = Dice("culture-ko", seed, name)
        near = sorted({other for alike, other in by_label if alike == kind} - {label})
        wrong = dice.some(near if len(near) >= 3 else [each for each in labels if each != label], 3)
        options = tuple(dice.some([label, *wrong], 4))
        asked = f"{THING if 'label' in given else DISH}\n{with_letters(options)}\n{BY_LETTER}"
        images = (by_label[kind, label][name],)
        questions.append(Question(name, asked, options, options.index(label), images, (("class", kind),)))
    return sorted(questions, key=lambda question: question.id)


def _labelled(place: Place, key: str) -> Iterator[tuple[str, str, str, ImageRef]]:
    """(larger class, label, name, picture): from the folders, or with a key from the JSON beside each picture."""
    files = [
        file for each in place.files() for file in (Place(each.path).files() if not each.member and each.is_archive else [each])
    ]
    there = {str(file) for file in files}
    for file in files:
        if file.suffix not in PICTURES:
            continue
        *folders, name = unicodedata.normalize("NFC", str(file)).replace(".zip/", "/").split("/")
        beside = str(file)[: -len(file.suffix)] + ".json"
        image = ImageRef(file.path, file.member)
        if key:
            if beside not in there:
                raise BodaError(f"{file} has no {Path(beside).name} beside it, which would tell what it shows")
            yield folders[-1], _label(file.parent.child(Path(beside).name), key), name, image
        elif beside in there:
            raise BodaError(
                f"{file} has a JSON beside it (AI Hub 144): say where in it the label stands, as culture-ko:{place}:label=a.b.c"
            )
        else:
            yield folders[-2], folders[-1], name, image


def _label(file: Place, key: str) -> str:
    """The text at a place of a JSON: keys and numbers with dots between. Raises BodaError: nothing is there."""
    said = f"{file} has no text at '{key}' ({WHY}); label=a.b.c goes through the keys of its JSON, as names.0.ko"
    with explaining(said, LookupError, TypeError, ValueError), file.open_text() as stream:
        value = json.load(stream)
        for step in key.split("."):
            value = value[int(step)] if isinstance(value, list) else value[step]
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"but {value!r}"[:80])
        return unicodedata.normalize("NFC", value.strip())
