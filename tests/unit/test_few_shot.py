"""Few-shot evaluation: which examples are shown, in which order, that none leaks, and how answers after them are scored."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import boda.evaluate
from boda.cli import app
from boda.data.sample import ImageRef, conversation
from boda.errors import BodaError
from boda.evaluate.answers import read_answers
from boda.evaluate.shots import Demonstrations, with_shots
from boda.evaluate.task import Row
from boda.evaluate.tasks import make_task, make_tasks
from boda.evaluate.tasks.few_shot import few_shot
from tests.fake_encoder import RGB, FakeEncoder
from tests.support import answering, tiny_model

COLOURS = {"빨간": "빨간색", "초록": "초록색", "파란": "파란색", "노란": "노란색"}


class Scripted:
    """A model that answers what a function makes of the whole conversation, and remembers it."""

    name = "scripted"

    def __init__(self, say=lambda conversation: "빨간색"):
        self.say, self.asked = say, []

    def answer(self, conversations):
        self.asked += conversations
        return [self.say(conversation) for conversation in conversations]

    def shown(self) -> list[list[str]]:
        """File names of the pictures of each conversation, in order."""
        return [
            [Path(part["image"].path).name for turn in turns for part in turn["content"] if part["type"] == "image"]
            for turns in self.asked
        ]


def copier(conversation) -> str:
    """The answer of the last example."""
    return conversation[-2]["content"][0]["text"]


def picture(path: Path, colour: str, change: int = 0) -> None:
    red, green, blue = RGB[colour]
    Image.new("RGB", (12, 10), (red - change, green, min(255, blue + change))).save(path)


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def asked(image: str, answer: str, question: str = "무슨 색인가요?") -> dict:
    messages = [{"role": "user", "content": f"<image>{question}"}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "images": [image], "tags": {"colour": answer}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Eight test pictures and forty to learn from, in four colours; one of these is the same file as a test picture."""
    folder = tmp_path_factory.mktemp("shots")
    test, train, captions = [], [], []
    for number, (colour, name) in enumerate(COLOURS.items()):
        for change in range(2):
            picture(folder / f"test-{number}-{change}.png", colour, change)
            test.append(asked(f"test-{number}-{change}.png", name))
        for change in range(10):
            picture(folder / f"train-{number}-{change}.png", colour, 3 * change + 2)
            train += [asked(f"train-{number}-{change}.png", name), asked(f"train-{number}-{change}.png", name, "색은?")]
        two = [f"{colour} 그림 한 장이 벽에 걸려 있다", f"{colour} 네모 하나"]
        captions.append({"image": f"test-{number}-0.png", "captions": two})
    shutil.copy(folder / "test-0-0.png", folder / "train-copy.png")
    train.append(asked("train-copy.png", "빨간색"))
    write(folder / "test.jsonl", test)
    write(folder / "train.jsonl", train)
    write(folder / "captions.jsonl", captions)
    return folder


def run(model, tasks, out, **rest):
    return boda.evaluate.run(model, tasks=tasks, out=out, quiet=True, **rest)


def of(folder: Path, **rest):
    return few_shot("test.jsonl", train="train.jsonl", data_dir=folder, **rest)


# Which examples


def test_examples_are_earlier_turns_and_the_question_comes_last(folder: Path, tmp_path: Path):
    model = Scripted()
    run(model, of(folder, shots=[3]), tmp_path)
    for turns in model.asked:
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * 3 + ["user"]
        assert all([part["type"] for part in turn["content"]] == ["image", "text"] for turn in turns[::2])
        for turn, answer in zip(turns[:-1:2], turns[1::2]):
            name = Path(turn["content"][0]["image"].path).name
            number = 0 if name == "train-copy.png" else int(name.split("-")[1])
            assert answer["content"] == [{"type": "text", "text": list(COLOURS.values())[number]}]
    assert [names[-1] for names in model.shown()] == [f"test-{number}-{change}.png" for number in range(4) for change in (0, 1)]


