"""Boards: tables whose rows may be compared, baselines, blind twins, flags, ranks, going on, and what cannot be had."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

import boda.evaluate
from boda.errors import BodaError
from boda.evaluate.board import load_board, published_figures, run_board
from boda.evaluate.tasks import TASKS
from tests.fake_encoder import FakeEncoder
from tests.judge_data import benchmarks
from tests.judge_server import JudgeServer
from tests.unit.test_evaluate import Answers

COLOURS = {"빨간색": (220, 20, 20), "파란색": (20, 20, 220)}


class Eyes:
    """A model that sees: it says the colour of the picture, and guesses without one."""

    def __init__(self, name="눈", guess="빨간색", right=1.0):
        self.name, self.guess, self.right, self.asked = name, guess, right, []

    def answer(self, conversations):
        self.asked += conversations
        return [self._said(conversation[-1]["content"]) for conversation in conversations]

    def _said(self, content):
        from boda.data.images import load_image

        pictures = [part["image"] for part in content if part["type"] == "image"]
        if not pictures or int(Path(pictures[0].path).stem) % 100 >= 100 * self.right:
            return self.guess
        red, _, blue = load_image(pictures[0]).getpixel((0, 0))
        return "빨간색" if red > blue else "파란색"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Forty pictures, half red, half blue, in an order of no meaning, a question on each."""
    (tmp_path / "data").mkdir()
    rows = []
    for number in range(40):
        colour = "빨간색" if number * 7 % 10 < 5 else "파란색"
        Image.new("RGB", (8, 8), COLOURS[colour]).save(tmp_path / f"data/{number}.png")
        said = [{"role": "user", "content": "<image>\n무슨 색인가요?"}, {"role": "assistant", "content": colour}]
        rows.append({"messages": said, "images": [f"{number}.png"], "tags": {"kind": "colour"}})
    path = tmp_path / "data/test.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def board(file: Path, *models, **rest) -> dict:
    return {"title": "색 순위표", "models": list(models), "tasks": [f"questions:{file}"], "overlap": False} | rest


def rows_of(table: dict) -> dict[tuple[str, str], dict]:
    return {(row["kind"], row["name"]): row for row in table["rows"]}


