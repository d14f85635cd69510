"""`pope-ko`: is this in the picture? Half of what is asked about is not there (POPE, arXiv:2305.10355).

In pictures that Boda draws, what is absent is chosen in POPE's three ways: at random, what is most frequent elsewhere, and what lies
near to something present (there: objects that occur together; here: the same colour or the same shape). Or POPE's own files, in
Korean, or made Korean by a table of names. `upstream` is POPE's evaluate.py, which knows English only.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import count, islice, product
from pathlib import Path

from boda.data.drawn.canvas import SHAPES, Dice, colours_on
from boda.data.drawn.samples import facts
from boda.data.drawn.scenes import HELD_OUT_PAIRS
from boda.data.korean import with_particle
from boda.data.sample import ImageRef
from boda.data.sources import resolve_data
from boda.errors import WHY, BodaError, explaining
from boda.evaluate.mentions import UNKNOWN
from boda.evaluate.multiple_choice import Question, messages_of
from boda.evaluate.tables import Schema, read_table
from boda.evaluate.task import Row, Task, by_value, limited, read_options, summary, version_of
from boda.evaluate.tasks.drawn import read_numbers

VERSION, SEED, NUMBER = "1", 2_027_000_000, 50  # number of pictures a setting
ASKED = 2  # objects that are there, and that are not, asked about in a picture
SETTINGS, ANSWERS = ("random", "popular", "adversarial"), ("yes", "no")
OPTIONS, BY_WORD = ("네", "아니요"), "네 또는 아니요로 답하세요."
Pair = tuple[str, str]  # a colour and a shape
RULE = "POPE evaluate.py: 'No', 'not' or 'no' as a word of the first sentence is no, all else yes"
SCHEMA = Schema("pope-ko", {"question_id": "text", "image": "image", "text": "text", "label": "text"}, "question_id")
_ENGLISH = re.compile(r"Is there an? (.+?) in the (?:image|picture)\?")
_YES, _NO = r"네+|예|넵|응|맞아요|맞습니다|그렇습니다|그래요|yes|yeah", r"아니[요오]?|아뇨|아닙니다|틀립니다|no|nope"
_FIRST = re.compile(
    rf"\W*(?:(?:정답|답변?|answer)[은는]?\W*)?(?:(?P<yes>{_YES})|(?P<no>{_NO}))[^\w\s.!?,]*(?:입니다|이에요|예요)?(?!\w)", re.I
)
_ABSENT = re.compile(r"없|않|아니(?!면)|아닙|못|(?<![가-힣])안 ?보|\b(?:no|not|isn't|cannot|can't)\b|n't\b", re.I)
_PRESENT = re.compile(
    r"있(?!지)|(?<!안 )(?<!안)보(?:입|여|인)|존재[하해합](?!지)|맞습|맞아|그렇습|\b(?:yes|there (?:is|are)(?! no\b| not\b))\b",
    re.I,
)
_UNSURE = re.compile(rf"{UNKNOWN}|(?:이미지|그림|사진)[을를은는이가]? (?:볼|확인할|분석할) 수", re.I)


def from_option(option: str, data_dir: str | Path | None) -> Task:
    """The task of `pope-ko[:seed=N][:number=N]`, drawn, or of POPE's files `pope-ko:PATH[:images=DIR][:names=FILE]`.

    PATH is a file of questions, or a folder with one of each setting; names: JSON {"snowboard": "스노보드"}.
    Raises BodaError: another option, no such file, English questions without a name for what they ask about.
    """
    path, given = read_options("pope-ko", option, "seed", "number", "images", "names")
    if idle := sorted(given.keys() & ({"seed", "number"} if path else {"images", "names"})):
        what = "scenes that are drawn; leave it out" if path else "a file of questions; name one: pope-ko:PATH"
        raise BodaError(f"pope-ko: '{idle[0]}' is for {what}")
    questions = _given(path, given, data_dir) if path else _drawn(given)
    rows = [Row(question.id, question) for question in questions]
    told = [(each.id, each.asked, each.answer, each.images[0].drawn or Path(each.images[0].path).name) for each in questions]
    return Task(
        name=f"pope-ko:{Path(path).stem if path else option}".rstrip(":"),
        version=version_of(VERSION, told),
        load=lambda limit: limited(rows, limit, lambda row: " ".join(value for _, value in row.value.tags)),
        messages=messages_of,
        score=score,
        summarise=summarise,
        decoding={"temperature": 0.0, "max_new_tokens": 64},
        note="accuracy on yes/no questions, half about what is not there; an answer that is neither is wrong and counted unread",
    )


def read_yes_no(answer: str) -> bool | None:
    """True for yes, False for no, None where neither is said or both are.

    The first word decides unless the sentence denies it ("네, 없습니다"); without such a word the first sentence that is no question.
    """
    text = unicodedata.normalize("NFKC", answer).strip()
    if found := _FIRST.match(text):
        sentence = re.split(r"[.!?\n]", text[found.end() :].lstrip(" .,!"), maxsplit=1)[0]
        denied = found["yes"] is not None and _ABSENT.search(sentence) and not _PRESENT.search(sentence)
        return None if denied else found["yes"] is not None
    sentences = re.findall(r"[^.!?\n]+[.!?]*", text)
    said = next((each for each in sentences if each.strip() and not each.rstrip().endswith("?")), "")
    if found := _FIRST.match(said):
        return found["yes"] is not None
    if _UNSURE.search(said):
        return None
    absent, present = bool(_ABSENT.search(said)), bool(_PRESENT.search(said))
    return present if absent != present else None


def published(answer: str) -> bool:
    """POPE's evaluate.py: whether an answer counts as yes."""
    words = answer.split(".")[0].replace(",", "").split(" ")
    return not {"No", "not", "no"} & set(words)