@pytest.mark.parametrize("choose", ["random", FakeEncoder()])
def test_more_shots_only_add_earlier_turns(folder: Path, tmp_path: Path, choose):
    model = Scripted()
    run(model, of(folder, shots=[0, 2, 8], choose=choose), tmp_path)
    none, two, eight = model.shown()[:8], model.shown()[8:16], model.shown()[16:]
    assert [len(names) for names in (none[0], two[0], eight[0])] == [1, 3, 9]
    assert all(more[-3:] == some and some[-1:] == bare for bare, some, more in zip(none, two, eight))
    assert all(len(set(names)) == 9 for names in eight)  # each on another picture


@pytest.mark.parametrize("choose", ["random", FakeEncoder()])
def test_the_questions_own_picture_is_never_an_example_under_any_name(folder: Path, tmp_path: Path, choose):
    model = Scripted()
    run(model, few_shot("test.jsonl", shots=[7], choose=choose, data_dir=folder), tmp_path / "itself")
    assert all(sorted(names) == sorted(set(names)) for names in model.shown())  # all seven others, and the own one once
    model = Scripted()
    run(model, of(folder, shots=[40], choose=choose), tmp_path / "train")
    first, *others = model.shown()
    assert "train-copy.png" not in first and "test-0-0.png" in first
    assert any("train-copy.png" in names for names in others)


def test_random_examples_depend_on_seed_and_row_alone(folder: Path, tmp_path: Path):
    one, other, limited, seeded = Scripted(), Scripted(), Scripted(), Scripted()
    run(one, of(folder, shots=[4]), tmp_path / "a", batch_size=8)
    run(other, of(folder, shots=[16, 4]), tmp_path / "b", batch_size=1)
    run(limited, of(folder, shots=[4]), tmp_path / "c", limit=3)
    run(seeded, of(folder, shots=[4], seed=1), tmp_path / "d")
    assert one.shown() == other.shown()[8:] and len({tuple(names[:-1]) for names in one.shown()}) == 8
    assert len(limited.asked) == 3 and all(names in one.shown() for names in limited.shown())
    assert one.shown() != seeded.shown()


def test_random_examples_are_spread_evenly_over_the_pictures():
    samples = [
        conversation(("user", "<image>?"), ("assistant", "네"), images=(ImageRef(data=bytes([number])),))
        for number in range(10)
        for _ in range(1 + 20 * (number == 0))  # many questions on a picture do not make it frequent
    ]
    row = conversation(("user", "<image>?"), ("assistant", "네"), images=(ImageRef(data=b"own"),))
    chosen = Demonstrations(samples, 3)
    counts = Counter(each.images[0].data for number in range(2000) for each in chosen.of(Row(str(number), row), 3))
    assert len(counts) == 10 and all(abs(count - 600) < 100 for count in counts.values())


def test_the_likest_pictures_are_shown_the_likest_last(folder: Path, tmp_path: Path):
    model, encoder = Scripted(copier), FakeEncoder()
    result = run(model, of(folder, shots=[4, 10], choose=encoder), tmp_path)
    for names in model.shown():
        own, *others = (encoder.images([Image.open(folder / name)])[0] for name in (names[-1], *names[:-1]))
        likeness = [float(own @ each) for each in others]
        assert likeness == sorted(likeness)
    assert all(found["score"] == 1.0 and found["copied"] == 1.0 for found in result.values())
    names = [name for names in model.shown()[:8] for name in names]
    best = max(
        names[:4],
        key=lambda name: float(
            encoder.images([Image.open(folder / name)])[0] @ encoder.images([Image.open(folder / names[4])])[0]
        ),
    )
    assert best == names[3]


