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
from itertools import count
from pathlib import Path

from boda.data.drawn.canvas import SHAPES, Dice, colours_on
from boda.data.drawn.samples import check_seed, facts
from boda.data.drawn.scenes import HELD_OUT_PAIRS
from boda.data.korean import with_particle
from boda.data.sample import ImageRef
from boda.data.sources import resolve_data
from boda.errors import WHY, BodaError, explaining
from boda.evaluate.multiple_choice import Question, messages_of
from boda.evaluate.tables import Schema, read_table
from boda.evaluate.task import Row, Task, limited, read_options, summary, version_of

VERSION, SEED, NUMBER = "1", 2_027_000_000, 50  # number of pictures a setting
ASKED = 2  # objects that are there, and that are not, asked about in a picture
SETTINGS, ANSWERS = ("random", "popular", "adversarial"), ("yes", "no")
RULE = "POPE evaluate.py: 'No', 'not' or 'no' as a word of the first sentence is no, all else yes"
SCHEMA = Schema("pope-ko", {"question_id": "text", "image": "image", "text": "text", "label": "text"}, "question_id")
_ENGLISH = re.compile(r"Is there an? (.+?) in the (?:image|picture)\?")
_YES, _NO = r"네+|예|넵|응|맞아요|맞습니다|그렇습니다|그래요|yes|yeah", r"아니[요오]?|아뇨|아닙니다|틀립니다|no|nope"
_FIRST = re.compile(
    rf"[^\w]*(?:(?:정답|답변?|answer)[은는]?\s*[:：]?\s*)?(?:(?P<yes>{_YES})|(?P<no>{_NO}))(?:입니다|이에요|예요)?(?!\w)", re.I
)
_ABSENT = re.compile(r"없|않|아니(?!면)|아닙|못|\b(?:no|not|isn't|cannot|can't)\b|n't\b", re.I)
_PRESENT = re.compile(r"있(?!지)|보입|보여|보인|맞습|맞아|그렇습|\b(?:yes|there (?:is|are)(?! no\b| not\b))\b", re.I)


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
    for key in ("setting", "answer"):
        values = sorted({value for record in records if (value := record["tags"].get(key))})
        some = {value: [record for record in records if record["tags"].get(key) == value] for value in values}
        if some:
            result["groups"][key] = {value: _result(found) for value, found in some.items()}
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
    numbers = {"seed": SEED, "number": NUMBER}
    for key in numbers.keys() & given:
        if not re.fullmatch("[0-9]{1,10}", given[key]) or (key == "number" and int(given[key]) < 1):
            raise BodaError(f"pope-ko: {key} '{given[key]}' is no whole number (a number is 1 at least)")
        numbers[key] = int(given[key])
    check_seed(numbers["seed"])
    questions = []
    for turn, setting in enumerate(SETTINGS):
        pictures: list[
            tuple[str, list[tuple[str, str]], list[tuple[str, str]]]
        ] = []  # name, pairs that are there, that are not
        for place in count(turn * 10_000_000):
            name = f"scene/{('few', 'many')[place % 2]}/seen/{numbers['seed']}/{place}"
            scene = facts(name)
            there = list(dict.fromkeys((thing["colour"], thing["shape"]) for thing in scene["objects"]))
            colours = colours_on(scene["ground"]["colour"])
            others = [
                (colour, shape) for colour in colours for shape in SHAPES if (colour, shape) not in {*there, *HELD_OUT_PAIRS}
            ]
            if len(there) >= ASKED:
                pictures.append((name, there, others))
            if len(pictures) == numbers["number"]:
                break
        frequency = Counter(pair for _, there, _ in pictures for pair in there)
        for number, (name, there, others) in enumerate(pictures):
            dice = Dice("pope", setting, numbers["seed"], number)
            asked = [(pair, 0) for pair in dice.some(there, ASKED)]
            mixed = dice.some(others, len(others))
            if setting == "popular":
                mixed.sort(key=lambda pair: -frequency[pair])
            elif setting == "adversarial":
                near = [[each[part] for each in there] for part in (0, 1)]
                mixed.sort(key=lambda pair: -sum(pair[part] in near[part] for part in (0, 1)))
            asked += [(pair, 1) for pair in mixed[:ASKED]]
            for which, ((colour, shape), answer) in enumerate(asked):
                thing = with_particle(f"{colour} {shape}", "이가")
                text = f"그림에 {thing} 있나요? 네 또는 아니요로 답하세요."
                tags = (("setting", setting), ("answer", ANSWERS[answer]))
                image = (ImageRef(drawn=name),)
                questions.append(Question(f"{setting}/{number}/{which}", text, ("네", "아니요"), answer, image, tags))
    return questions


def _given(path: str, given: dict[str, str], data_dir: str | Path | None) -> list[Question]:
    place = Path(resolve_data(path, data_dir))
    images = str(Path(resolve_data(given["images"], data_dir)).absolute()) if "images" in given else "images"
    schema = Schema(SCHEMA.name, SCHEMA.columns, SCHEMA.index, images=images)
    settings = {place: next((each for each in SETTINGS if each in place.stem), "")}
    if place.is_dir():
        settings = {file: each for file in sorted(place.rglob("*.json*")) for each in SETTINGS if each in file.stem}
    if place.is_dir() and sorted(settings.values()) != sorted(SETTINGS):
        raise BodaError(f"{place} has not one file of each of POPE's settings ({', '.join(SETTINGS)}); name a file")
    names = {}
    if "names" in given:
        table = resolve_data(given["names"], data_dir)
        with explaining(
            f'{table} is no table of names, as {{"snowboard": "스노보드"}} ({WHY})', ValueError, OSError, AttributeError
        ):
            names = dict(json.loads(Path(table).read_text(encoding="utf-8-sig")).items())
    questions = []
    for file, setting in settings.items():
        for row in read_table(schema, file):
            label, where = row["label"].strip().lower(), f"{file}, row {row['index']}"
            if label not in ANSWERS:
                raise BodaError(f"{where}: the answer '{row['label']}' is neither yes nor no")
            tags = (*((("setting", setting),) if setting else ()), ("answer", label))
            name = f"{setting}/{row['index']}" if place.is_dir() else row["index"]
            asked = _korean(row["text"], names, where)
            questions.append(Question(name, asked, ("네", "아니요"), ANSWERS.index(label), (row["image"],), tags))
    return questions


def _korean(text: str, names: dict[str, str], where: str) -> str:
    """The question as it is if it is Korean, else about the Korean name of what it asks about."""
    if re.search("[가-힣]", text):
        return text
    found = _ENGLISH.fullmatch(text.strip())
    if not found or found[1] not in names:
        thing = f"'{found[1]}' has no Korean name" if found else "the question is English, and not 'Is there a X in the image?'"
        raise BodaError(f'{where}: {thing}; names=FILE gives them as {{"snowboard": "스노보드"}}, or take Korean questions')
    return f"사진에 {with_particle(names[found[1]], '이가')} 있나요? 네 또는 아니요로 답하세요."
