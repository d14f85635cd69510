"""Evaluation without a model: matching, intervals, running and continuing, failures, reports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import boda.evaluate
from boda.data.drawn import fonts
from boda.data.sheet import wrapped
from boda.errors import BodaError
from boda.evaluate.answers import fingerprint, read_answers
from boda.evaluate.figures import markdown, markdown_table, read_runs
from boda.evaluate.metrics.exact import clean, same_answer
from boda.evaluate.metrics.intervals import bootstrap
from boda.evaluate.sheets import contact_sheet, curve
from boda.evaluate.task import Row, Task, summary
from boda.evaluate.tasks import TASKS, make_task
from boda.evaluate.tasks.questions import questions, summarise

COLOURS = {"빨간색": (220, 20, 20), "파란색": (20, 20, 220)}


class Answers:
    """A model that says what a function makes of the last question, and remembers what it was asked."""

    def __init__(self, say=lambda question: "빨간색", name="fixed"):
        self.say, self.name, self.asked = say, name, []

    def answer(self, conversations):
        self.asked += conversations
        return [self.say(conversation[-1]["content"][-1]["text"]) for conversation in conversations]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Twelve questions on four pictures: eight on colour (six red, two blue), four yes/no."""
    lines = []
    for number in range(4):
        colour = "빨간색" if number < 3 else "파란색"
        Image.new("RGB", (40, 30), COLOURS[colour]).save(tmp_path / f"{number}.png")
        for kind, question, answer in (
            ("colour", "무슨 색인가요?", colour),
            ("colour", "이 색은 무엇인가요?", colour),
            ("exists", "빨간색이 있나요?", "네" if number < 3 else "아니요"),
        ):
            messages = [{"role": "user", "content": f"<image>\n{question}"}, {"role": "assistant", "content": answer}]
            lines.append({"messages": messages, "images": [f"{number}.png"], "tags": {"type": kind, "source": "drawn"}})
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def timeless(records):
    """Answers without how long they took."""
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


def run(model, tasks, out, **rest):
    return boda.evaluate.run(model, tasks=tasks, out=out, quiet=True, **rest)


# Matching


@pytest.mark.parametrize(
    "answer, reference",
    [
        ("고양이", "고양이"),
        (" 고양이. ", "고양이"),
        ("고양이입니다.", "고양이"),
        ("고양이예요!", "고양이"),
        ("고양이에요", "고양이"),
        ("고양이다.", "고양이"),
        ("말이에요.", "말"),
        ("말이다", "말"),
        ("‘말’입니다", "말"),
        ("고양이", "고양이입니다."),
        ("고양이예요.", "고양이입니다."),
        ("두  개", "두 개"),
        ("2개", "2개"),
        ("USB", "usb"),
        ("(네)", "네"),
        ("\u1112\u1161\u11ab", "한"),  # decomposed Hangul
        ("바다.", "바다"),
        ("바다입니다.", "바다"),
        ("#", "#"),
        ("3.5", "3.5"),
    ],
)
def test_same_answers(answer: str, reference: str):
    assert same_answer(answer, reference)


@pytest.mark.parametrize(
    "answer, reference",
    [
        ("바다", "바"),  # a word that happens to end in 다
        ("바", "바다"),
        ("개", "고양이"),
        ("고양", "고양이입니다."),
        ("네", "아니요"),
        ("", "네"),
        ("입니다", "네"),
        ("한 개", "두 개"),
        ("35", "3.5"),
        ("고양이와 개", "고양이"),
    ],
)
def test_different_answers(answer: str, reference: str):
    assert not same_answer(answer, reference)


def test_an_answer_that_is_another_reference_is_that_one():
    assert same_answer("고양이다.", "고양이")
    assert not same_answer("고양이다.", "고양이", others={"고양이다"})


@given(st.text(max_size=30))
def test_cleaning_twice_changes_nothing_and_every_text_is_its_own_answer(text: str):
    assert clean(clean(text)) == clean(text)
    assert same_answer(text, text)


@given(
    st.text(alphabet="가나다라마바사아이에예요입니각낙닥", min_size=1, max_size=6), st.sampled_from(["입니다.", ".", "!", ""])
)
def test_an_ending_never_changes_the_verdict(word: str, ending: str):
    assert same_answer(word + ending, word)


# Intervals