def test_training_pictures_are_encoded_once_and_not_at_all_when_all_is_answered(folder: Path, tmp_path: Path):
    encoder = FakeEncoder()
    run(Scripted(), of(folder, shots=[0, 1, 2, 4], choose=encoder), tmp_path)
    assert encoder.seen_pictures == 41 + 8
    again = FakeEncoder()
    run(Scripted(), of(folder, shots=[0, 1, 2, 4], choose=again), tmp_path)
    assert again.seen_pictures == 0


def test_training_pictures_that_cannot_be_read_are_not_chosen(tmp_path: Path):
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        Image.fromarray(rng.integers(0, 255, (200, 200, 3), np.uint8)).save(tmp_path / f"{name}.jpg")
    whole = (tmp_path / "c.jpg").read_bytes()
    (tmp_path / "b.jpg").write_bytes(whole[: len(whole) // 2])  # its header is whole, and it would be the likest
    write(tmp_path / "train.jsonl", [asked(f"{name}.jpg", "점") for name in ("a", "b")])
    write(tmp_path / "test.jsonl", [asked("c.jpg", "점")])
    model = Scripted()
    run(model, few_shot("test.jsonl", "train.jsonl", [1], FakeEncoder(), data_dir=tmp_path), tmp_path / "out")
    assert model.shown() == [["a.jpg", "c.jpg"]]
    with pytest.raises(BodaError, match="2 shots need"):
        run(model, few_shot("test.jsonl", "train.jsonl", [2], FakeEncoder(), data_dir=tmp_path), tmp_path / "two")


def test_system_text_stays_first_and_is_the_questions_own():
    def image(number: int) -> ImageRef:
        return ImageRef(data=bytes([number]))

    shown = conversation(("system", "길게"), ("user", "<image>1?"), ("assistant", "하나"), images=(image(1),))
    own = conversation(("system", "<image>짧게"), ("user", "<image>2?"), ("assistant", "둘"), images=(image(2), image(3)))
    made = with_shots(own, [shown, shown])
    assert [message.text for message in made.messages] == ["짧게", "1?", "하나", "1?", "하나", "2?", "둘"]
    assert [each.data for each in made.images] == [b"\2", b"\1", b"\1", b"\3"]
    assert with_shots(own, []) == own


# Scores and records


def test_the_same_rows_for_every_number_of_shots(folder: Path, tmp_path: Path):
    name = "few-shot:test.jsonl:train=train.jsonl:shots=0/1/2"
    result = run(Scripted(), [name], tmp_path, data_dir=folder, limit=4)
    assert list(result) == [f"few-shot:test.jsonl:shots={number}" for number in (0, 1, 2)]
    rows = [[each["row"] for each in read_answers(tmp_path) if each["task"] == task] for task in result]
    assert len(rows[0]) == 4 and rows[0] == rows[1] == rows[2]
    assert [found["n"] for found in result.values()] == [4, 4, 4]


def test_questions_are_scored_as_questions_are(folder: Path, tmp_path: Path):
    name = "test.jsonl:train=train.jsonl"
    plain = run(Scripted(), [f"questions:{name}"], tmp_path / "plain", data_dir=folder)["questions:test.jsonl"]
    shown = run(Scripted(), [f"few-shot:{name}:shots=2"], tmp_path / "shown", data_dir=folder)["few-shot:test.jsonl:shots=2"]
    apart = {"version", "note", "copied", "remarks"}
    assert {key: shown[key] for key in shown if key not in apart} == {key: plain[key] for key in plain if key not in apart}
    assert shown["score"] == 0.25 and shown["train_majority"] == 0.25 and set(shown["groups"]) == {"colour", "answer"}
    copied = run(Scripted(copier), [f"few-shot:{name}:shots=2"], tmp_path / "copy", data_dir=folder)
    assert copied["few-shot:test.jsonl:shots=2"]["score"] == shown["copied"]


def test_a_record_tells_what_was_shown(folder: Path, tmp_path: Path):
    model = Scripted()
    run(model, of(folder, shots=[2]), tmp_path)
    record, names = read_answers(tmp_path)[0], model.shown()[0]
    assert record["images"] == [{"path": str(folder / "test-0-0.png")}]  # those in front are no pictures of the question
    lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(lines[row])["images"][0] for row in record["shots"]] == names[:2]
    assert record["copied"] == record["prompt"][-2]["content"]
    assert [message["content"].startswith("<image>") for message in record["prompt"]] == [True, False] * 2 + [True]


def test_captions_of_a_picture_are_its_references(folder: Path, tmp_path: Path):
    name = "few-shot:captions.jsonl:shots=0/1:as=captions:tokenizer=whitespace:question=설명:"
    say = {"초록 그림 한 장이 벽에 걸려 있다": 1.0, "빨간 네모 하나": 1.0, "": 0.0}
    replies = iter([*say, "노란 그림 하나가 있다"] * 2)
    model = Scripted(lambda conversation: next(replies))
    result = run(model, [name], tmp_path, data_dir=folder, batch_size=1)
    bare, one = result.values()
    records = read_answers(tmp_path)
    assert len(records) == 8 and records[0]["references"] == ["빨간 그림 한 장이 벽에 걸려 있다", "빨간 네모 하나"]
    assert model.asked[0][-1]["content"][-1]["text"] == "설명:"
    assert bare["n"] == 4 and bare["scale"] == [0, 10] and bare["tokenizer"] == "whitespace"
    captions = {record["row"]: record["raw"] for record in records[:4]}
    references = {record["row"]: record["references"] for record in records[:4]}
    expected = boda.evaluate.metrics.caption_scores(captions, references, "whitespace")
    assert bare["score"] == pytest.approx(expected["cider"]) and bare["score"] > 0.5
    names = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "meteor")
    assert bare["metrics"] == pytest.approx({name: expected[name] for name in names})
    assert bare["low"] < bare["score"] < bare["high"] and "copied" not in bare
    copies = {record["row"]: record["copied"] for record in records[4:]}
    expected = boda.evaluate.metrics.caption_scores(copies, references, "whitespace")
    assert one["copied"] == pytest.approx(expected["cider"])
    assert records[2]["score"] == 0 and 0 < records[3]["score"] < 1