def score(row: Row, answer: str) -> dict:
    """1 if the answer says what is so."""
    gold, said = row.value.answer == 0, read_yes_no(answer)
    found = {"score": float(said is gold), "extracted": None if said is None else ANSWERS[not said], "gold": ANSWERS[not gold]}
    theirs = published(answer)
    return found | {"upstream": float(theirs is gold), "published": ANSWERS[not theirs], "tags": dict(row.value.tags)}


def summarise(records: Sequence[dict]) -> dict:
    """Accuracy, precision, recall, F1 and share of yes by both rules, of all and of each setting."""
    result = _result(records) | {"groups": {}}
    result["upstream"]["rule"] = RULE
    for key in sorted({key for record in records for key in record["tags"]}):
        result["groups"][key] = by_value(records, lambda record: record["tags"][key], _result)  # noqa: B023
    return result


def _result(records: Sequence[dict]) -> dict:
    answered = [record for record in records if not record["failed"]]
    result = summary(records)
    if answered:
        golds = Counter(record["gold"] for record in answered)
        result |= {"chance": 0.5, "majority": max(golds.values()) / len(answered)}
    result["unread"] = sum(record["extracted"] is None for record in answered)
    result["metrics"] = _figures(answered, "extracted")
    theirs = _figures(answered, "published")
    return result | {"upstream": {"score": theirs.get("accuracy"), "n": len(answered), **theirs}}


def _figures(records: Sequence[dict], said: str) -> dict[str, float]:
    """`accuracy precision recall f1 yes_rate`, those that are defined; yes is the positive answer, neither is a wrong one."""
    pairs = Counter((record[said], record["gold"]) for record in records)
    right, claimed = pairs["yes", "yes"], pairs["yes", "yes"] + pairs["yes", "no"]
    there = sum(number for (_, gold), number in pairs.items() if gold == "yes")
    found = {"accuracy": (right + pairs["no", "no"], len(records)), "precision": (right, claimed), "recall": (right, there)}
    found |= {"f1": (2 * right, claimed + there), "yes_rate": (claimed, len(records))}
    return {name: part / whole for name, (part, whole) in found.items() if whole}