def test_bootstrap_of_independent_questions_agrees_with_the_binomial_interval():
    scores = [1.0] * 300 + [0.0] * 100
    low, high = bootstrap(scores)
    half = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert low == pytest.approx(0.75 - half, abs=0.006) and high == pytest.approx(0.75 + half, abs=0.006)
    assert bootstrap(scores) == (low, high)
    assert bootstrap(scores, seed=1) != (low, high)


def test_questions_on_one_picture_widen_the_interval():
    scores = np.repeat(np.arange(40) % 2, 10).astype(float)
    alone, together = bootstrap(list(scores)), bootstrap(list(scores), clusters=list(np.repeat(np.arange(40), 10)))
    assert together[1] - together[0] > 2.5 * (alone[1] - alone[0])


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=40))
def test_bootstrap_stays_within_the_scores(scores: list[float]):
    low, high = bootstrap(scores, resamples=50)
    assert min(scores) <= low <= high <= max(scores)


def test_bootstrap_says_what_it_needs():
    for bad in ({"scores": []}, {"scores": [1.0], "confidence": 95}, {"scores": [1.0, 0.0], "clusters": ["a"]}):
        with pytest.raises(ValueError):
            bootstrap(**bad)


# Running


def test_scores_groups_and_majority(file: Path, tmp_path: Path):
    result = run(
        Answers(lambda question: "네" if "있나요" in question else "빨간색입니다."), [f"questions:{file}"], tmp_path / "out"
    )
    found = result[f"questions:{file}"]
    assert found["n"] == 12 and found["failed"] == 0
    assert found["score"] == pytest.approx(9 / 12)
    assert found["low"] < 9 / 12 < found["high"]
    assert found["majority"] == pytest.approx(6 / 12) and found["majority_answer"] == "빨간색"
    assert list(found["groups"]) == ["type", "answer"]  # `source` says the same of all
    assert found["groups"]["type"]["exists"]["score"] == 0.75
    assert found["groups"]["type"]["exists"]["majority"] == 0.75
    assert found["groups"]["answer"]["파란색"]["score"] == 0
    saved = json.loads((tmp_path / "out/results.json").read_text(encoding="utf-8"))
    assert saved["tasks"][f"questions:{file}"]["score"] == found["score"] and saved["model"] == "fixed"


