"""Which Korean class name fits a photo best, its vector being the mean over several templates: `cifar10-ko`, `imagenet-ko`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from boda.data.files import Place
from boda.data.sample import ImageRef
from boda.data.sources import read, resolve_data
from boda.data.sources.common import PICTURES
from boda.errors import BodaError
from boda.evaluate.pairs import Search, fill, pair_task
from boda.evaluate.task import PairTask, read_options

CIFAR10, BABEL = "cifar10/test.parquet", "babel_imagenet/data/babel_imagenet.json"
# KoCLIP's own first.
TEMPLATES = (
    "이것은 {} 이다.", "{}의 사진", "{} 사진입니다.", "{:을를} 찍은 사진", "사진에 {:이가} 있습니다.", "작은 {}의 사진", "흐릿한 {} 사진",
)  # fmt: skip


def top(places: list[int]) -> dict[str, float]:
    """Whether the right class is the first, and among the first five."""
    return {f"top-{k}": float(places[0] <= k) for k in (1, 5)}


def zero_shot(name: str, labelled: Sequence[tuple[ImageRef, str]], classes: Sequence[str], templates: Sequence[str]) -> Search:
    """Pictures that look for their class."""
    number_of = {label: number for number, label in enumerate(classes)}
    relevant = [[number_of[label]] for _, label in labelled]
    return Search(name, [picture for picture, _ in labelled], classes, relevant, top, templates)


def cifar10(option: str, data_dir: str | Path | None) -> PairTask:
    """`cifar10-ko[:PATH][:template=T|T]`: Parquet with `image` and `label_ko`."""
    path, given = read_options("cifar10-ko", option, "template")
    place, columns = resolve_data(path or CIFAR10, data_dir), {"image": "image"}
    samples = read(place, "parquet", columns=columns, question="무엇인가요?", answer="{label_ko}", probe=False)
    return _task("cifar10-ko", option, [(each.images[0], each.messages[-1].text) for each in samples], given)


def imagenet(option: str, data_dir: str | Path | None) -> PairTask:
    """`imagenet-ko:DIR[:names=FILE][:template=T|T]`: a folder of photos for each class.

    names: JSON {folder: Korean name}; else folders called in Korean are the classes; else all 1,000 of ImageNet (n01440764 ...)
        take Babel-ImageNet's names, and classes that have none there are left out.
    """
    path, given = read_options("imagenet-ko", option, "names", "template")
    folder = Place.of(resolve_data(path or "imagenet/val", data_dir))
    photos = [(str(file)[len(str(folder)) + 1 :].split("/")[:-1], file) for file in folder.files() if file.suffix in PICTURES]
    folders = sorted({parts[0] for parts, _ in photos if parts})
    named = {name: name for name in folders if re.search("[가-힣]", name)}
    if "names" in given:
        named = json.loads(Path(resolve_data(given["names"], data_dir)).read_text(encoding="utf-8"))
    elif [bool(re.fullmatch(r"n\d{8}", name)) for name in folders] == [True] * 1000:
        numbers, labels = json.loads(Path(resolve_data(BABEL, data_dir)).read_text(encoding="utf-8"))["KO"]
        named = {folders[number]: label for number, label in zip(numbers, labels)}
        folders = sorted(named)
    if not folders or (unknown := [name for name in folders if name not in named]):
        what = f"the Korean name of {unknown[0]} is not known" if folders else "there are no folders with photos in it"
        raise BodaError(f'{folder}: {what}; it has a folder for each class, whose names names=FILE gives: {{"folder": "이름"}}')
    labelled = [(ImageRef(file.path, file.member), named[parts[0]]) for parts, file in photos if parts and parts[0] in folders]
    return _task("imagenet-ko", option, labelled, given)


def _task(name: str, option: str, labelled: list[tuple[ImageRef, str]], given: dict[str, str]) -> PairTask:
    classes = sorted({label for _, label in labelled})
    templates = given["template"].split("|") if "template" in given else TEMPLATES
    for template in templates:
        fill(template, "고양이")  # a mistake in it is said before a model is loaded
    note = f"top-1 among {len(classes)} classes, mean of {len(templates)} templates"
    return pair_task(f"{name}:{option}".rstrip(":"), [zero_shot("photos", labelled, classes, templates)], note)