def test_questions_on_one_picture_are_no_references_of_each_other(folder: Path, tmp_path: Path):
    two = [asked("a.png", "빨간색"), asked("a.png", "네모", "모양은?"), asked("a.png", "빨강")]
    picture(tmp_path / "a.png", "빨간")
    task = few_shot(write(tmp_path / "two.jsonl", two), shots=[0], kind="captions", tokenizer="whitespace")[0]
    rows = task.load(None)
    assert [task.score(row, "")["references"] for row in rows] == [["빨간색", "빨강"], ["네모"]]


def test_a_table_with_a_korean_prompt(folder: Path, tmp_path: Path):
    rows = [
        {"image": str(folder / f"test-{number}-0.png"), "q": "무슨 색?", "a": name}
        for number, name in enumerate(COLOURS.values())
    ]
    path = write(tmp_path / "table.jsonl", rows)
    model = Scripted(copier)
    options = "question=질문: {q} 짧은 대답::answer={a}"
    run(model, [f"few-shot:{path}:shots=3:{options}"], tmp_path / "out")
    assert {turn["content"][-1]["text"] for turns in model.asked for turn in turns[::2]} == {"질문: 무슨 색? 짧은 대답:"}
    assert {turn["content"][-1]["text"] for turns in model.asked for turn in turns[1::2]} == set(COLOURS.values())


def test_other_examples_are_another_version(folder: Path, tmp_path: Path):
    versions = [of(folder, shots=[2], **rest)[0].version for rest in ({}, {"seed": 1}, {"choose": FakeEncoder()})]
    versions += [few_shot("test.jsonl", shots=[number], data_dir=folder)[0].version for number in (2, 3)]
    assert len(set(versions)) == 5 and versions[0] == of(folder, shots=[2])[0].version
    run(Scripted(), of(folder, shots=[2]), tmp_path)
    with pytest.raises(BodaError, match="version was"):
        run(Scripted(), of(folder, shots=[2], seed=1), tmp_path)