def _drawn(given: dict[str, str]) -> list[Question]:
    """Questions on `number` pictures a setting; what is absent comes in random order, then the likeliest to be said first."""
    seed, number, _ = read_numbers("pope-ko", {"seed": str(SEED), "number": str(NUMBER), **given}, ())
    questions = []
    for turn, setting in enumerate(SETTINGS):
        scenes = (_scene(seed, place) for place in count(turn * 10_000_000))
        pictures = [*islice((scene for scene in scenes if len(scene[1]) >= ASKED), number)]
        frequency = Counter(pair for _, there, _ in pictures for pair in there)
        for place, (name, there, others) in enumerate(pictures):
            dice = Dice("pope", setting, seed, place)
            asked = [(pair, 0) for pair in dice.some(there, ASKED)]
            absent = dice.some(others, len(others))
            if setting == "popular":
                absent.sort(key=lambda pair: -frequency[pair])
            elif setting == "adversarial":
                absent.sort(key=lambda pair: -sum(word in near for word, near in zip(pair, zip(*there))))
            asked += [(pair, 1) for pair in absent[:ASKED]]
            for which, (pair, answer) in enumerate(asked):
                text = f"그림에 {with_particle(' '.join(pair), '이가')} 있나요? {BY_WORD}"
                tags = (("setting", setting), ("answer", ANSWERS[answer]))
                images = (ImageRef(drawn=name),)
                questions.append(Question(f"{setting}/{place}/{which}", text, OPTIONS, answer, images, tags))
    return questions


def _scene(seed: int, place: int) -> tuple[str, list[Pair], list[Pair]]:
    """A picture's name, colours and shapes of what is there, and of what could be."""
    name = f"scene/{('few', 'many')[place % 2]}/seen/{seed}/{place}"
    scene = facts(name)
    there = list(dict.fromkeys((thing["colour"], thing["shape"]) for thing in scene["objects"]))
    possible = product(colours_on(scene["ground"]["colour"]), SHAPES)
    return name, there, [pair for pair in possible if pair not in {*there, *HELD_OUT_PAIRS}]


def _given(path: str, given: dict[str, str], data_dir: str | Path | None) -> list[Question]:
    place = Path(resolve_data(path, data_dir))
    images = str(Path(resolve_data(given["images"], data_dir)).absolute()) if "images" in given else "images"
    files = sorted(place.rglob("*.json*")) if place.is_dir() else [place]
    settings = {file: setting for file in files for setting in SETTINGS if setting in file.stem}
    if place.is_dir() and sorted(settings.values()) != sorted(SETTINGS):
        raise BodaError(f"{place} has not one file of each of POPE's settings ({', '.join(SETTINGS)}); name a file")
    names = {}
    if "names" in given:
        table = Path(resolve_data(given["names"], data_dir))
        said = f'{table} is no table of names, as {{"snowboard": "스노보드"}} ({WHY})'
        with explaining(said, ValueError, OSError, AttributeError):
            names = dict(json.loads(table.read_text(encoding="utf-8-sig")).items())
    questions = []
    for file, setting in (settings or {place: ""}).items():
        for row in read_table(replace(SCHEMA, images=images), file):
            label, where = row["label"].strip().lower(), f"{file}, row {row['index']}"
            if label not in ANSWERS:
                raise BodaError(f"{where}: the answer '{row['label']}' is neither yes nor no")
            tags = (*((("setting", setting),) if setting else ()), ("answer", label))
            name = f"{setting}/{row['index']}" if place.is_dir() else row["index"]
            asked = _korean(row["text"], names, where)
            questions.append(Question(name, asked, OPTIONS, ANSWERS.index(label), (row["image"],), tags))
    return questions


def _korean(text: str, names: dict[str, str], where: str) -> str:
    """The question as it is if it is Korean, else about the Korean name of what it asks about."""
    if re.search("[가-힣]", text):
        return text
    found = _ENGLISH.fullmatch(text.strip())
    if not found or found[1] not in names:
        thing = f"'{found[1]}' has no Korean name" if found else "the question is English, and not 'Is there a X in the image?'"
        raise BodaError(f'{where}: {thing}; names=FILE gives them as {{"snowboard": "스노보드"}}, or take Korean questions')
    return f"사진에 {with_particle(names[found[1]], '이가')} 있나요? {BY_WORD}"
