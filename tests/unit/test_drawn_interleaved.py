"""Drawn documents of several pictures: every answer true of its picture, what is shown enough to go on, nothing tested trained."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import boda
from boda.data.drawn.interleaved import ATTRIBUTES, FORMS, HELD_OUT_TASKS, NAMES
from boda.data.drawn.samples import facts, picture, read
from boda.data.drawn.words import WORDS
from boda.data.drawn.write import write
from boda.data.sample import Sample
from boda.errors import BodaError
from boda.evaluate.metrics.particles import particle_errors
from boda.evaluate.run import run
from boda.evaluate.tasks import make_task, split_tasks
from boda.evaluate.tasks.drawn import TEST_SEED

# The drawn world again, in the words of this test.
COLOURS = "빨간색 주황색 노란색 연두색 초록색 하늘색 파란색 보라색 분홍색 갈색 회색 검은색 흰색".split()
SHAPES = "동그라미 세모 네모 마름모 별 하트 십자가 초승달 고리 화살표".split()
HELD_OUT_PAIRS = {
    tuple(pair.split())
    for pair in "빨간색 세모,주황색 별,노란색 초승달,연두색 동그라미,초록색 마름모,하늘색 십자가,파란색 화살표,보라색 네모,"
    "분홍색 하트,갈색 고리,회색 세모,검은색 별,흰색 초승달".split(",")
}
# What an answer says, by how it begins once marks and 답: are gone.
SAID = {
    **{word: ("colour", word) for word in COLOURS},
    **{word: ("shape", word) for word in SHAPES},
    **{word: ("size", "큰") for word in ("큰 것", "큽니다", "커요", "크다", "큼")},
    **{word: ("size", "작은") for word in ("작은 것", "작습니다", "작아요", "작다", "작음")},
    **{word: ("pattern", word) for word in ("줄무늬", "점무늬")},
    **{word: ("pattern", "") for word in ("민무늬", "무늬가 없", "없음")},
    **{f"{word} 개": ("count", number) for number, word in enumerate("한 두 세 네".split(), 1)},
}
KINDS = ("latest", "captions", "task", "marks", "names")
seeds = st.integers(0, 2**32 - 1)


@cache
def documents(kind: str, limit: int = 400, pair: str = "seen", seed: int = 21, turns: int = 0) -> tuple[Sample, ...]:
    where = {"kind": kind, "pair": pair} | ({"turns": str(turns)} if turns else {})
    return tuple(read("interleaved", limit, seed, where))


@cache
def seen(name: str) -> dict:
    """What a picture shows, objects that look alike as one."""
    things = facts(name)["objects"]
    looks = {(thing["colour"], thing["shape"], thing["size"], thing["pattern"]) for thing in things}
    assert len(looks) == 1, name
    return {**things[0], "count": len(things)}


def shown(sample: Sample) -> list[dict]:
    return [seen(image.drawn) for image in sample.images]


def asked(sample: Sample) -> list[str]:
    return [message.text for message in sample.messages[::2]]


def answers(sample: Sample) -> list[str]:
    return [message.text for message in sample.messages[1::2]]


def meaning(answer: str) -> tuple[str, object]:
    """Attribute and value that an answer tells."""
    return SAID[next(word for word in SAID if answer.removeprefix("답: ").strip("[]'").startswith(word))]


# What documents are


@pytest.mark.parametrize("kind", KINDS)
def test_each_picture_has_a_turn_and_its_answer(kind: str):
    lengths = Counter()
    for sample in documents(kind):
        assert [message.role for message in sample.messages] == ["user", "assistant"] * len(sample.images)
        assert all(message.num_images == 1 and message.content[0].type == "image" for message in sample.messages[::2])
        assert all(particle_errors(text) == [] for text in (*asked(sample), *answers(sample)))
        assert kind == "latest" or not any(asked(sample))
        assert sample.check_trainable() is sample and dict(sample.tags)["type"] == kind
        lengths[len(sample.images)] += 1
    assert (min(lengths), max(lengths)) == (2, {"latest": 5, "captions": 6}.get(kind, 12))
    # Mostly short, but where something has to come again.
    assert (sum(count for length, count in lengths.items() if length <= 5) > len(documents(kind)) / 2) == (kind != "names")


def test_all_kinds_come_equally_often_unless_some_are_asked_for():
    kinds = Counter(dict(sample.tags)["type"] for sample in read("interleaved", 800))
    assert set(kinds) == set(KINDS) and min(kinds.values()) > 120
    assert {dict(s.tags)["type"] for s in read("interleaved", 60, where={"kind": ["task", "colour"]})} == {"task"}


@given(seeds, seeds, st.sampled_from(KINDS), st.sampled_from(["seen", "unseen"]), st.integers(1, 17), st.integers(0, 16))
@settings(max_examples=60)
def test_a_document_of_fewer_pictures_is_the_end_of_a_longer_one(seed, start, kind, pair, few, more):
    short, long = (
        next(read("interleaved", 1, seed, {"kind": kind, "pair": pair, "turns": str(turns)}, start))
        for turns in (few, few + more)
    )
    assert len(short.images) == few and len(long.images) == few + more
    assert (short.images, short.messages) == (long.images[-few:], long.messages[-2 * few :])


@given(seeds, seeds)
@settings(max_examples=20)
def test_a_picture_is_what_its_name_says_and_drawn_again_from_it(seed: int, start: int):
    for image in next(read("interleaved", 1, seed, start=start)).images:
        kind, look, shape, *_ = image.drawn.split("/")
        things = facts(image.drawn)["objects"]
        if kind == "alike":
            count, *words = look.split("-")
            assert len(things) == int(count)
            for thing in things:
                assert [*filter(None, (thing["size"], thing["colour"], thing["pattern"]))] == words and thing["shape"] == shape
        again = picture(image.drawn)
        assert image.picture().tobytes() == again.tobytes() and again.size == (96, 96)
        assert len(again.getcolors(96 * 96)) > 1


def test_a_thousand_documents_are_read_in_no_time():
    began = time.perf_counter()
    assert sum(1 for _ in read("interleaved", 1000, 1)) == 1000
    assert time.perf_counter() - began < 2


# Answers


@pytest.mark.parametrize("pair", ["seen", "unseen"])
def test_answers_are_about_the_latest_picture_and_wrong_for_those_before(pair: str):
    about = Counter()
    for sample in documents("latest", pair=pair):
        tags, things, said = dict(sample.tags), shown(sample), answers(sample)
        for question, answer, thing in zip(asked(sample), said, things):
            if "그림" in question:
                assert answer == caption(thing, full=False)
            else:
                attribute, value = meaning(answer)
                assert question.startswith("도형") and value == thing[attribute], (question, answer, thing)
        attribute, value = meaning(said[-1])
        assert tags["asked"] == attribute
        others = [meaning(other) for other in tags["others"].split("|")]
        assert others == [(attribute, thing[attribute]) for thing in things[:-1]] and (attribute, value) not in others
        assert ((things[-1]["colour"], things[-1]["shape"]) in HELD_OUT_PAIRS) == (pair == "unseen")
        about[attribute, value] += 1
    assert len(about) == 13 + 10 + 2 + 3 + 4


def test_neighbours_are_asked_different_things():
    for sample in documents("latest"):
        kinds = ["" if "그림" in question else meaning(answer)[0] for question, answer in zip(asked(sample), answers(sample))]
        assert all(first != second for first, second in zip(kinds, kinds[1:]))


def caption(thing: dict, full: bool) -> str:
    words = [thing["size"], thing["colour"], thing["pattern"], thing["shape"]] if full else [thing["colour"], thing["shape"]]
    return " ".join(filter(None, words)) + ("" if thing["count"] == 1 else f" {'한두세네'[thing['count'] - 1]} 개")


def test_captions_are_true_and_short():
    two = 0
    for sample in documents("captions"):
        alone = [(image, answer) for image, answer in zip(sample.images, answers(sample)) if image.drawn.startswith("alike")]
        assert any(all(answer == caption(seen(image.drawn), full) for image, answer in alone) for full in (False, True))
        for image, answer in zip(sample.images, answers(sample)):
            assert len(re.findall("[가-힣]", answer)) <= 20
            if not image.drawn.startswith("alike"):
                names = [f"{thing['colour']} {thing['shape']}" for thing in facts(image.drawn)["objects"]]
                assert re.fullmatch(f"{names[0]}[과와] {names[1]}", answer), answer
                two += 1
    assert two > 100


@pytest.mark.parametrize("pair", ["seen", "unseen"])
def test_a_task_is_one_attribute_in_one_form(pair: str):
    pairs = set()
    for sample in documents("task", pair=pair):
        tags = dict(sample.tags)
        attribute, form = tags["attribute"], tags["form"]
        for answer, thing in zip(answers(sample), shown(sample)):
            assert meaning(answer) == (attribute, thing[attribute])
            assert re.fullmatch(FORM[form], answer), (form, answer)
        assert answers(sample)[-1] == FORMS[form](tags["value"])
        pairs.add((attribute, form))
    assert pairs == (HELD_OUT_TASKS if pair == "unseen" else {(a, f) for a in ATTRIBUTES for f in FORMS} - HELD_OUT_TASKS)


WORD = "[가-힣]+(?: [개것])?"
FORM = {
    "formal": f"{WORD}입니다[.]", "polite": f"{WORD}(?:이에요|예요)[.]", "plain": f"{WORD}이?다[.]", "short": WORD,
    "label": f"답: {WORD}", "brackets": rf"\[{WORD}\]", "shout": f"{WORD}!", "quotes": f"'{WORD}'",
}  # fmt: skip


def test_every_attribute_and_form_is_trained_but_some_pairs_are_not():
    seen_pairs = {(a, f) for a in ATTRIBUTES for f in FORMS} - HELD_OUT_TASKS
    assert {a for a, _ in seen_pairs} == set(ATTRIBUTES) and {f for _, f in seen_pairs} == set(FORMS)
    assert 0.1 < len(HELD_OUT_TASKS) / (len(ATTRIBUTES) * len(FORMS)) <= 0.25


@pytest.mark.parametrize("pair", ["seen", "unseen"])
def test_made_up_words_stand_around_one_attribute(pair: str):
    phrases = {said: phrase for phrase, said in reversed(SAID.items())}
    for sample in documents("marks", pair=pair):
        attribute = dict(sample.tags)["attribute"]
        values = [phrases[attribute, thing[attribute]] for thing in shown(sample)]
        around = {text.replace(value, "·", 1) for text, value in zip(answers(sample), values)}
        assert len(around) == 1, around  # the same words and signs throughout
        words = re.findall("[가-힣]+", *around)
        assert words and set(words) <= set(NAMES[pair]) and "·" in around.pop()


@pytest.mark.parametrize("pair", ["seen", "unseen"])
def test_names_belong_to_values_within_a_document(pair: str):
    meant: dict[str, set] = {}
    for sample in documents("names", pair=pair):
        tags, things, said = dict(sample.tags), shown(sample), answers(sample)
        values = [thing[tags["attribute"]] for thing in things]
        named = set(zip(values, said))
        assert len(named) == len(set(values)) == len(set(said)) <= 4 and set(said) <= set(NAMES[pair])
        assert tags["attribute"] in ("colour", "shape") and {thing["count"] for thing in things} == {1}
        assert tags["known"] == ("yes" if values[-1] in values[:-1] else "no")
        for value, name in named:
            meant.setdefault(name, set()).add(value)
    again = [values for values in meant.values() if len(values) > 1]  # names are new in every document
    assert set(meant) <= set(NAMES[pair]) and len(meant) > len(NAMES[pair]) / 2 and len(again) > len(meant) / 4


def test_names_are_new_words_of_few_tokens():
    from tokenizers import Tokenizer

    trained, tested = map(set, NAMES.values())
    assert not trained & tested and not (trained | tested) & {*WORDS, *COLOURS, *SHAPES}
    assert all({name[0], name[1]} <= {letter for word in trained for letter in word} for name in tested)
    tokenizer = Tokenizer.from_file(str(Path(boda.__file__).parent / "weights" / "mini" / "tokenizer.json"))
    lengths = [len(tokenizer.encode(name, add_special_tokens=False).ids) for name in sorted(trained | tested)]
    assert max(lengths) <= 4 and sum(lengths) / len(lengths) < 2.2


def test_the_more_is_shown_the_more_is_known():
    share = [sum(dict(s.tags)["known"] == "yes" for s in documents("names", turns=k + 1)) / 400 for k in (1, 2, 4, 8, 16)]
    expected = [sum(1 - (1 - 1 / values) ** k for values in (2, 3, 4)) / 3 for k in (1, 2, 4, 8, 16)]
    assert share == pytest.approx(expected, abs=0.08) and share == sorted(share)


def test_nothing_of_a_test_is_in_training():
    def pixels(seed: int, pair: str) -> set[bytes]:
        images = [image for sample in read("interleaved", 70, seed, {"pair": pair}) for image in sample.images]
        return {hashlib.sha256(image.picture().tobytes()).digest() for image in images}

    assert not pixels(0, "seen") & (pixels(TEST_SEED, "seen") | pixels(TEST_SEED, "unseen"))
    for sample in (sample for kind in KINDS for sample in documents(kind)):
        things = [thing for image in sample.images for thing in facts(image.drawn)["objects"]]
        assert not any((thing["colour"], thing["shape"]) in HELD_OUT_PAIRS for thing in things)
        assert not set(answers(sample)) & set(NAMES["unseen"])


# The task that asks


class Scripted:
    """Answers by looking at what it is given; `drawn` names pictures as they are asked."""

    name = "scripted"

    def __init__(self, reply):
        self.reply = reply

    def answer(self, conversations: list[list[dict]]) -> list[str]:
        found = []
        for conversation in conversations:
            parts = [part for message in conversation for part in message["content"]]
            told = [part["text"] for m in conversation if m["role"] == "assistant" for part in m["content"]]
            found.append(self.reply([part["image"].drawn for part in parts if part["type"] == "image"], told))
        return found


def evaluated(reply, folder, task: str = "drawn-shots:number=25") -> dict:
    return run(Scripted(reply), [task], folder, quiet=True, batch_size=64)[task]


def curve(result: dict, kind: str, key: str = "score") -> list[float]:
    return [group[key] for group in result["groups"][kind].values()]


def test_whoever_knows_the_right_answers_has_them_all_right(tmp_path):
    rows = make_task("drawn-shots:number=25").load(None)
    assert len(rows) == 25 * (4 + 6 + 6 + 6)
    right = {(row.value.images[-1].drawn, len(row.value.images)): row.value.messages[-1].text for row in rows}
    result = evaluated(lambda names, told: right[names[-1], len(names)], tmp_path)
    assert result["score"] == 1.0 and result["n"] == len(rows)
    assert [*result["groups"]["task"]] == ["0 shots", "1 shot", "2 shots", "4 shots", "8 shots", "16 shots"]
    assert curve(result, "latest", "earlier") == [0] * 4 and curve(result, "task", "value") == [1] * 6


def test_whoever_answers_about_the_picture_before_is_found_out(tmp_path):
    rows = make_task("drawn-shots:number=25:only=latest").load(None)
    others = {row.value.images[-1].drawn: dict(row.value.tags)["others"].split("|")[-1] for row in rows if row.value.images[1:]}
    result = evaluated(lambda names, told: others[names[-1]], tmp_path, "drawn-shots:number=25:only=latest")
    assert curve(result, "latest") == [0] * 4 and curve(result, "latest", "earlier") == [0, 1, 1, 1]


def test_names_are_learned_from_what_is_shown_and_from_nothing_else(tmp_path):
    def compare(names: list[str], told: list[str]) -> str:
        """The name that a picture of the same colour (shape) had, by whichever of the two fits all names shown."""
        things = [seen(name) for name in names]
        for attribute in ("colour", "shape"):
            called = dict(zip((thing[attribute] for thing in things), told))
            if all(called[thing[attribute]] == name for thing, name in zip(things, told)) and len(set(told)) == len(called):
                return called.get(things[-1][attribute], "모름")
        return told[-1] if told else "모름"

    task = "drawn-shots:number=100:only=names"
    result = evaluated(compare, tmp_path / "compare", task)
    learned, known = curve(result, "names"), curve(result, "names", "known")
    assert learned[0] == known[0] == 0 and all(got <= there for got, there in zip(learned, known))
    assert learned[-1] > 0.95 and learned == sorted(learned) and learned[3] > learned[1] + 0.3
    copying = evaluated(lambda names, told: told[-1] if told else "모름", tmp_path / "copy", task)
    chance = sum(1 / values for values in (2, 3, 4)) / 3
    assert curve(copying, "names")[1:] == pytest.approx([chance] * 5, abs=0.16)
    assert max(curve(result, "names", "copying")) < 0.6 and max(curve(result, "names", "majority")) < 0.25


def test_a_task_counts_only_in_its_form(tmp_path):
    def first_form(names: list[str], told: list[str]) -> str:
        """Knows the attribute, and says it always in the same way."""
        attribute = meaning(told[-1])[0] if told else "colour"
        value = seen(names[-1])[attribute]
        return {"큰": "큰 것", "작은": "작은 것", "": "민무늬"}.get(
            value, f"{'한두세네'[value - 1]} 개" if value in (1, 2, 3, 4) else value
        )

    result = evaluated(first_form, tmp_path, "drawn-shots:number=100:only=task")
    assert curve(result, "task", "value")[1:] == [1] * 5 and curve(result, "task", "value")[0] < 0.4
    assert all(0.05 < score < 0.4 for score in curve(result, "task")[1:])  # the two held-out tasks in the short form, of ten
    assert max(curve(result, "task", "majority")) < 0.2 and max(curve(result, "task", "copying")) < 0.45


def test_a_limit_keeps_the_same_last_pictures_for_all_numbers_of_shots():
    task = make_task("drawn-shots:number=20:shots=0/2/8")
    few = task.load(36)
    assert len(few) == 36 and {row.id for row in few} <= {row.id for row in task.load(48)}
    for kind in ("latest", "task", "marks", "names"):
        last = {shots: [row.value.images[-1] for row in few if row.id.startswith(f"{kind}/{shots}/")] for shots in (0, 2, 8)}
        assert len(last[0]) == 3 and last[0] == last[2] == last[8]
    assert task.version != make_task("drawn-shots:number=20:shots=0/2/8:seed=5").version


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("few", "'few' is no option"),
        ("shots=0/many", "'many' shots: give numbers from 0 to 32"),
        ("shots=33", "'33' shots"),
        ("only=names,colour", "no questions of type 'colour'; types are latest, task, marks, names"),
        ("number=0", "at least one question"),
        ("seed=x", "seed 'x' is no whole number"),
        ("shot=3", "no option 'shot'"),
    ],
)
def test_options_that_are_none_are_refused(option: str, said: str):
    with pytest.raises(BodaError, match=re.escape(said)):
        make_task(f"drawn-shots:{option}")


def test_tasks_are_split_at_commas_that_are_not_in_a_list():
    assert split_tasks("drawn-shots:shots=0/4:only=task,names,drawn") == ["drawn-shots:shots=0/4:only=task,names", "drawn"]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"kind": "colour"}, "no interleaved document is of the kind 'colour'; there are latest, captions, task, marks, names"),
        ({"turns": "34"}, "turns '34' is not drawn"),
        ({"layout": "one"}, "interleaved are not narrowed by layout"),
    ],
)
def test_documents_that_are_none_are_refused(where: dict, said: str):
    with pytest.raises(BodaError, match=re.escape(said)):
        next(read("interleaved", 1, where=where))


@pytest.mark.parametrize(
    "look", ["3-큰/별", "0-큰-갈색/별", "3-작은-갈색-줄무늬/별", "3-큰-금색/별", "3-큰-갈색/원", "3-큰-갈색-/별", "-/별"]
)
def test_a_picture_of_what_is_not_drawn_is_refused(look: str):
    with pytest.raises(BodaError, match="nothing that is drawn looks like"):
        picture(f"alike/{look}/0/1")


def test_documents_are_written_as_files(tmp_path):
    done = write(tmp_path / "out", "interleaved", 12, 3, {"turns": ["3", "4"]})
    rows = [json.loads(line) for line in (tmp_path / "out" / "data.jsonl").read_text(encoding="utf-8").splitlines()]
    assert done["rows"] == len(rows) == 12 and done["pictures"] == sum(len(row["images"]) for row in rows) >= 36
    for row, sample in zip(rows, read("interleaved", 12, 3, {"turns": ["3", "4"]})):
        assert [message["content"] for message in row["messages"][1::2]] == answers(sample)
        for name, image in zip(row["images"], sample.images):
            assert Image.open(tmp_path / "out" / name).tobytes() == image.picture().tobytes()
    assert Image.open(tmp_path / "out" / "sheet.png").width > 8 * 96