@pytest.mark.parametrize(
    "option, why",
    [
        ("", "few-shot needs a file"),
        ("test.jsonl:shots=two", "shots 'two' is no whole number"),
        ("test.jsonl:shots=2/-1", "shots '-1' is no whole number"),
        ("test.jsonl:seed=x", "seed 'x' is no whole number"),
        ("test.jsonl:as=caption", "as 'caption' is nothing; there are questions, captions"),
        ("test.jsonl:shots=9", "9 shots need as many pictures besides the question's own; there are 8 in all"),
        ("test.jsonl:shot=9", "no option 'shot'"),
        ("test.jsonl:as=captions:tokenizer=words", "no tokenizer 'words'"),
        ("words.jsonl:choose=mini-clip", "row 0.*compares pictures; choose=random does not"),
    ],
)
def test_mistakes_are_named(folder: Path, option: str, why: str):
    words = [{"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "네"}]} for n in range(6)]
    write(folder / "words.jsonl", words)
    with pytest.raises(BodaError, match=why):
        make_tasks(f"few-shot:{option}", folder)


@pytest.mark.parametrize("choose, why", [("mini", "compares pictures with texts is needed"), ("", "no model")])
def test_a_model_that_compares_no_pictures_is_named(folder: Path, tmp_path: Path, choose: str, why: str):
    with pytest.raises(BodaError, match=why):
        run(Scripted(), of(folder, shots=[1], choose=choose or str(folder)), tmp_path)


def test_too_few_pictures_once_the_own_one_is_left_out(folder: Path, tmp_path: Path):
    with pytest.raises(BodaError, match="8 shots need as many pictures besides the question's own; there are 8 in all"):
        run(Scripted(), few_shot("test.jsonl", shots=[8], data_dir=folder), tmp_path)


def test_a_name_that_stands_for_several_tasks_is_not_one(folder: Path):
    assert make_task("few-shot:test.jsonl:shots=2", folder).name == "few-shot:test.jsonl:shots=2"
    with pytest.raises(BodaError, match="names 2 tasks"):
        make_task("few-shot:test.jsonl:shots=2/4", folder)


# Models


def test_a_model_answers_after_examples(folder: Path, tmp_path: Path):
    """A tiny model is given the turns through its chat template; too many of them for its positions fail, and are not asked."""
    assembled = tiny_model("llama")
    model, processor = answering(assembled)
    result = run((model, processor), of(folder, shots=[0, 2], max_new_tokens=4), tmp_path / "out", limit=2)
    assert [(found["n"], found["failed"]) for found in result.values()] == [(2, 0), (2, 0)]
    model.config.get_text_config().max_position_embeddings = 64
    found = run((model, processor), of(folder, shots=[16], max_new_tokens=4), tmp_path / "long", limit=2)
    assert [(each["n"], each["failed"]) for each in found.values()] == [(0, 2)]
    assert "too long for a model of 64 positions" in read_answers(tmp_path / "long")[0]["error"]


def test_the_commands_of_the_page(tmp_path: Path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "few-shot.md").read_text(encoding="utf-8")
    commands = [
        line for block in page.split("```bash\n")[1:] for line in block.split("```")[0].replace("\\\n", "").splitlines()
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BODA_DATA", "")
    assert len(commands) == 6
    for command in commands:
        program, *words = command.split("  #")[0].split()
        assert program == "boda"
        limit = ["--limit", "4"] if words[0] == "eval" else []
        done = CliRunner().invoke(app, ["--json", *words, *limit])
        assert done.exit_code == 0, done.output
        if words[0] == "eval":
            tasks = json.loads(done.stdout.splitlines()[-1])["tasks"]
            assert all(found["n"] == 4 for found in tasks.values()), command
    assert np.isfinite([found["score"] for found in tasks.values()]).all()