def test_answers_are_recorded_whole(file: Path, tmp_path: Path):
    run(Answers(lambda question: "  파란색이에요.\n"), [f"questions:{file}"], tmp_path / "out")
    first = json.loads((tmp_path / "out/answers.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["raw"] == "  파란색이에요.\n" and first["extracted"] == "파란색이에요" and first["gold"] == "빨간색"
    assert first["score"] == 0.0 and first["failed"] is False
    assert first["prompt"] == [{"role": "user", "content": "<image>무슨 색인가요?"}]
    assert first["images"] == [{"path": str(file.parent / "0.png")}]


def test_the_answer_is_not_in_the_question(file: Path, tmp_path: Path):
    model = Answers()
    run(model, [f"questions:{file}"], tmp_path / "out")
    assert all([message["role"] for message in conversation] == ["user"] for conversation in model.asked)
    assert all([part["type"] for part in conversation[-1]["content"]] == ["image", "text"] for conversation in model.asked)


def test_earlier_turns_are_asked_along(tmp_path: Path):
    turns = [("system", "짧게"), ("user", "하나?"), ("assistant", "둘"), ("user", "셋?"), ("assistant", "넷")]
    line = {"messages": [{"role": role, "content": text} for role, text in turns]}
    path = tmp_path / "turns.jsonl"
    path.write_text(json.dumps(line, ensure_ascii=False) + "\n", encoding="utf-8")
    model = Answers(lambda question: "넷")
    assert run(model, [f"questions:{path}"], tmp_path / "out")[f"questions:{path}"]["score"] == 1
    assert [message["role"] for message in model.asked[0]] == ["system", "user", "assistant", "user"]


def test_blind_leaves_the_pictures_out_and_says_so(file: Path, tmp_path: Path):
    model = Answers()
    run(model, [f"questions:{file}"], tmp_path / "out", blind=True)
    assert all(part["type"] == "text" for conversation in model.asked for part in conversation[-1]["content"])
    assert json.loads((tmp_path / "out/results.json").read_text(encoding="utf-8"))["blind"] is True
    assert (
        "<image>"
        not in json.loads((tmp_path / "out/answers.jsonl").read_text(encoding="utf-8").splitlines()[0])["prompt"][0]["content"]
    )
    with pytest.raises(BodaError, match="blind was True and is False"):
        run(model, [f"questions:{file}"], tmp_path / "out")


def test_a_model_in_one_file_is_another_when_the_file_is(tmp_path: Path):
    path = tmp_path / "model.gguf"
    found = [path.write_bytes(each) and fingerprint(path) for each in (b"GGUF 1", b"GGUF 2", b"GGUF 1")]
    assert found[0] == found[2] != found[1]


def test_a_limit_takes_the_same_rows_and_a_larger_one_adds_to_them(file: Path, tmp_path: Path):
    task = make_task(f"questions:{file}")
    few, more = [{row.id for row in task.load(limit)} for limit in (4, 7)]
    assert len(few) == 4 and few < more
    kinds = [row.value.tags[0][1] for row in task.load(6)]
    assert (kinds.count("colour"), kinds.count("exists")) == (4, 2)  # as of all twelve
    model = Answers()
    run(model, [f"questions:{file}"], tmp_path / "out", limit=4)
    assert run(model, [f"questions:{file}"], tmp_path / "out", limit=7)[task.name]["n"] == 7
    assert len(model.asked) == 7


def test_a_stopped_run_continues_after_the_last_whole_line(file: Path, tmp_path: Path):
    whole = tmp_path / "whole"
    task = f"questions:{file}"
    expected = run(Answers(), [task], whole, batch_size=5)

    class Stops(Answers):
        def answer(self, conversations):
            if len(self.asked) >= 5:
                raise KeyboardInterrupt
            return super().answer(conversations)

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(Stops(), [task], out, batch_size=5)
    path = out / "answers.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    assert len(lines) == 5
    path.write_text("".join(lines) + '{"task": "questions", "row": "5", "ra', encoding="utf-8")  # torn by the kill
    model = Answers()
    assert run(model, [task], out) == expected
    assert len(model.asked) == 7
    assert timeless(read_answers(path)) == timeless(read_answers(whole))
    assert run(model, [task], out) == expected and len(model.asked) == 7  # nothing left to ask


def test_an_answer_may_hold_every_kind_of_line_break(file: Path, tmp_path: Path):
    task, said = f"questions:{file}", "빨간색\u2028그리고\x85파란색\x0b"
    run(Answers(lambda question: said), [task], tmp_path / "out")
    assert {record["raw"] for record in read_answers(tmp_path / "out")} == {said}


def test_a_broken_line_inside_is_named(file: Path, tmp_path: Path):
    out = tmp_path / "out"
    run(Answers(), [f"questions:{file}"], out)
    lines = (out / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    lines[2] = lines[2][:20]
    (out / "answers.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(BodaError, match="line 3"):
        run(Answers(), [f"questions:{file}"], out)


def test_a_folder_of_another_model_or_of_changed_questions_is_refused(file: Path, tmp_path: Path):
    task, out = f"questions:{file}", tmp_path / "out"
    run(Answers(), [task], out)
    with pytest.raises(BodaError, match="model was 'fixed' and is 'other'"):
        run(Answers(name="other"), [task], out)
    file.write_text(file.read_text(encoding="utf-8").replace("무슨 색인가요?", "어떤 색인가요?"), encoding="utf-8")
    with pytest.raises(BodaError, match="version was"):
        run(Answers(), [task], out)
    assert len((out / "answers.jsonl").read_text(encoding="utf-8").splitlines()) == 12  # nothing lost by either


def test_another_task_may_join_a_folder(file: Path, tmp_path: Path):
    run(Answers(), [f"questions:{file}"], tmp_path / "out", limit=2)
    other = file.with_name("other.jsonl")
    other.write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    assert list(run(Answers(), [f"questions:{other}"], tmp_path / "out", limit=2)) == [f"questions:{other}"]
    assert len(json.loads((tmp_path / "out/results.json").read_text(encoding="utf-8"))["tasks"]) == 2


def test_a_question_that_cannot_be_asked_fails_alone_and_is_asked_again(file: Path, tmp_path: Path):
    class Chokes(Answers):
        def answer(self, conversations):
            if any("있나요" in conversation[-1]["content"][-1]["text"] for conversation in conversations):
                raise BodaError("too long")
            return super().answer(conversations)

    task, out = f"questions:{file}", tmp_path / "out"
    found = run(Chokes(), [task], out, batch_size=12)[task]
    assert (found["n"], found["failed"]) == (8, 4)
    assert found["score"] == pytest.approx(6 / 8)  # failures are counted, not scored
    failed = [json.loads(line) for line in (out / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["error"] for record in failed if record["failed"]] == ["too long"] * 4
    again = Answers()
    assert run(again, [task], out)[task]["failed"] == 0 and len(again.asked) == 4


def test_all_failed_has_no_score(file: Path, tmp_path: Path):
    class Refuses(Answers):
        def answer(self, conversations):
            raise BodaError("no")

    found = run(Refuses(), [f"questions:{file}"], tmp_path / "out")[f"questions:{file}"]
    assert found["score"] is None and found["n"] == 0 and found["failed"] == 12
    assert "12 failed" in markdown_table(read_runs([tmp_path / "out"]))


def test_training_answers_as_a_baseline(file: Path, tmp_path: Path):
    train = tmp_path / "train.jsonl"
    train.write_text(file.read_text(encoding="utf-8").replace('"빨간색"', '"파란색"'), encoding="utf-8")
    name = f"questions:{file}:train={train}"
    found = next(iter(run(Answers(), [name], tmp_path / "out").values()))
    assert found["train_majority"] == pytest.approx(2 / 12)  # 파란색 of everything
    assert found["train_majority_by_question"] == pytest.approx((2 + 3) / 12)  # 파란색 of colours, 네 of yes/no
    assert found["groups"]["type"]["exists"]["train_majority_by_question"] == 0.75


def test_source_options_of_the_task(tmp_path: Path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "table.csv").write_text("image,class\na.png,개\n", encoding="utf-8")
    name = f"questions:{tmp_path}/table.csv:question=이것은 무엇인가요?:answer={{class}}"
    model = Answers(lambda question: "개")
    assert next(iter(run(model, [name], tmp_path / "out").values()))["score"] == 1
    assert model.asked[0][0]["content"][1]["text"] == "이것은 무엇인가요?"


def test_files_are_looked_up_in_the_data_folder(file: Path, tmp_path: Path):
    assert run(Answers(), ["questions:test.jsonl"], tmp_path / "out", data_dir=file.parent)["questions:test.jsonl"]["n"] == 12


@pytest.mark.parametrize(
    "call, why",
    [
        (lambda file, out: run(Answers(), ["question:x"], out), "did you mean 'questions'"),
        (lambda file, out: run(Answers(), [], out), "no task"),
        (lambda file, out: run(Answers(), ["questions"], out), "needs a file"),
        (lambda file, out: run(Answers(), ["questions:nowhere.jsonl"], out), "no data at 'nowhere.jsonl'"),
        (lambda file, out: run(Answers(), [f"questions:{file}"] * 2, out), "twice"),
        (lambda file, out: run(object(), [f"questions:{file}"], out), "no model to evaluate"),
        (lambda file, out: run(Answers(), [f"questions:{file}"], out, limit=0), "at least 1"),
        (lambda file, out: run(Answers(), [f"questions:{file}"], out, batch_size=0), "at least 1"),
    ],
)
def test_mistakes_are_named(call, why: str, file: Path, tmp_path: Path):
    with pytest.raises(BodaError, match=why):
        call(file, tmp_path / "out")


def test_a_model_that_answers_the_wrong_number_of_times_is_a_bug(file: Path, tmp_path: Path):
    model = Answers()
    model.answer = lambda conversations: ["네"]
    with pytest.raises(TypeError, match="gave 1 answers"):
        run(model, [f"questions:{file}"], tmp_path / "out")


def test_an_own_task(tmp_path: Path):
    task = Task(
        name="echo",
        version="1",
        load=lambda limit: [Row(str(number), number) for number in range(3)][:limit],
        messages=lambda row: [{"role": "user", "content": [{"type": "text", "text": str(row.value)}]}],
        score=lambda row, answer: {"score": float(answer == str(row.value))},
        summarise=summary,
    )
    assert run(Answers(lambda question: question), [task], tmp_path / "out")["echo"]["score"] == 1.0


def test_every_task_is_described():
    assert all(line.startswith(name) for name, (_, line) in TASKS.items())


def test_the_table_on_the_terminal(file: Path, tmp_path: Path, capsys):
    boda.evaluate.run(Answers(), tasks=["questions:test.jsonl"], out=tmp_path / "out", data_dir=file.parent)
    shown = capsys.readouterr().out
    assert "type=colour" in shown and "75.0%" in shown and "majority" in shown


def test_fingerprint_sees_a_changed_byte_and_not_the_date(tmp_path: Path):
    (tmp_path / "weights").write_bytes(bytes(1_000_000))
    first = fingerprint(tmp_path)
    (tmp_path / "weights").touch()
    assert fingerprint(tmp_path) == first
    (tmp_path / "weights").write_bytes(bytes(999_999) + b"\1")
    assert fingerprint(tmp_path) not in ("", first)


def test_importing_evaluation_loads_nothing_heavy():
    heavy = ("torch", "transformers", "matplotlib", "PIL")
    code = f"import sys, boda.evaluate, boda.evaluate.report; print([name for name in {heavy} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


# Reports


@pytest.fixture
def evaluated(file: Path, tmp_path: Path) -> Path:
    def say(question: str) -> str:
        if "있나요" in question:
            raise BodaError("질문이 너무 길어요")
        return "빨간색이라고 생각합니다만 확실하지는 않습니다" if "이 색은" in question else "빨간색"

    run(Answers(say), [f"questions:{file}"], tmp_path / "out", batch_size=1)
    return tmp_path / "out"


def pixels_like(image: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.abs(np.asarray(image.convert("RGB")).astype(int) - colour).sum(-1) < 12).sum())


def test_contact_sheet_shows_pictures_and_frames(evaluated: Path, tmp_path: Path):
    path = contact_sheet(evaluated / "answers.jsonl", tmp_path / "sheet.png", columns=4, rows=3)
    sheet = Image.open(path)
    assert sheet.width > 4 * 200 and sheet.height > 3 * 200
    assert pixels_like(sheet, COLOURS["빨간색"]) > 9 * 20_000 and pixels_like(sheet, COLOURS["파란색"]) > 3 * 20_000
    for frame, cells in (("#1a7f37", 3), ("#c62828", 5), ("#8a6d00", 4)):  # right, wrong, failed
        colour = tuple(int(frame[start : start + 2], 16) for start in (1, 3, 5))
        assert pixels_like(sheet, colour) > cells * 3_000, frame


def test_contact_sheet_takes_as_many_of_each_kind_and_the_same_each_time(evaluated: Path, tmp_path: Path):
    first = contact_sheet(evaluated, tmp_path / "a.png", columns=2, rows=2).read_bytes()
    assert contact_sheet(evaluated, tmp_path / "b.png", columns=2, rows=2).read_bytes() == first


def test_contact_sheet_of_marks_calls_nothing_right_or_wrong(tmp_path: Path, evaluated: Path):
    record = json.loads((evaluated / "answers.jsonl").read_text(encoding="utf-8").splitlines()[0])
    lines = [{**record, "row": str(score), "failed": False, "raw": "답", "score": score} for score in (0.0, 1.0, 6.5)]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    sheet = Image.open(contact_sheet(tmp_path, tmp_path / "sheet.png"))
    assert pixels_like(sheet, (26, 127, 55)) < 200 and pixels_like(sheet, (198, 40, 40)) < 200


def test_contact_sheet_without_pictures_or_answers(tmp_path: Path, evaluated: Path):
    record = json.loads((evaluated / "answers.jsonl").read_text(encoding="utf-8").splitlines()[0])
    lost = tmp_path / "answers.jsonl"
    lines = [{**record, "images": []}, {**record, "images": [{"path": "gone.png"}]}, {**record, "images": [None, None]}]
    lost.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    assert contact_sheet(lost, tmp_path / "sheet.png").is_file()
    with pytest.raises(BodaError, match="no answers at"):
        contact_sheet(tmp_path / "nowhere", tmp_path / "sheet.png")
    with pytest.raises(BodaError, match="no answers to show"):
        lost.write_text("", encoding="utf-8")
        contact_sheet(lost, tmp_path / "sheet.png")


def test_fonts_without_hangul_are_refused(monkeypatch):
    import matplotlib

    monkeypatch.delenv("BODA_FONT", raising=False)
    shipped = fonts.korean_font()
    latin = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    assert fonts.has_hangul(shipped) and Path(boda.evaluate.__file__).parents[1] in Path(shipped).parents
    assert not fonts.has_hangul(latin) and not fonts.has_hangul("/no/such/font.ttf")
    monkeypatch.setenv("BODA_FONT", latin)
    with pytest.raises(BodaError, match="no font file with Hangul"):
        fonts.korean_font()
    monkeypatch.setenv("BODA_FONT", shipped)
    assert fonts.korean_font() == shipped


@given(st.text(alphabet="가나다 라마abcXYZ0123456789입니다", max_size=80), st.integers(40, 200), st.integers(1, 4))
def test_wrapped_lines_fit_and_lose_nothing_but_the_end(text: str, width: int, most: int):
    from PIL import ImageFont

    font = ImageFont.truetype(fonts.korean_font(), 17)
    lines = wrapped(text, font, width, most)
    assert len(lines) <= most and all(font.getlength(line) <= width for line in lines)
    shown, whole = "".join("".join(lines).split()), "".join(text.split())
    assert shown == whole or whole.startswith(shown.removesuffix("…"))


def test_markdown_of_runs_side_by_side(file: Path, tmp_path: Path):
    run(Answers(), ["questions:test.jsonl"], tmp_path / "seeing", data_dir=file.parent)
    run(Answers(lambda question: "네"), ["questions:test.jsonl"], tmp_path / "blind", data_dir=file.parent, blind=True)
    lines = markdown_table(read_runs([tmp_path / "seeing", tmp_path / "blind"])).splitlines()
    assert lines[0] == "| task | n | seeing | blind | majority |" and markdown(["a|b"], []).startswith("| a\\|b |")
    assert (
        lines[2].startswith("| **questions:test.jsonl** | 12 | 50.0% (")
        and "25.0% (" in lines[2]
        and lines[2].endswith("| 50.0% |")
    )
    assert any("type: exists" in line and "75.0%" in line for line in lines)


def test_curve_of_a_run_of_two_stages(tmp_path: Path):
    records = [{"stage": stage, "step": step, "loss": 3.0 / step} for stage in ("align", "instruct") for step in range(1, 30)]
    records.insert(20, {"stage": "align", "step": 20, "validation_loss": 0.5, "validation_accuracy": 0.7})
    log = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "log.jsonl").write_text(log + '{"stage": "instruct", "st', encoding="utf-8")
    picture = Image.open(curve(tmp_path, tmp_path / "curve.png"))
    assert picture.width > 800 and pixels_like(picture, (31, 78, 140)) > 300 and pixels_like(picture, (43, 138, 62)) > 5
    with pytest.raises(BodaError, match="no log at"):
        curve(tmp_path / "nowhere", tmp_path / "curve.png")
    (tmp_path / "log.jsonl").write_text('{"stage": "a", "step": 1}\n', encoding="utf-8")
    with pytest.raises(BodaError, match="no record with a loss"):
        curve(tmp_path, tmp_path / "curve.png")


def test_tags_that_tell_every_row_apart_group_nothing():
    same = {"asked": "?", "score": 1.0, "failed": False, "images": []}
    records = [{"row": str(n), "tags": {"id": str(n), "type": "ab"[n % 2]}, "gold": str(n), **same} for n in range(60)]
    assert list(summarise(records)["groups"]) == ["type"]
    assert summarise(records)["majority"] == pytest.approx(1 / 60)


def test_a_file_without_questions(tmp_path: Path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("", encoding="utf-8")
    with pytest.raises(BodaError, match=r"holds no|is empty"):
        questions(empty)


def test_a_model_of_the_hub_is_known_by_its_revision(monkeypatch, tmp_path):
    import boda.models.encoder  # noqa: F401  # what it imports is the real thing
    from boda.evaluate.answers import answerer, encoding

    class Config:
        _commit_hash = "0123abcd"

    monkeypatch.setattr("boda.models.checkpoints.load_config", lambda name, trust_remote_code=False: Config())
    assert answerer("owner/model").fingerprint == encoding("owner/model").fingerprint == "0123abcd"


def test_a_model_that_is_not_there_leaves_no_folder(file: Path, tmp_path: Path):
    with pytest.raises(BodaError, match="there is no such folder"):
        run(str(tmp_path / "nowhere"), [questions(file)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_runs_do_not_write_into_one_folder(file: Path, tmp_path: Path):
    def say(question: str) -> str:
        with pytest.raises(BodaError, match=r"another process is writing to .*out; wait until it has ended"):
            run(Answers(), [questions(file)], tmp_path / "out")
        return "빨간색"

    run(Answers(say), [questions(file)], tmp_path / "out")
    run(Answers(), [questions(file)], tmp_path / "out")  # the lock went with the run