def test_a_table_with_its_baselines_ranks_and_flags(file: Path, tmp_path: Path):
    models = Eyes("잘 봄"), Eyes("조금 봄", right=0.1), Answers(lambda _: "파란색", "못 봄")
    found = run_board(board(file, *models), tmp_path / "out", quiet=True)
    saved = json.loads((tmp_path / "out/board.json").read_text(encoding="utf-8"))
    assert saved["title"] == "색 순위표" and saved["tables"] == found["tables"] and found["board"].endswith("board.json")
    [table] = found["tables"]
    rows = rows_of(table)
    assert [row["name"] for row in table["rows"] if row["kind"] == "model"] == ["잘 봄", "조금 봄", "못 봄"]  # by score
    assert rows["model", "잘 봄"]["score"] == 1.0 and rows["model", "잘 봄"]["rank"] == [1, 1]
    assert rows["model", "조금 봄"]["rank"] == rows["model", "못 봄"]["rank"] == [2, 3]
    assert rows["blind", "잘 봄"]["score"] == 0.5 and rows["blind", "잘 봄"]["rank"] is None
    assert rows["majority", "majority"]["score"] == 0.5
    assert rows["chance", "chance"]["score"] is None  # an open question has none: a dash
    assert rows["model", "잘 봄"]["flag"] == "" and table["flag"] == ""
    assert rows["model", "조금 봄"]["flag"] == rows["model", "못 봄"]["flag"] == "이미지 없이 낸 점수와 구별되지 않음"
    assert rows["model", "잘 봄"]["run"] == "runs/잘 봄" and rows["blind", "잘 봄"]["run"] == "runs/잘 봄-blind"
    assert (tmp_path / "out/runs/잘 봄-blind/answers.jsonl").is_file()
    assert table["differences"] == [] and table["conditions"]["version"]
    assert "잘 봄" in (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_a_task_that_the_blind_solve_is_flagged(file: Path, tmp_path: Path):
    [table] = run_board(board(file, Answers(lambda _: "파란색", "하나")), tmp_path / "out", quiet=True)["tables"]
    assert table["flag"].startswith("이미지 없이 낸 점수와 구별되지 않음")


def test_without_blind_there_are_neither_twins_nor_flags(file: Path, tmp_path: Path):
    model = Answers(lambda _: "파란색", "하나")
    [table] = run_board(board(file, model, blind=False), tmp_path / "out", quiet=True)["tables"]
    assert {row["kind"] for row in table["rows"]} == {"model", "majority", "chance"}
    assert table["flag"] == "" and len(model.asked) == 40 and not (tmp_path / "out/runs/하나-blind").exists()


def test_the_same_board_again_asks_nothing_and_a_larger_one_only_what_is_new(file: Path, tmp_path: Path):
    first = Answers(lambda _: "파란색", "하나")
    one = run_board(board(file, first), tmp_path / "out", quiet=True)
    before = (tmp_path / "out/board.json").read_bytes()
    again = Answers(lambda _: "파란색", "하나")
    assert run_board(board(file, again), tmp_path / "out", quiet=True) == one and again.asked == []
    assert (tmp_path / "out/board.json").read_bytes() == before
    other = Answers(lambda _: "빨간색", "둘")
    [table] = run_board(board(file, again, other), tmp_path / "out", quiet=True)["tables"]
    assert again.asked == [] and len(other.asked) == 80 and ("model", "둘") in rows_of(table)
    # A smaller limit takes the rows it would have asked for, of those that are there.
    [table] = run_board(board(file, again, limit=10), tmp_path / "out", quiet=True)["tables"]
    assert again.asked == [] and rows_of(table)["model", "하나"]["n"] == 10


def test_a_run_that_was_stopped_ends_with_the_same_board(file: Path, tmp_path: Path):
    class Stopped(Answers):
        def answer(self, conversations):
            if len(self.asked) >= 16:
                raise KeyboardInterrupt
            return super().answer(conversations)

    say = lambda _: "파란색"  # noqa: E731
    run_board(board(file, Answers(say, "하나")), tmp_path / "whole", quiet=True)
    with pytest.raises(KeyboardInterrupt):
        run_board(board(file, Stopped(say, "하나")), tmp_path / "out", quiet=True)
    again = Answers(say, "하나")
    run_board(board(file, again), tmp_path / "out", quiet=True)
    assert len(again.asked) == 80 - 16
    assert (tmp_path / "out/board.json").read_bytes() == (tmp_path / "whole/board.json").read_bytes()


def test_a_model_that_cannot_be_had_does_not_stop_the_others(file: Path, tmp_path: Path):
    class Broken(Answers):
        def answer(self, conversations):
            raise RuntimeError("sizes do not match")

    models = [{"name": "없음", "model": str(tmp_path / "nowhere")}, Broken(name="고장"), Answers(lambda _: "파란색", "하나")]
    [table] = run_board(board(file, *models), tmp_path / "out", quiet=True)["tables"]
    rows = rows_of(table)
    assert rows["model", "하나"]["score"] == 0.5 and rows["model", "하나"]["rank"] == [1, 1]
    assert "nowhere" in rows["model", "없음"]["error"] and rows["model", "없음"]["score"] is None
    assert rows["model", "고장"]["error"] == "RuntimeError: sizes do not match"
    assert rows["model", "고장"]["flag"] == rows["model", "고장"]["error"]
    [table] = run_board(board(file, models[1]), tmp_path / "broken", quiet=True)["tables"]
    assert rows_of(table)["model", "고장"]["rank"] is None


def test_one_task_that_fails_does_not_stop_the_others(file: Path, tmp_path: Path):
    class Half(Answers):
        def answer(self, conversations):
            if any("글자" in each[-1]["content"][-1]["text"] for each in conversations):
                raise RuntimeError("no")
            return super().answer(conversations)

    other = tmp_path / "data/letters.jsonl"
    other.write_text(file.read_text(encoding="utf-8").replace("무슨 색인가요?", "무슨 글자인가요?"), encoding="utf-8")
    tasks = [f"questions:{other}", f"questions:{file}"]
    first, second = run_board(board(file, Half(name="하나"), tasks=tasks, blind=False), tmp_path / "out", quiet=True)["tables"]
    assert rows_of(first)["model", "하나"]["error"] == "RuntimeError: no"
    assert rows_of(second)["model", "하나"]["score"] == 0.5


def test_models_are_asked_what_they_can_do(file: Path, tmp_path: Path):
    from boda.data.sample import ImageRef
    from boda.evaluate.pairs import both_ways, pair_task

    pictures = [(ImageRef(str(file.parent / f"{number}.png")), [f"{number}번"]) for number in range(4)]
    searching = pair_task("찾기", both_ways(pictures), "")
    models = [{"name": "짝", "model": FakeEncoder()}, Answers(lambda _: "파란색", "하나")]
    told = board(file, *models, tasks=[f"questions:{file}", searching])
    questions, search = run_board(told, tmp_path / "out", quiet=True)["tables"]
    assert "answers no questions" in rows_of(questions)["model", "짝"]["error"]
    assert "no pair model" in rows_of(search)["model", "하나"]["error"]
    assert rows_of(search)["model", "짝"]["n"] == 8 and ("blind", "짝") not in rows_of(search)


def test_rows_of_other_conditions_stand_in_tables_of_their_own(file: Path, tmp_path: Path):
    models = [{"model": Answers(lambda _: "파란색", name)} for name in ("하나", "둘", "셋")]
    models[1]["system"] = "짧게 답하세요."
    large, small = run_board(board(file, *models), tmp_path / "out", quiet=True)["tables"]
    assert {row["name"] for row in large["rows"] if row["kind"] == "model"} == {"하나", "셋"}
    assert [(row["kind"], row["name"]) for row in small["rows"][:2]] == [("model", "둘"), ("blind", "둘")]
    assert large["differences"] == ["둘: system text is '짧게 답하세요.', here none"]
    assert small["differences"] == ["하나, 셋: system text is none, here '짧게 답하세요.'"]
    assert small["rows"][0]["rank"] == [1, 1] and small["rows"][0]["run"] != "runs/둘"
    # Each model's own is agreed on; what was answered is used again.
    [table] = run_board(board(file, *models, system="own"), tmp_path / "out", quiet=True)["tables"]
    assert table["conditions"]["system"] == "own" and len(table["rows"]) == 3 + 3 + 2
    assert len(models[1]["model"].asked) == 80


def test_one_system_text_and_image_limit_for_all(file: Path, tmp_path: Path):
    models = [Answers(lambda _: "파란색", name) for name in ("하나", "둘")]
    told = board(file, *models, blind=False, processes=2)  # which models have that are loaded for the run
    run_board(told, tmp_path / "out", quiet=True)
    [table] = run_board(told | {"system": "짧게.", "image_limit": 4}, tmp_path / "out", quiet=True)["tables"]
    assert table["conditions"]["system"] == "짧게." and table["conditions"]["image_limit"] == 4
    assert models[0].asked[-1][0]["role"] == "system" and models[0].asked[-1][1]["content"][0]["image"].size == (4, 4)
    run_board(told, tmp_path / "out", quiet=True)  # the first answers are still there
    assert len(models[0].asked) == 80


def test_published_figures_of_the_tasks_stand_apart(tmp_path: Path):
    told = {"title": "대화", "models": [Talks("하나", "답")], "tasks": ["logickor"], "limit": 1, "overlap": False}
    run_board(told, tmp_path / "out", benchmarks(tmp_path / "data", 1), quiet=True)
    [figures] = json.loads((tmp_path / "out/board.json").read_text(encoding="utf-8"))["published"]
    assert figures["name"] == "logickor-bllossom-card" and len(figures["rows"]) == 3
    assert {"task", "title", "source", "judge", "scale", "note", "rows"} <= set(figures)


def test_the_published_figures_are_whole():
    known = published_figures()
    for name, figures in known.items():
        low, high = figures["scale"]
        assert figures["source"] and figures["note"] and "judge" in figures, name
        assert len({row["name"] for row in figures["rows"]}) == len(figures["rows"]), name
        for row in figures["rows"]:  # marks relative to a reference model's may be above 100
            assert low <= row["score"] <= (high * 1.05 if figures["task"] == "k-llava-w" else high), (name, row)
    assert len(known["kullm-geval-readme"]["rows"]) == 5 and known["kullm-geval-readme"]["rows"][2]["score"] == 62.3
    assert known["logickor-bllossom-card"]["rows"][2] | {} == {
        "name": "llama-3-Korean-Bllossom-8B", "score": 6.93, "math": 5.43, "reasoning": 8.29, "writing": 9.0, "coding": 4.43,
        "understanding": 7.57, "grammar": 6.86, "single_turn": 6.93, "multi_turn": 6.93,
    }  # fmt: skip
    assert {figures["task"] for figures in known.values()} <= {*TASKS, "kullm-geval-v2"}


def test_overlap_is_in_the_models_rows(file: Path, tmp_path: Path):
    [table] = run_board(board(file, Answers(), overlap=True), tmp_path / "out", quiet=True)["tables"]
    rows = rows_of(table)
    assert "only the folder" in rows["model", "fixed"]["overlap"]["unknown"] and rows["blind", "fixed"]["overlap"] is None


GOOD = "title: 하나\nmodels: [mini, {name: 둘, model: mini-clip}]\ntasks: ['drawn:number=10']\n"


def test_a_board_file(tmp_path: Path):
    path = tmp_path / "board.yaml"
    path.write_text(GOOD + "limit: 5\njudge: {url: 'http://127.0.0.1:1/v1', model: m}\n", encoding="utf-8")
    told = load_board(path)
    assert [(entry.name, entry.model) for entry in told.models] == [("mini", "mini"), ("둘", "mini-clip")]
    assert told.limit == 5 and told.blind and told.judge and told.judge.concurrency == 8
    (tmp_path / "runs/mine/model").mkdir(parents=True)
    names = {
        str(tmp_path / "runs/mine/model"): "mine",
        "org/some-model": "some-model",
        "https://host/v1#org/name": "org/name",
    }
    for model, name in names.items():
        assert load_board({"title": "", "models": [model], "tasks": ["drawn"]}).models[0].name == name


@pytest.mark.parametrize(
    "text, message",
    [
        (GOOD + "limits: 5\n", r"line 4: limits: unknown key; did you mean 'limit'\?"),
        (GOOD + "limit: 0\n", "line 4: limit: must be greater than or equal to 1, not 0"),
        (GOOD + "blind: maybe\n", "line 4: blind: must be true or false, not 'maybe'"),
        (GOOD + "judge: {url: x}\n", "judge.model: is missing .The judge's model"),
        (GOOD.replace("tasks", "tusks"), "(?s)tasks: is missing .As .*tusks: unknown key; did you mean 'tasks'"),
        (GOOD.replace("name: 둘,", "nam: 둘,"), r"line 2: models.1.nam: unknown key; did you mean 'name'\?"),
        (GOOD.replace("name: 둘, model: mini-clip", "name: mini, model: mini-clip"), "two would be called 'mini'"),
        (GOOD.replace("name: 둘", "name: mini-blind"), "two would be called 'mini-blind'"),
        ("- 1\n", "a board is a mapping"),
        ("a: [\n", "not valid YAML"),
        ("title: 1\nmodels: []\ntasks: [a]\n", "(?s)title: must be a text, not 1; put it in quotes.*models: must not be empty"),
    ],
)
def test_a_bad_board_says_where_and_what(tmp_path: Path, text: str, message: str):
    path = tmp_path / "board.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BodaError, match=message):
        load_board(path)


def test_a_board_without_its_file_or_with_an_unknown_task(tmp_path: Path):
    with pytest.raises(BodaError, match="cannot read the board"):
        load_board(tmp_path / "none.yaml")
    with pytest.raises(BodaError, match="no task 'drwan'"):
        run_board({"title": "", "models": ["mini"], "tasks": ["drwan"]}, tmp_path / "out", quiet=True)
    with pytest.raises(BodaError, match="'drawn:number=10' is named twice"):
        run_board({"title": "", "models": ["mini"], "tasks": ["drawn:number=10"] * 2}, tmp_path / "out", quiet=True)


def test_the_command(file: Path, tmp_path: Path, monkeypatch):
    from typer.testing import CliRunner

    from boda.cli import app
    from boda.evaluate import board as module

    monkeypatch.setattr(module, "_is_pair", lambda model, trust: False)
    monkeypatch.setattr(module, "run", lambda model, *rest, **more: found(Answers(lambda _: "파란색", model), *rest, **more))
    found = boda.evaluate.run
    path = tmp_path / "board.yaml"
    told = board(Path("test.jsonl"), "하나", "둘", limit=20) | {"tasks": ["questions:test.jsonl"]}
    path.write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")  # which is YAML, too
    words = ["--json", "eval", str(path), "--out", str(tmp_path / "out"), "--data", str(file.parent)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    last = json.loads(done.stdout.strip().splitlines()[-1])
    assert last["board"] == str(tmp_path / "out/board.json")
    assert {row["name"] for row in last["tables"][0]["rows"] if row["kind"] == "model"} == {"하나", "둘"}
    for option in ("--limit", "--batch-size", "--processes", "--judge-concurrency"):
        refused = CliRunner().invoke(app, [*words, option, "8"])
        assert refused.exit_code == 2 and f"{option}: a board says" in " ".join(refused.output.replace("│", " ").split())


class Talks:
    """A model of words alone, which says one thing to everything."""

    def __init__(self, name: str, said: str):
        self.name, self.said, self.asked = name, said, 0

    def answer(self, conversations):
        self.asked += len(conversations)
        return [f"{self.said} {number}" for number in range(len(conversations))]


def test_judged_tasks_are_answered_now_and_judged_then(tmp_path: Path, monkeypatch):
    for name in ("BODA_JUDGE_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    data, models = benchmarks(tmp_path / "data", 8), [Talks("좋음", "좋은 답"), Talks("나쁨", "나쁜 답")]
    told = {"title": "대화", "models": models, "tasks": ["komt"], "limit": 12, "overlap": False}
    [table] = run_board(told, tmp_path / "out", data, quiet=True)["tables"]
    assert all(row["score"] is None and row["rank"] is None for row in table["rows"])
    asked = [model.asked for model in models]

    def say(body: dict) -> str:
        return f"설명입니다. 점수: [[{8 if '좋은 답' in str(body['messages']) else 3}]]"

    with JudgeServer(say=say) as server:
        judge = {"url": server.url, "model": "심판", "concurrency": 2}
        [table] = run_board(told | {"judge": judge}, tmp_path / "out", data, quiet=True)["tables"]
    rows = rows_of(table)
    assert rows["model", "좋음"]["score"] == 8.0 and rows["model", "나쁨"]["score"] == 3.0
    assert rows["model", "좋음"]["rank"] == [1, 1] and rows["model", "나쁨"]["rank"] == [2, 2]
    assert rows["model", "좋음"]["scale"] and table["conditions"]["judge"] == "심판"
    assert ("blind", "좋음") not in rows  # there are no pictures to leave out
    assert [model.asked for model in models] == asked
    # A judge that is gone, and a new model to be judged: what is there stays, and the row says why it is empty.
    other = Talks("새것", "새 답")
    [table] = run_board(told | {"judge": judge, "models": [*models, other]}, tmp_path / "out", data, quiet=True)["tables"]
    rows = rows_of(table)
    assert "judge" in rows["model", "새것"]["error"] and rows["model", "좋음"]["score"] == 8.0


def test_judged_ranks_are_of_the_published_ratio_and_captions_of_cider(tmp_path: Path):
    """Marks of 8 beside a reference of 10 are worse than marks of 6 beside one of 5; an answer that is not Korean has no mark."""
    from tests import benchmark_files_open as files

    data = tmp_path / "data"
    files.k_llava_w(data, "conv " * 12)
    files.koffvqa(data, 12)
    captions = files.coco_korean(
        data, {number: [f"사과가 {number} 개 있다", f"거리에 사과가 {number}"] for number in range(12)}
    )
    models = [Talks("거리", "거리에 사과가 있습니다"), Talks("영어", "There is an apple on a table, and a big dog beside it")]

    def say(body: dict) -> str:
        text, is_first = body["messages"][-1]["content"], "거리에" in body["messages"][-1]["content"]
        if "최종 점수" in text:
            return f"최종 점수: 10점 만점에 {5 if is_first else 9}점"
        return "5 6" if is_first else "10 8"

    tasks = ["k-llava-w", "koffvqa", f"caption-ko:{captions}:tokenizer=whitespace"]
    told = {"title": "판정", "models": models, "tasks": tasks, "overlap": False, "blind": False}
    with JudgeServer(say=say) as server:
        judge = {"url": server.url, "model": "심판", "concurrency": 2}
        tables = run_board(told | {"judge": judge}, tmp_path / "out", data, quiet=True)["tables"]
    for table, scores in zip(tables, [(120.0, 80.0), (50.0, 0.0), None]):
        first, second = (rows_of(table)["model", name] for name in ("거리", "영어"))
        assert scores is None or (first["score"], second["score"]) == pytest.approx(scores)
        assert first["score"] > second["score"]
        assert (first["rank"], second["rank"]) == ([1, 1], [2, 2]), table["task"]
