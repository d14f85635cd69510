"""What Boda draws: pictures as their facts say, every answer right in natural Korean, held-out pairs nowhere in training."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boda.data.drawn.canvas import paint
from boda.data.drawn.fonts import HELD_OUT
from boda.data.drawn.samples import COLLECTIONS, Choice, facts, picture, read
from boda.data.drawn.scenes import HELD_OUT_PAIRS
from boda.data.sample import Sample
from boda.errors import BodaError
from boda.evaluate.metrics.particles import particle_errors
from boda.evaluate.tasks import make_task, split_tasks
from boda.evaluate.tasks.drawn import BASELINE_SEED, TEST_SEED
from boda.recipe import load_recipe, recipe_names

# The drawn world again, in the words of this test.
COLOURS = "빨간색 주황색 노란색 연두색 초록색 하늘색 파란색 보라색 분홍색 갈색 회색 검은색 흰색".split()
SHAPES = "동그라미 세모 네모 마름모 별 하트 십자가 초승달 고리 화살표".split()
PATTERNS = ["줄무늬", "점무늬"]
ROWS, SIDES = ("위", "가운데", "아래"), ("왼쪽", "가운데", "오른쪽")
NUMBERS = "한 두 세 네 다섯 여섯 일곱 여덟 아홉".split()
PLACE = r"한가운데|(?:위|아래)쪽 가운데|(?:왼쪽|오른쪽) (?:위|가운데|아래)"
seeds = st.integers(0, 2**32 - 1)
names = st.builds("scene/{}/{}/{}/{}".format, *map(st.sampled_from, (["one", "few", "many"], ["seen", "unseen"])), seeds, seeds)


@cache
def drawn(collection: str, limit: int, seed: int = 11, **where: str) -> tuple[Sample, ...]:
    return tuple(read(collection, limit, seed, where))


def texts(sample: Sample) -> list[str]:
    return [*(message.text for message in sample.messages), *([sample.rejected] if sample.rejected else [])]


def place_of(thing: dict) -> str:
    """Where the middle of an object lies, from its pixels."""
    row, side = thing["y"] // 32, thing["x"] // 32
    if row == 1:
        return "한가운데" if side == 1 else f"{SIDES[side]} 가운데"
    return f"{ROWS[row]}쪽 가운데" if side == 1 else f"{SIDES[side]} {ROWS[row]}"


# Pictures


@given(names)
def test_objects_lie_apart_inside_the_picture_in_colours_that_show(name: str):
    scene = facts(name)
    ground = np.array(scene["ground"]["colour"], float)
    things = scene["objects"]
    least, most = {"one": (1, 1), "few": (2, 4), "many": (5, 7)}[name.split("/")[1]]
    assert least <= len(things) <= most
    for number, thing in enumerate(things):
        assert thing["radius"] <= min(thing["x"], thing["y"]) and max(thing["x"], thing["y"]) + thing["radius"] <= 96
        assert np.linalg.norm(np.array(thing["ink"]) - ground) > 75
        for other in things[:number]:
            gap = max(abs(thing["x"] - other["x"]), abs(thing["y"] - other["y"]))
            assert gap >= thing["radius"] + other["radius"]
    held_out = sum((thing["colour"], thing["shape"]) in HELD_OUT_PAIRS for thing in things)
    assert held_out >= 1 if name.split("/")[2] == "unseen" else held_out == 0


@given(names)
@settings(max_examples=25)
def test_a_picture_shows_its_objects_and_nothing_else(name: str):
    scene = facts(name)
    changed = np.asarray(paint(scene), int) != np.asarray(paint({**scene, "objects": []}), int)
    covered = changed.any(-1).reshape(3, 32, 3, 32).sum((1, 3))
    for cell, number in enumerate(covered.ravel()):
        inside = [thing for thing in scene["objects"] if thing["y"] // 32 * 3 + thing["x"] // 32 == cell]
        if not inside:
            assert number == 0
            continue
        (thing,) = inside
        assert 0.25 < number / (2 * thing["radius"]) ** 2 < 1.1  # a crescent is thin, a square is full
        assert (thing["radius"] > 10) == (thing["size"] == "큰")


def test_the_world_is_varied():
    things = [thing for sample in drawn("descriptions", 400) for thing in facts(sample.images[0].drawn)["objects"]]
    assert {thing["colour"] for thing in things} == set(COLOURS) and len(COLOURS) >= 12
    assert {thing["shape"] for thing in things} == set(SHAPES) and len(SHAPES) >= 10
    assert {thing["pattern"] for thing in things} == {"", *PATTERNS}
    assert len({place_of(thing) for thing in things}) == 9
    types = Counter(dict(sample.tags)["type"] for sample in drawn("questions", 400))
    assert len(types) == 11 and min(types.values()) >= 50


def digest(seed: int) -> str:
    """Of samples and pictures of every collection."""
    found = hashlib.sha256(make_task("drawn:number=2").version.encode())
    for collection in COLLECTIONS:
        for sample in read(collection, 4, seed):
            found.update(repr(sample).encode())
            found.update(b"".join(image.picture().tobytes() for image in sample.images))
    return found.hexdigest()


def test_the_same_seed_draws_and_says_the_same_in_another_process():
    code = "from tests.unit.test_drawn import digest; print(digest(5))"
    env = {"PYTHONHASHSEED": "77", "PATH": ""}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert other.stdout.strip() == digest(5) != digest(6)


@given(seeds, st.sampled_from(sorted(COLLECTIONS)), st.integers(1, 3))
@settings(max_examples=15)
def test_a_later_start_is_a_part_of_the_same_stream(seed: int, collection: str, start: int):
    whole = list(read(collection, 4, seed))
    assert [*read(collection, start, seed), *read(collection, 4 - start, seed, start=start)] == whole


# Held out


def test_no_held_out_pair_is_drawn_or_named_in_training():
    pairs = re.compile("|".join(rf"{colour}(?: \S*무늬)? {shape}" for colour, shape in HELD_OUT_PAIRS))
    for collection in COLLECTIONS:
        samples = drawn(collection, 400)
        assert len(samples) >= 400
        for sample in samples:
            assert not any(pairs.search(text) for text in texts(sample)), texts(sample)
            for image in sample.images:
                things = facts(image.drawn).get("objects", [])
                assert not any((thing["colour"], thing["shape"]) in HELD_OUT_PAIRS for thing in things)
                assert f"word/{HELD_OUT}/" not in image.drawn
    said = [text for sample in drawn("questions", 100, pair="unseen") for text in texts(sample)]
    assert any(pairs.search(text) for text in said)  # where asked for, they are named


def test_every_colour_and_shape_is_held_out_in_some_pair_but_seen_in_most():
    assert {colour for colour, _ in HELD_OUT_PAIRS} == set(COLOURS) and {shape for _, shape in HELD_OUT_PAIRS} == set(SHAPES)
    assert len(HELD_OUT_PAIRS) <= 0.15 * len(COLOURS) * len(SHAPES)


def test_shipped_recipes_train_on_no_seed_pair_or_font_of_the_test():
    for name in recipe_names():
        for stage in load_recipe(name).stages:
            for block in stage.data:
                if block.source == "drawn":
                    where = block.where or {}
                    assert block.seed not in (TEST_SEED, BASELINE_SEED), name
                    assert "unseen" not in where.get("pair", ()) and HELD_OUT not in where.get("font", ()), name


# Questions and answers, checked by reading them


def meant(words: str, things: list[dict]) -> list[dict]:
    """The objects that a phrase means: 큰 빨간색 별, 왼쪽 위에 있는 도형, 이 도형."""
    place = re.match(rf"({PLACE})에 있는 도형", words)
    if place:
        return [thing for thing in things if place_of(thing) == place[1]]
    said = {word for word in words.split() if word not in ("도형", "이")}
    assert said <= {*COLOURS, *SHAPES, *PATTERNS, "큰", "작은"}, words
    return [thing for thing in things if said <= {thing[key] for key in ("size", "colour", "pattern", "shape")}]


def the_one(words: str, things: list[dict]) -> dict:
    found = meant(words, things)
    assert len(found) == 1, (words, found)
    return found[0]


def named(text: str, options: list[str]) -> str | None:
    found = [option for option in options if re.search(rf"(?<![가-힣]){option}", text)]
    assert len(found) <= 1, (text, found)
    return found[0] if found else None


def is_yes(answer: str) -> bool:
    yes = bool(re.match(r"(네|그렇다\.|있다\.|맞)", answer))
    assert yes or re.match(r"(아니요|그렇지 않다\.|없다\.|틀)", answer), answer
    return yes


NOUN = r"((?:[가-힣]+ )*?[가-힣]+?)"


def is_right(question: str, answer: str, things: list[dict]) -> bool:
    """Whether the answer is true of the objects, found by reading question and answer alone."""
    q = question.removeprefix("그림에 ")
    if re.search("하나씩|마다", q):
        return lists(q, answer, things)
    if (re.search(r"그림[을의]|보이는지|어디에 있습니까\?$", q) and not re.search(rf"도형|{'|'.join(SHAPES)}", q)) or q in (
        "뭐가 있어요?",
        "무엇이 있는지 쓰라.",
    ):
        return describes(answer, things)
    if statement := re.search(rf"({PLACE})에 (\S+) (\S+?)[이가] 있다\.", q):
        place, colour, shape = statement.groups()
        true = any((place_of(t), t["colour"], t["shape"]) == (place, colour, shape) for t in things)
        return is_yes(answer) == true
    if relation := re.match(rf"{NOUN}[이가] {NOUN}보다 (왼쪽|오른쪽|위|아래)에 ", q):
        first, second = (the_one(words, things) for words in relation.groups()[:2])
        axis, sign = {"왼쪽": ("x", 1), "오른쪽": ("x", -1), "위": ("y", 1), "아래": ("y", -1)}[relation[3]]
        assert first[axis] // 32 != second[axis] // 32
        return is_yes(answer) == (sign * (second[axis] - first[axis]) > 0)
    if asked := re.match(rf"{NOUN}(?:[은는] 무슨 색|의 색)", q):
        return named(answer, COLOURS) == the_one(asked[1], things)["colour"]
    if asked := re.match(rf"{NOUN}(?:[은는] (?:무슨|어떤) 모양|의 모양)", q):
        return named(answer, SHAPES) == the_one(asked[1], things)["shape"]
    if asked := re.match(rf"{NOUN}(?:[은는] 어디|의 위치)", q):
        return re.match(rf"({PLACE})(?:$|에 있)", answer)[1] == place_of(the_one(asked[1], things))
    if asked := re.match(rf"{NOUN}(?:[은는이가] 몇 개|[을를] 세어|의 수)", q):
        return NUMBERS.index(re.match(r"(\S+) 개", answer)[1]) + 1 == len(meant(asked[1], things))
    if asked := re.match(rf"{NOUN}(?:[은는] (?:큰가|큽니까)|의 크기)", q):
        assert re.match(r"[큽커크큼작]", answer)
        return ("작은" if answer.startswith("작") else "큰") == the_one(asked[1], things)["size"]
    if asked := re.match(rf"{NOUN}(?:에는 무슨 무늬|의 무늬)", q):
        return (named(answer, PATTERNS) or "") == the_one(asked[1], things)["pattern"]
    if asked := re.match(rf"({PLACE})에(?:는 무엇| 있는 것)", q):
        here = [(thing["colour"], thing["shape"]) for thing in things if place_of(thing) == asked[1]]
        said = named(answer, COLOURS), named(answer, SHAPES)
        return said == (here[0] if here else (None, None))
    exists = re.match(r"(?:그림에서 )?(\S+) (\S+?)[이가을를] (?:있|볼 수)", q)
    assert exists and exists[1] in COLOURS and exists[2] in SHAPES, question
    return is_yes(answer) == any((thing["colour"], thing["shape"]) == exists.groups() for thing in things)


def describes(text: str, things: list[dict]) -> bool:
    if not text.endswith("."):  # a caption
        if counted := re.fullmatch(r"도형 (\S+) 개", text):
            return NUMBERS.index(counted[1]) + 1 == len(things) > 3
        said = [tuple(re.sub(r"[과와]$", "", word) for word in pair) for pair in re.findall(r"(\S+색) (\S+)", text)]
        return said == [(thing["colour"], thing["shape"]) for thing in things]
    told = re.findall(rf"({PLACE})에는? (.+?)[이가](?:, | 있)", text)
    order = sorted(things, key=lambda thing: (thing["y"] // 32, thing["x"] // 32))
    keys = ("size", "colour", "pattern", "shape")
    return told == [(place_of(thing), " ".join(thing[key] for key in keys if thing[key])) for thing in order]


def lists(question: str, answer: str, things: list[dict]) -> bool:
    """Whether an inventory names every object once with its place, or every shape (colour) that only one object has."""
    full = lambda thing, *keys: " ".join(filter(None, (thing[key] for key in keys)))  # noqa: E731
    if "마다" not in question:
        by_place = re.findall(rf"({PLACE})에는? ([^,.]*?)(?:이|가)(?:,| 있)", answer)
        by_thing = re.findall(rf"([^,.]*?)(?:은|는) ({PLACE})에", answer)
        said = by_place or [(place, name.strip()) for name, place in by_thing]
        return sorted(said) == sorted((place_of(thing), full(thing, "size", "colour", "pattern", "shape")) for thing in things)
    key = "shape" if "모양마다" in question else "colour"
    alone = [thing for thing in things if sum(thing[key] == other[key] for other in things) == 1]
    told = re.findall(rf"([가-힣][가-힣 ]*?)[은는] ({PLACE})에 있는 ([^,.]+?)(?:,|입니다|이에요|예요|이다\.|다\.)", answer)
    if key == "shape":
        expected = [(t["shape"], place_of(t), f"{full(t, 'size', 'colour', 'pattern')} 도형") for t in alone]
    else:
        expected = [(f"{t['colour']} 도형", place_of(t), full(t, "size", "pattern", "shape")) for t in alone]
    return bool(alone) and sorted(told) == sorted(expected)


def style_of(question: str) -> str:
    if re.search("답하세요|짧게|제목|낱말만|그대로", question):
        return "short"
    if re.search(r"니까[?,]|십시오", question):
        return "formal"
    return "plain" if re.search(r"가\?|라\.", question) else "polite"


ENDS = {"formal": r"니다\.$", "polite": r"요\.$", "plain": r"(?<!니)다\.$", "short": r"[^.]$"}


@pytest.mark.parametrize("pair", ["seen", "unseen"])
def test_every_answer_is_right_and_every_rejected_one_is_wrong(pair: str):
    checked: Counter = Counter()
    for sample in drawn("questions", 450, pair=pair):
        things = facts(sample.images[0].drawn)["objects"]
        question, answer = texts(sample)[:2]
        assert is_right(question, answer, things), (question, answer, things)
        assert sample.rejected != answer
        if sample.rejected:
            assert not is_right(question, sample.rejected, things), (question, sample.rejected, things)
            checked[dict(sample.tags)["type"]] += 1
    assert len(checked) == 11 and min(checked.values()) >= 20, checked


def test_answers_in_conversations_and_about_texts_are_right():
    for sample in drawn("conversations", 200):
        things, turns = facts(sample.images[0].drawn)["objects"], texts(sample)[: len(sample.messages)]
        assert len(turns) >= 4
        assert all(is_right(*pair, things) for pair in zip(turns[::2], turns[1::2])), turns
    asked = 0
    for sample in drawn("text", 300):
        if len(sample.messages) > 1 and "\n" in sample.messages[0].text:
            told, question = sample.messages[0].text.split("\n")
            turns = [question, *(message.text for message in sample.messages[1:])]
            if written := re.match(r"'(\S+)'", told):
                assert re.fullmatch(rf"'{written[1]}'(입니다|이에요|예요|이다|다)\.|{written[1]}", turns[1]), (told, turns)
                continue
            things = [as_thing(*clause) for clause in re.findall(rf"({PLACE})에는? (.+?)[이가](?:, | 있)", told)]
            for turn in zip(turns[::2], turns[1::2]):
                assert is_right(*turn, things), (told, turn)
                asked += 1
    assert asked > 1000


def as_thing(place: str, words: str) -> dict:
    """An object as a text tells it."""
    middles = [(16 + 32 * side, 16 + 32 * row) for row in range(3) for side in range(3)]
    x, y = next((x, y) for x, y in middles if place_of({"x": x, "y": y}) == place)
    size, colour, *pattern, shape = words.split()
    return {"x": x, "y": y, "size": size, "colour": colour, "pattern": "".join(pattern), "shape": shape}


def test_words_are_read_as_written_and_their_colour_is_the_inks():
    for sample in drawn("words", 150):
        shown, (question, answer) = facts(sample.images[0].drawn), texts(sample)[:2]
        if "색" in question:
            assert named(answer, COLOURS) == shown["colour"]
        else:
            assert re.fullmatch(rf"'{shown['word']}'(입니다|이에요|예요|이다|다)\.|{shown['word']}", answer), answer
            assert shown["word"] not in re.split(r"['.]", sample.rejected)


def test_answers_keep_the_style_of_the_question():
    styles: Counter = Counter()
    for collection in ("questions", "words", "conversations", "preferences"):
        for sample in drawn(collection, 200):
            turns = texts(sample)[: len(sample.messages)]
            for question, answer in [
                *zip(turns[::2], turns[1::2]),
                *([(turns[-2], sample.rejected)] if sample.rejected else []),
            ]:
                style = style_of(question)
                assert re.search(ENDS[style], answer), (style, question, answer)
                styles[style] += 1
            assert style_of(turns[-2]) == dict(sample.tags)["style"]
    assert min(styles.values()) > 0.15 * sum(styles.values())


def test_yes_and_no_are_balanced():
    for kind in ("existence", "relation", "statement"):
        said = [is_yes(sample.messages[-1].text) for sample in drawn("questions", 700, kind=kind)]
        assert len(said) > 300 and 0.4 < sum(said) / len(said) < 0.6, kind


# Particles


def test_particles_fit_in_every_sentence():
    number = 0
    for collection in COLLECTIONS:
        for sample in drawn(collection, 400):
            for text in texts(sample):
                assert particle_errors(text) == [], text
                number += 1
    assert number > 3000


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("별는 네모이 있다.", ["별는", "네모이"]),
        ("빨간색 별와 파란색 하트과", ["별와", "하트과"]),
        ("한 개이다. 한 개다. 두 개이에요. 두 개예요.", []),
        ("세 개에요.", ["개에요"]),
        ("동그라미을 세모을 별를 도형를", ["동그라미을", "세모을", "별를", "도형를"]),
        ("별예요. 별다. 별이다. 별이에요. 마름모예요.", ["별예요", "별다"]),
        ("'나무'이 '은행'가 '나무'가 '은행'이에요.", ["'나무'이", "'은행'가"]),
        ("위쪽 가운데은 왼쪽 위이 오른쪽 아래는", ["가운데은", "위이"]),
        ("이별는 별나라와 고리이름", []),  # other words
        ("줄무늬가 있다. 점무늬이 있다.", ["점무늬이"]),
    ],
)
def test_particle_errors_are_found(text: str, errors: list[str]):
    assert particle_errors(text) == errors


# Bad input


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"collection": "scenery"}, "nothing drawn is called 'scenery'; there are descriptions, inventories"),
        ({"seed": -1}, "seed -1 is out of range"),
        ({"seed": 2**32}, "out of range: 0 to 4294967295"),
        ({"where": {"layout": "huge"}}, "layout 'huge' is not drawn; there are one, few, many"),
        ({"where": {"layout": "12"}}, "cannot hold 12 objects: it has 9 places"),
        ({"where": {"layout": []}}, "layout is an empty list"),
        ({"where": {"kind": ["colour", "smell"]}}, "kind 'smell' is not drawn"),
        ({"where": {"size": "큰"}}, "no 'size'; it can be narrowed by layout"),
        ({"where": {"font": "comic"}}, "font 'comic' is not drawn; there are gothic"),
        ({"words": []}, "the words to draw are an empty list"),
        ({"words": ["나무", "뷁"]}, "the fonts have no '뷁'"),
        ({"words": ["나/무"]}, "a word has no '/'"),
        ({"words": ["아주아주긴낱말"]}, "too long"),
    ],
)
def test_what_cannot_be_drawn_is_said_at_once(arguments: dict, said: str):
    with pytest.raises(BodaError, match=re.escape(said)):
        read(**{"collection": "words", "limit": 1, **arguments})


@pytest.mark.parametrize(
    "name",
    [
        "",
        *"scene scene/few/seen/0 scene/few/maybe/0/1 scene/few/seen/x/1 scene/few/seen/0/-1 scene/0/seen/0/1".split(),
        *"scene/huge/seen/0/1 word/gothic/나/무/0/1 word/comic/나무/0/1 word/gothic//0/1 word/gothic/뷁/0/1 film/a/b/0/1".split(),
    ],
)
def test_a_name_of_no_picture_is_refused(name: str):
    with pytest.raises(BodaError):
        picture(name)


def test_numbers_of_objects_and_own_words_are_kept_to():
    assert {len(facts(s.images[0].drawn)["objects"]) for s in drawn("descriptions", 20, layout="9")} == {9}
    own = ("달걀", "나비")
    said = [sample for sample in read("words", 40, 3, {"kind": "word", "font": HELD_OUT}, words=own)]
    assert {facts(sample.images[0].drawn)["word"] for sample in said} == set(own)
    assert all(sample.rejected and facts(sample.images[0].drawn)["font"] == HELD_OUT for sample in said)
    assert [sample.rejected for sample in read("words", 3, 3, {"kind": "word"}, words=["별"])] == [None] * 3
    assert Choice.of(None) == Choice()


# The evaluation


def test_the_task_asks_each_set_about_pictures_of_their_own_and_knows_the_answers():
    task = make_task("drawn:number=10")
    rows = task.load(None)
    sets = Counter(dict(row.value.tags)["set"] for row in rows)
    assert sets["colour, pair seen"] == 10 and sets["colour, pair never seen together"] == 6
    assert sets["word, font held out"] == sets["word, font seen"] == 15 and sets["description"] == 6 and len(sets) == 18
    assert len({row.value.images[0].drawn for row in rows}) == len(rows)
    for row in rows:
        tags, name = dict(row.value.tags), row.value.images[0].drawn
        assert str(TEST_SEED) in name and (tags["set"] == "word, font held out") == (f"/{HELD_OUT}/" in name)
        assert ("never seen" in tags["set"]) == (tags.get("pair") == "unseen") == ("/unseen/" in name)
    records = [
        {"failed": False, "row": row.id, "images": [row.id], **task.score(row, row.value.messages[-1].text)} for row in rows
    ]
    result = task.summarise(records)
    assert result["score"] == result["description_objects"] == 1 and result["particle_errors"] == {"count": 0, "examples": []}
    assert result["groups"]["set"]["statement, pair seen"]["train_majority_by_question"] < 0.9
    assert result["groups"]["set"]["pattern, pair seen"]["train_majority_by_question"] > 0.5  # mostly there is none


def test_a_wrong_description_counts_its_right_objects():
    task = make_task("drawn:number=20:only=description")
    row = next(row for row in task.load(None) if row.value.messages[-1].text.count(",") == 2)
    gold = row.value.messages[-1].text
    assert task.score(row, gold)["objects"] == 1
    broken = re.sub(r"에는 \S+ ", "에는 투명한 ", gold, count=1)
    scored = task.score(row, broken + " 별는")
    assert scored["score"] == 0 and scored["particle_errors"] == ["별는"]
    assert task.score(row, broken)["objects"] == pytest.approx(2 / 3) and task.score(row, "")["objects"] == 0


def test_a_limit_keeps_the_sets_in_proportion():
    task = make_task("drawn:number=10:only=colour,word")
    assert len(task.load(None)) == 46
    few = [row.id for row in task.load(23)]
    assert set(few) <= {row.id for row in task.load(30)}
    sets = Counter(dict(row.value.tags)["set"] for row in task.load(23))
    assert sorted(sets.values()) == [3, 5, 7, 8]


@pytest.mark.parametrize(
    "option", ["seed=x", "seed=-1", "number=0", "only=smell", "only=", "colour", "number=1:number=2", "seed=4294967296"]
)
def test_wrong_options_of_the_task_are_said(option: str):
    with pytest.raises(BodaError, match=r"drawn|seed"):
        make_task(f"drawn:{option}")


def test_other_seeds_ask_other_questions_and_tasks_are_split_at_commas_between_them():
    assert make_task("drawn:number=1:seed=5").version != make_task("drawn:number=1").version
    assert split_tasks("drawn:only=colour,word,questions:a.jsonl,drawn") == [
        "drawn:only=colour,word",
        "questions:a.jsonl",
        "drawn",
    ]
    assert split_tasks("questions:a.jsonl,typo") == ["questions:a.jsonl", "typo"]


# Inventories, and answers in full


def test_an_inventory_names_every_object_once_with_its_place():
    for sample in drawn("inventories", 150):
        things = facts(sample.images[0].drawn)["objects"]
        question, answer = (message.text for message in sample.messages)
        assert lists(question, answer, things), (question, answer)
    orders = [re.findall(PLACE, sample.messages[-1].text) for sample in drawn("inventories", 90, layout="many")]
    orders = [order for order in orders if len(order) > 3]  # fewer lie in reading order by chance
    reading = [place_of({"x": 16 + 32 * (cell % 3), "y": 16 + 32 * (cell // 3)}) for cell in range(9)]
    assert sum(order != sorted(order, key=reading.index) for order in orders) > 0.9 * len(orders) > 50


def test_a_profile_calls_an_object_by_what_it_alone_is_and_then_says_the_rest():
    told = 0
    for sample in drawn("profiles", 150):
        things = facts(sample.images[0].drawn)["objects"]
        question, answer = (message.text for message in sample.messages)
        assert not particle_errors(answer)
        if not question.startswith("도형마다"):  # nothing in the picture is the only one of its kind
            assert lists(question, answer, things), (question, answer)
            continue
        found = re.findall(rf"(?:^|, )([^,]*?)(?<!작)(?:은|는) ([^,]*?)(?:으로|로) ({PLACE})에", answer)
        assert len(found) == answer.count(",") + 1 and len({place for *_, place in found}) == len(found), answer
        for called, rest, place in found:
            (thing,) = (thing for thing in things if place_of(thing) == place)
            attributes = {thing[key] for key in ("size", "colour", "pattern", "shape")} - {""}
            words = set(called.split()) - {"이", "도형"}
            assert words | (set(rest.split()) - {"도형"}) == attributes and not words & set(rest.split()), answer
            alike = [each for each in things if words <= {each[key] for key in ("size", "colour", "pattern", "shape")}]
            assert alike == [thing], (called, answer)
            told += 1
    assert told > 150


def test_a_full_answer_says_again_what_it_is_about_and_then_the_same():
    for kind in ("colour", "shape", "position", "count", "size", "pattern", "object"):
        short, full = drawn("questions", 30, kind=kind, style="formal"), drawn("questions", 30, kind=kind, style="full")
        for formal, long in zip(short, full, strict=True):
            asked, answer = (message.text for message in long.messages)
            topic = answer.removesuffix(formal.messages[-1].text)
            assert topic != answer and re.sub(r"(은|는|에는) $", "", topic) in asked, (asked, answer)
            assert asked.startswith(formal.messages[0].text) and not particle_errors(answer)


def test_a_collection_is_narrowed_only_by_what_it_has():
    with pytest.raises(BodaError, match="questions are not narrowed by font, only by layout"):
        read("questions", 1, where={"font": "gothic"})
    with pytest.raises(BodaError, match="words are not narrowed by layout"):
        read("words", 1, where={"layout": "one"})
