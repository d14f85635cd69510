"""Multiple choice and yes/no benchmarks: prompts letter by letter, both rules' figures worked out by hand, and bad files."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import boda.evaluate
from boda.data.drawn.samples import facts
from boda.data.images import load_image
from boda.errors import BodaError
from boda.evaluate.answers import read_answers
from boda.evaluate.multiple_choice import options_in
from boda.evaluate.tasks import TASKS, make_task
from boda.evaluate.tasks.pope import SETTINGS, published, read_yes_no
from tests import benchmark_files as files
from tests.judge_server import JudgeServer
from tests.shared_data import shared_data

BY_LETTER = "주어진 선택지 중 해당 옵션의 문자로 바로 답하세요."


class Script:
    """A model that gives these answers in turn, and looks at the pictures as a model must."""

    name = "script"

    def __init__(self, *answers: str):
        self.answers, self.asked = iter(answers), []

    def answer(self, conversations):
        for part in (part for messages in conversations for message in messages for part in message["content"]):
            if part["type"] == "image":
                load_image(part["image"])
        self.asked += [messages[-1]["content"][-1]["text"] for messages in conversations]
        return [next(self.answers) for _ in conversations]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("BODA_CACHE", str(tmp_path / "cache"))


def run(task: str, answers, out: Path, **rest) -> dict:
    """The result of one task. Batches of one, so that answers go to the rows in order whatever fails."""
    model = answers if hasattr(answers, "answer") else Script(*answers)
    (found,) = boda.evaluate.run(model, [task], out, quiet=True, batch_size=1, **rest).values()
    return found


def scores(folder: Path, key: str) -> list:
    return [record[key] for record in read_answers(folder)]


# Prompts


def asked(task: str) -> list[str]:
    made = make_task(task)
    return [made.messages(row)[-1]["content"][-1]["text"] for row in made.load(None)]


def test_prompts_are_the_published_ones(tmp_path: Path):
    file = files.write_parquet(tmp_path / "seed.parquet", files.k_seed("A"))
    assert asked(f"k-seed:{file}") == [f"무엇이 보이나요?\nA. 고양이\nB. 강아지\nC. 토끼\nD. 거북이\n{BY_LETTER}"]
    file = files.write_parquet(tmp_path / "dtc.parquet", files.k_dtcbench("A"))
    assert asked(f"k-dtcbench:{file}") == [f"2020년의 비율은 얼마인가요?\nOptions: A: 10%, B: 20%, C: 30%, D: 40%\n{BY_LETTER}"]
    file = files.write_parquet(
        tmp_path / "star.parquet",
        files.k_mmstar((" 어느 것인가요?\nOptions: A: 원, B: 별 Please answer yes or no.\n", "A", "geometry")),
    )
    told = "어느 것인가요?\nOptions: A: 원, B: 별\nAnswer with the option's letter from the given choices directly"
    assert asked(f"k-mmstar:{file}") == [told]
    assert make_task(f"k-mmstar:{file}").load(None)[0].value.options == ("원", "별")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").write_bytes(files.picture())
    file = files.write_json(tmp_path / "annotations.jsonl", files.k_viscuit([0]), lines=True)
    lines = ["What is the name of this food?", "A. Kimchi", "B. Bulgogi", "C. Tteok", "D. Japchae"]
    told = "\n    ".join([*lines, "Answer with the option's letter from the given choices directly."])
    assert asked(f"k-viscuit:{file}") == [told]


def test_vlmevalkits_tables_give_the_same_questions(tmp_path: Path):
    """Its TSVs call some columns otherwise, and have the options of K-MMStar in columns of their own."""
    (row,) = files.k_seed("B")
    names = {"question_id": "index", "data_type": "category", **{f"choice_{letter}": letter.upper() for letter in "abcd"}}
    as_tsv = {names.get(name, name): value for name, value in row.items()}
    dtc = {names.get(name, name): value for name, value in files.k_dtcbench("B")[0].items()}
    (star,) = files.k_mmstar(("어느 것인가요?\nOptions: A: 원, B: 별", "B", "geometry"))
    apart = star | {"question": "어느 것인가요?", "A": "원", "B": "별", "C": None, "D": None}
    for name, hub, tsv in (("k-seed", row, as_tsv), ("k-dtcbench", files.k_dtcbench("B")[0], dtc), ("k-mmstar", star, apart)):
        one = make_task(f"{name}:{files.write_parquet(tmp_path / f'{name}.parquet', [hub])}")
        two = make_task(f"{name}:{files.write_tsv(tmp_path / f'{name}.tsv', [tsv])}")
        assert one.messages(one.load(None)[0])[0]["content"][1] == two.messages(two.load(None)[0])[0]["content"][1]
        assert one.load(None)[0].value.options == two.load(None)[0].value.options


def test_k_mmbench_asks_each_rotation_and_leaves_out_hints_and_options_that_are_not_there(tmp_path: Path):
    rows = files.k_mmbench(("무슨 동물인가요?", ["고양이", "강아지", "토끼", "거북이"], 0), ("낮인가요?", ["예", "아니요"], 1))
    file = files.write_parquet(tmp_path / "a.parquet", rows)
    first, second, *_, fifth, sixth = asked(f"k-mmbench:{file}")
    several = "There are several options:"
    assert first == f"그림을 보세요. 무슨 동물인가요? {several}\nA. 고양이\nB. 강아지\nC. 토끼\nD. 거북이\n\n{BY_LETTER}"
    assert second == f"그림을 보세요. 무슨 동물인가요? {several}\nA. 강아지\nB. 토끼\nC. 거북이\nD. 고양이\n\n{BY_LETTER}"
    assert (fifth, sixth) == tuple(
        f"낮인가요? {several}\n{told}\n\n{BY_LETTER}" for told in ("A. 예\nB. 아니요", "A. 아니요\nB. 예")
    )
    rotated = [
        row | {"hint": None, "image": str(row["index"] % 1_000_000) if row["index"] >= 1_000_000 else row["image"]}
        for row in rows
    ]
    as_tsv = make_task(f"k-mmbench:{files.write_tsv(tmp_path / 'a.tsv', rotated)}")
    found = [(as_tsv.messages(row)[0]["content"]) for row in as_tsv.load(None)]
    assert found[0][1]["text"] == first.removeprefix("그림을 보세요. ")
    assert [content[0]["image"].read() for content in found] == [row["image"] for row in rows]


# Figures worked out by hand


CIRCULAR = (
    ("무슨 동물인가요?", ["고양이", "강아지", "토끼", "거북이"], 0),  # right letters of the rotations: A D C B
    ("낮인가요?", ["예", "아니요"], 1),  # B A
    ("무슨 색인가요?", ["빨간색", "파란색", "초록색", "노란색"], 1),  # B A D C
    ("몇 개인가요?", ["하나", "둘", "셋", "넷"], 3),  # D C B A
)
# Published: letters alone or before a sign, or the one option whose text is in the answer; the rest is drawn, as E, D, C ... (seed 2680).
CIRCULAR_ANSWERS = (
    *("A", "D.", "C", "고양이"),  # right by both
    *("정답은 B입니다", "A"),  # a person reads B; published nothing is found in the first, E is drawn, wrong
    *("파란색", "A", "D", "초록색"),  # the last one is wrong by both
    *("", "C", "B", "A"),  # no answer is wrong; published D is drawn for it, which is right
)


def test_k_mmbench_by_hand(tmp_path: Path):
    task = f"k-mmbench:{files.write_parquet(tmp_path / 'a.parquet', files.k_mmbench(*CIRCULAR))}"
    found = run(task, CIRCULAR_ANSWERS, tmp_path / "out")
    assert (found["score"], found["n"], found["failed"], found["unread"]) == (2 / 4, 4, 0, 1)  # questions 0 and 1
    assert found["upstream"]["score"] == 2 / 4 and found["upstream"]["n"] == 4  # questions 0 and 3
    assert found["metrics"] == {"exact_matching": 1 / 4}  # question 0: what is not found is wrong
    assert found["chance"] == pytest.approx((3 * (1 / 4) ** 4 + (1 / 2) ** 2) / 4)
    assert found["majority"] == 0  # no letter is right in every rotation
    assert found["low"] < 0.5 < found["high"]
    by_category = found["groups"]["category"]
    assert [by_category[key]["score"] for key in ("object_0", "object_1")] == [1 / 2, 1 / 2]
    assert [by_category[key]["upstream"]["score"] for key in ("object_0", "object_1")] == [1 / 2, 1 / 2]
    assert found["remarks"] == []  # complete without a judge, so nothing asks for one
    assert scores(tmp_path / "out", "extracted") == [*"ADCB", *"BA", *"BADD", None, *"CBA"]
    again = run(task, (), tmp_path / "out")  # everything is there: the same result, and nothing is asked
    assert again == found


def test_the_published_rule_of_k_mmbench_looks_for_the_word_nan_where_there_is_no_option(tmp_path: Path):
    rows = files.k_mmbench(("낮인가요?", ["예", "아니요"], 1))
    rows = [row | {"C": "nan"} for row in rows]
    task = f"k-mmbench:{files.write_parquet(tmp_path / 'a.parquet', rows)}"
    assert "nan" not in asked(task)[0]
    # nan stands in banana, beside the option's text: two are found, so a letter is drawn, and that is the published E, wrong.
    found = run(task, ("아니요, banana입니다.", "A"), tmp_path / "out")
    assert (found["score"], found["upstream"]["score"], found["chance"]) == (1, 0, 1 / 4)
    assert scores(tmp_path / "out", "published") == ["", "A"]


def test_k_mmbench_with_a_judge(tmp_path: Path):
    task = f"k-mmbench:{files.write_parquet(tmp_path / 'a.parquet', files.k_mmbench(*CIRCULAR))}"

    def reply(messages: list[dict]) -> str:
        return "B" if "정답은 B입니다" in messages[-1]["content"] else "알 수 없습니다."

    with JudgeServer(lambda number, attempt: reply) as server:
        judge = {"url": server.url, "model": "judge-1"}
        found = run(task, CIRCULAR_ANSWERS, tmp_path / "out", judge=judge)
        bodies = [body["messages"] for body in server.bodies if "정답은 B입니다" in body["messages"][-1]["content"]]
    assert found["score"] == 2 / 4  # as without
    # Matched: B, so question 1 is a hit. Of the empty answer the judge says nothing: the first letter drawn is now its, E, wrong.
    assert found["upstream"]["score"] == 2 / 4
    by_category = found["groups"]["category"]
    assert [by_category[key]["upstream"]["score"] for key in ("object_0", "object_1")] == [1 / 2, 1 / 2]
    records = read_answers(tmp_path / "out")
    assert (
        sum(record["upstream"] is None for record in records) == 2 == found["judge"]["judgements"]
    )  # only these were asked about
    (messages,) = bodies
    (said,) = (message["content"] for message in messages)
    assert said.startswith(
        "You are an AI assistant who will help me to match an answer with several options of a single-choice"
    )
    assert said.endswith(
        "Example 3: \nQuestion: 낮인가요??\nOptions: There are several options: \nA. 예\nB. 아니요\n\nAnswer: 정답은 B입니다\nYour output: "
    )
    assert not any("not made yet" in remark for remark in found["remarks"])


def test_k_seed_by_hand(tmp_path: Path):
    task = f"k-seed:{files.write_parquet(tmp_path / 'a.parquet', files.k_seed('ABCDA'))}"
    # The first characters are A, 정, c, nothing and 고: two of five are the letter, case aside. A person reads all but the empty one.
    found = run(task, ("A", "정답: B", "c", "", "고양이입니다"), tmp_path / "out")
    assert (found["score"], found["upstream"]["score"], found["unread"]) == (4 / 5, 2 / 5, 1)
    assert (found["chance"], found["majority"]) == (1 / 4, 2 / 5)  # A is right twice
    groups = found["groups"]["data_type"]
    assert [groups["Scene Understanding"][key] for key in ("score", "n")] == [1, 3]
    assert groups["Scene Understanding"]["upstream"]["score"] == 2 / 3 and groups["Instance Identity"]["upstream"]["score"] == 0
    record = read_answers(tmp_path / "out")[1]
    assert record["options"] == ["고양이", "강아지", "토끼", "거북이"] and record["choice"] == 1
    assert (record["gold"], record["extracted"], record["score"], record["upstream"]) == ("B", "B", 1, 0)


def test_k_dtcbench_by_hand(tmp_path: Path):
    task = f"k-dtcbench:{files.write_parquet(tmp_path / 'a.parquet', files.k_dtcbench('BBBB'))}"
    # Published, Bravo begins with B and is right, and the option's text is not; a person thinks otherwise of both.
    found = run(task, ("B", "Bravo", "20%", "답은 B번입니다"), tmp_path / "out")
    assert (found["score"], found["upstream"]["score"], found["unread"], found["majority"]) == (3 / 4, 2 / 4, 1, 1)
    assert {key: group["n"] for key, group in found["groups"]["category"].items()} == {"chart": 1, "document": 2, "table": 1}


def test_k_mmstar_by_hand(tmp_path: Path):
    rows = files.k_mmstar(
        ("어느 도형인가요?\nOptions: A: 삼각형, B: 사각형, C: 원, D: 별", "B", "geometry"),
        ("무엇이 보이나요?\n(A) 고양이\n(B) 강아지\n(C) 토끼\n(D) 거북이", "A", "recognition"),
        ("무슨 색인가요?\nA. 빨간색\nB. 파란색", "B", "recognition"),
        ("그림을 보고 고르세요.", "C", "recognition"),  # options that are not told: letters alone are read
        ("어디에 있나요?\nOptions: A: 위, B: 아래, C: 왼쪽, D: 오른쪽", "D", "localization"),
    )
    task = f"k-mmstar:{files.write_parquet(tmp_path / 'a.parquet', rows)}"
    found = run(task, ("사각형", "(A)", "답은 B입니다", "C", "D"), tmp_path / "out")
    assert found["score"] == 1
    # Ranked patterns find all but the option's text: geometry 0/1, recognition 3/3, localization 1/1; their mean.
    assert found["upstream"]["score"] == pytest.approx((0 + 1 + 1) / 3) and found["upstream"]["n"] == 5
    # The older rule knows 정답은, and not 답은: recognition 2/3.
    assert found["metrics"] == {"opening": pytest.approx((0 + 2 / 3 + 1) / 3)}
    assert found["chance"] == pytest.approx((4 / 4 + 1 / 2) / 5)  # one question has two options
    assert set(found["groups"]) == {"category", "l2_category"}


def test_k_viscuit_by_hand(tmp_path: Path):
    (tmp_path / "images").mkdir()
    for number in range(4):
        (tmp_path / "images" / f"{number}.png").write_bytes(files.picture(number))
    rows = files.k_viscuit([0, 1, 2, 3])
    task = f"k-viscuit:{files.write_json(tmp_path / 'annotations.jsonl', rows, lines=True)}"
    # Published: exactly a letter, so one of four.
    found = run(task, ("A", "B.", "C. Tteok", "Japchae"), tmp_path / "out")
    assert (found["score"], found["upstream"]["score"], found["majority"]) == (1, 1 / 4, 1 / 4)
    on_hub = [{**row, "image": files.picture(number)} for number, row in enumerate(rows)]
    task = f"k-viscuit:{files.write_parquet(tmp_path / 'test.parquet', on_hub)}"
    assert run(task, "ABCD", tmp_path / "hub")["upstream"]["score"] == 1


def test_culture_by_hand(tmp_path: Path):
    (tmp_path / "korean_image").mkdir()
    for number in range(5):
        (tmp_path / "korean_image" / f"{number}.png").write_bytes(files.picture(number))
    task = f"culture-ko:{files.write_json(tmp_path / 'val.json', files.culture('ABCDA'))}"
    found = run(task, ("a", "B", "C입니다", "", "A. 김치찌개"), tmp_path / "out")
    assert (found["score"], found["unread"]) == (4 / 5, 1)
    assert found["upstream"]["score"] == 3 / 5  # C with a word glued to it is no lone letter, nothing is wrong
    assert found["metrics"]["equal"] == 1 / 5  # only B is the reference to the letter
    assert found["metrics"]["first_character"] == 3 / 4  # a is not A, C is C, and the empty answer is left out
    assert asked(task)[0] == "이 음식의 이름은 무엇인가요?\nA. 김치찌개\nB. 비빔밥\nC. 떡볶이\nD. 냉면"


POPE = [(f"사진에 {what} 있나요?", label) for what, label in zip(
    ("개가", "고양이가", "새가", "소가", "말이", "양이"), ("yes", "no", "yes", "no", "no", "no")
)]  # fmt: skip


def test_pope_by_hand(tmp_path: Path):
    for number in range(1, 7):
        (tmp_path / f"{number}.png").write_bytes(files.picture(number))
    task = f"pope-ko:{files.write_json(tmp_path / 'coco_pope_random.json', files.pope(*POPE), lines=True)}"
    found = run(task, ("네", "아니요, 없습니다.", "Yes, there is.", "No", "글쎄요", "네, 있습니다."), tmp_path / "out")
    # A person reads yes no yes no - yes, of which the last is wrong, too: 4 of 6; three times yes, two of them rightly, of two.
    figures = {"accuracy": 4 / 6, "precision": 2 / 3, "recall": 1, "f1": 4 / 5, "yes_rate": 3 / 6}
    assert found["metrics"] == pytest.approx(figures) and found["score"] == pytest.approx(4 / 6) and found["unread"] == 1
    # Published: only the English no is a no, so yes yes yes no yes yes: 3 of 6; five times yes, two of them rightly, of two.
    published = {"score": 3 / 6, "n": 6, "accuracy": 3 / 6, "precision": 2 / 5, "recall": 1, "f1": 4 / 7, "yes_rate": 5 / 6}
    rule = found["upstream"].pop("rule")
    assert found["upstream"] == pytest.approx(published) and "'No', 'not' or 'no'" in rule
    assert (found["chance"], found["majority"]) == (1 / 2, 4 / 6)
    assert found["groups"]["answer"]["no"]["n"] == 4 and "setting" in read_answers(tmp_path / "out")[0]["tags"]


# Reading


@pytest.mark.parametrize(
    "text, options",
    [
        ("고르세요.\nOptions: A: 가, 나, B: 다, C: 라, D: 마", ("가, 나", "다", "라", "마")),
        ("고르세요. (A) 3.5 (B) 4.5", ("3.5", "4.5")),
        ("A. 왼쪽\nB. 오른쪽", ("왼쪽", "오른쪽")),
        ("A는 무엇인가요?\nA) 원\nB) 별\nC) 하트\n답을 고르세요.", ("원", "별", "하트")),
        ("점 A: 중심입니다.\nOptions: A: 1, B: 2", ("1", "2")),
        ("도형 (A)와 (B)의 넓이는?\nA: 1 B: 2 C: 3 D: 4", ("1", "2", "3", "4")),
        (
            " ".join(f"({letter}) {letter}" for letter in "ABCDEFGHIJ") + "\n(A)에서 고르세요.",
            tuple("ABCDEFGHIJ"),
        ),  # ten at most
        ("무엇인가요?", None),
        ("비타민 A. 그리고 다음은?", None),
    ],
)
def test_options_within_a_question(text: str, options):
    assert options_in(text) == options


@given(st.lists(st.text(alphabet="가나다라 1234", min_size=1).filter(str.strip), min_size=2, max_size=5, unique=True))
def test_options_that_are_told_are_read_back(options: list[str]):
    options = [" ".join(option.split()) for option in options]
    for told in ("\n".join, ", ".join):
        for form in ("({}) {}", "{}: {}", "{}. {}"):
            text = "무엇인가요?\n" + told(form.format(letter, option) for letter, option in zip("ABCDE", options))
            assert options_in(text) == tuple(options)


YES = (
    "네|네.|예|예, 있습니다.|네! 있어요|있습니다|있어요.|네, 보입니다|Yes|yes.|YES, there is a star.|정답: 네|답은 예입니다",
    "맞습니다.|넵|**네**|그림에 별이 있습니다.|빨간 별이 있나요? 네|네\n네\n네|There is a red star.|'네'|응|있다",
    "네 있습니다 그리고 다른 것은 없습니다|네, 별이 있습니다. 동그라미는 없습니다.|정답은 '네'입니다.|별이 존재합니다.|답: **네**",
)
NO = (
    "아니요|아니오.|아뇨|아니요, 없습니다.|아니|없습니다|없어요.|No|no, there is not.|There is no star.|보이지 않습니다",
    "별은 없습니다|있지 않습니다|아니요, 파란 별이 있습니다.|정답은 아니요입니다|아닙니다.|그렇지 않습니다.|No.",
    "별이 있나요? 아니요.|isn't|없다|아니에요|별이 안 보입니다.|안보여요|별은 존재하지 않습니다.|찾을 수 없습니다|정답은 '아니요'입니다.",
)
UNREAD = (
    "|   |글쎄요|빨간색|잘 모르겠어요 별|네, 없습니다.|별은 있고 원은 없습니다|?|별이 있나요?|네모|예쁜 별|아니면 별",
    "nothing to say here|알 수 없습니다.|확인할 수 없습니다|이미지를 볼 수 없습니다.|별이 있는지 판단하기 어렵습니다",
)


def words(lines: tuple[str, ...]) -> list[str]:
    return "|".join(lines).split("|")


def test_yes_and_no_are_read_as_a_person_reads_them():
    assert {each for each in words(YES) if read_yes_no(each) is not True} == set()
    assert {each for each in words(NO) if read_yes_no(each) is not False} == set()
    assert {each for each in words(UNREAD) if read_yes_no(each) is not None} == set()


@pytest.mark.parametrize(
    "answer, is_yes",
    [
        ("No", False),
        ("no, sir", False),
        ("It is not", False),
        ("Yes. no", True),
        ("NO", True),
        ("No!", True),
        ("아니요", True),
        ("", True),
    ],
)
def test_the_published_rule_of_pope(answer: str, is_yes: bool):
    assert published(answer) is is_yes


@given(st.text(max_size=60))
def test_any_answer_is_scored(answer: str):
    assert read_yes_no(answer) in (True, False, None)


# What is built


def food(root: Path) -> Path:
    """AI Hub 79: two larger classes of five and four dishes, three pictures of each."""
    for kind, dishes in {"구이": "갈비구이 고등어구이 곱창구이 닭갈비 더덕구이", "국": "떡국 미역국 북엇국 시래기국"}.items():
        for place, dish in enumerate(dishes.split()):
            folder = root / "kfood" / kind / dish
            folder.mkdir(parents=True)
            (folder / "crop_area.properties").write_text("x", encoding="utf-8")
            for number in range(3):
                (folder / f"Img_{number:03}_{place}.jpg").write_bytes(files.picture(number))
    return root / "kfood"


def test_questions_on_food_are_the_same_wherever_the_pictures_lie(tmp_path: Path):
    folder = food(tmp_path / "one")
    whole, parts = tmp_path / "kfood.zip", tmp_path / "zips"
    parts.mkdir()
    with zipfile.ZipFile(whole, "w") as archive:
        for file in sorted(folder.rglob("*.*"), reverse=True):
            archive.write(file, Path("kfood", file.relative_to(folder)))
    for kind in folder.iterdir():
        with zipfile.ZipFile(parts / f"{kind.name}.zip", "w") as archive:
            for file in kind.rglob("*.*"):
                archive.write(file, file.relative_to(kind))
    tasks = [make_task(f"culture-ko:{place}:number=20") for place in (folder, whole, parts)]
    one, two, three = ([row.value for row in task.load(None)] for task in tasks)
    assert (
        [(q.id, q.asked, q.answer) for q in one]
        == [(q.id, q.asked, q.answer) for q in two]
        == [(q.id, q.asked, q.answer) for q in three]
    )
    assert len({task.version for task in tasks}) == 1 and len(one) == 20
    assert [q.images[0].read() for q in one] == [q.images[0].read() for q in three]
    for question in one:
        kind, dish, _ = question.id.split("/")
        assert question.options[question.answer] == dish and len(set(question.options)) == 4
        assert all((folder / kind / option).is_dir() for option in question.options)  # wrong ones of the same larger class
        assert question.asked.startswith("이 사진 속 음식은 무엇인가요?\nA. ") and question.asked.endswith(BY_LETTER)
    assert {question.id.split("/")[1] for question in one[:]} == {path.name for path in folder.glob("*/*")}  # every dish
    fewer = {row.id for row in make_task(f"culture-ko:{folder}:number=10").load(None)}
    assert fewer < {question.id for question in one}  # a larger number only adds
    other = make_task(f"culture-ko:{folder}:number=20:seed=1")
    assert other.version != tasks[0].version
    found = run(f"culture-ko:{folder}:number=20", ["가"] * 20, tmp_path / "out")
    assert found["n"] == 20 and found["chance"] == 1 / 4 and set(found["groups"]["class"]) == {"구이", "국"}


def test_questions_on_things_take_the_label_from_the_json_beside(tmp_path: Path):
    for number, label in enumerate("장구 북 꽹과리 징 소고".split()):
        folder = tmp_path / "things" / "HF01"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"HF{number:06}_0001.jpg").write_bytes(files.picture(number))
        told = {"metaData": {"names": [{"ko": label}]}}
        (folder / f"HF{number:06}_0001.json").write_text(json.dumps(told), encoding="utf-8")
    made = make_task(f"culture-ko:{tmp_path / 'things'}:label=metaData.names.0.ko")
    found = [row.value for row in made.load(None)]
    assert sorted(question.options[question.answer] for question in found) == sorted("장구 북 꽹과리 징 소고".split())
    assert found[0].asked.startswith("이 사진 속 사물은 무엇인가요?")
    with pytest.raises(BodaError, match=r"has no text at 'metaData.name' \('name'\); label=a.b.c goes through"):
        make_task(f"culture-ko:{tmp_path / 'things'}:label=metaData.name")
    with pytest.raises(BodaError, match=r"has no text at 'metaData.names' \(but \[\{'ko': '장구'\}\]\)"):
        make_task(f"culture-ko:{tmp_path / 'things'}:label=metaData.names")
    with pytest.raises(BodaError, match=r"JSON beside it \(AI Hub 144\): say where in it the label stands"):
        make_task(f"culture-ko:{tmp_path / 'things'}")
    (tmp_path / "things" / "HF01" / "HF000003_0001.json").unlink()
    with pytest.raises(BodaError, match=r"has no HF000003_0001.json beside it"):
        make_task(f"culture-ko:{tmp_path / 'things'}:label=metaData.names.0.ko")


def test_drawn_pope_asks_half_about_what_is_not_there():
    made = make_task("pope-ko:number=12")
    rows = [row.value for row in made.load(None)]
    assert len(rows) == 3 * 12 * 4 and sum(question.answer == 0 for question in rows) == len(rows) / 2
    absent: dict[str, list] = {setting: [] for setting in SETTINGS}
    frequency: dict[str, int] = {}
    for question in rows:
        objects = {(thing["colour"], thing["shape"]) for thing in facts(question.images[0].drawn)["objects"]}
        colour, shape = question.asked.removeprefix("그림에 ").split()[:2]
        shape = shape[:-1]  # its particle
        assert ((colour, shape) in objects) == (question.answer == 0)
        setting = dict(question.tags)["setting"]
        if setting == "popular":
            frequency |= {pair: frequency.get(pair, 0) + 1 for pair in objects}
        if question.answer == 1:
            absent[setting].append((colour, shape))
            if setting == "adversarial":
                assert colour in {pair[0] for pair in objects} or shape in {pair[1] for pair in objects}
    often = sum(frequency.get(pair, 0) for pair in absent["popular"]), sum(frequency.get(pair, 0) for pair in absent["random"])
    assert often[0] > 3 * often[1]
    assert make_task("pope-ko:number=12").version == made.version != make_task("pope-ko:number=12:seed=1").version


class Truthful(Script):
    """Looks into the facts of the drawing; of what lies nearby it is mistaken."""

    def answer(self, conversations):
        found = []
        for (message,) in conversations:
            image, text = message["content"]
            objects = [f"{thing['colour']} {thing['shape']}" for thing in facts(image["image"].drawn)["objects"]]
            found.append("네, 있습니다." if any(thing in text["text"] for thing in objects) else "아니요, 없습니다.")
        return found


def test_a_model_that_sees_is_right_by_boda_and_always_yes_by_the_published_rule(tmp_path: Path):
    found = run("pope-ko:number=3", Truthful(), tmp_path / "out")
    assert found["score"] == 1 and found["metrics"]["f1"] == 1 and found["metrics"]["yes_rate"] == 1 / 2
    assert found["upstream"]["score"] == 1 / 2 and found["upstream"]["yes_rate"] == 1
    assert set(found["groups"]["setting"]) == set(SETTINGS) and found["groups"]["setting"]["random"]["n"] == 12


def test_popes_english_questions_become_korean_by_a_table_of_names(tmp_path: Path):
    rows = files.pope(("Is there a snowboard in the image?", "yes"), ("Is there an apple in the image?", "no"))
    for number in (1, 2):
        (tmp_path / f"{number}.png").write_bytes(files.picture(number))
    file = files.write_json(tmp_path / "pope_popular.json", rows, lines=True)
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"snowboard": "스노보드"}), encoding="utf-8")
    with pytest.raises(BodaError, match=r"row 1: 'snowboard' has no Korean name; names=FILE gives them"):
        make_task(f"pope-ko:{file}")
    with pytest.raises(BodaError, match=r"row 2: 'apple' has no Korean name"):
        make_task(f"pope-ko:{file}:names={names}")
    names.write_text(json.dumps({"snowboard": "스노보드", "apple": "사과"}), encoding="utf-8")
    assert asked(f"pope-ko:{file}:names={names}") == [
        "사진에 스노보드가 있나요? 네 또는 아니요로 답하세요.",
        "사진에 사과가 있나요? 네 또는 아니요로 답하세요.",
    ]


def test_popes_own_files_are_read_once_their_pictures_are_there(tmp_path: Path):
    folder = shared_data("pope/output/coco")
    with pytest.raises(BodaError, match=r"no picture 'COCO_val2014_000000310196.jpg' in"):
        make_task(f"pope-ko:{folder / 'coco_pope_random.json'}:images={tmp_path}")
    lines = [json.loads(line) for path in folder.glob("*.json") for line in path.read_text(encoding="utf-8").splitlines()]
    names = {line["text"].removeprefix("Is there a ").removeprefix("Is there an ").split(" in the ")[0] for line in lines}
    names |= {name.removeprefix("n ") for name in names}
    (tmp_path / "names.json").write_text(
        json.dumps({name: f"물건{place}" for place, name in enumerate(sorted(names))}), encoding="utf-8"
    )
    for line in lines:
        (tmp_path / line["image"]).write_bytes(b"")
    made = make_task(f"pope-ko:{folder}:images={tmp_path}:names={tmp_path / 'names.json'}")
    rows = made.load(None)
    assert len(rows) == 9000 - sum("?" not in line["text"] for line in lines)
    assert {dict(row.value.tags)["setting"] for row in rows} == set(SETTINGS)


# Bad files, bad answers


@pytest.mark.parametrize("name, rows", [
    ("k-seed", files.k_seed("AB")), ("k-dtcbench", files.k_dtcbench("AB")),
    ("k-mmbench", files.k_mmbench(("무엇인가요?", ["고양이", "개"], 0))), ("k-mmstar", files.k_mmstar(*[("무엇인가요?", "A", "x")] * 2)),
])  # fmt: skip
def test_files_that_are_not_as_published(tmp_path: Path, name: str, rows: list[dict]):
    def said(changed: list[dict]) -> str:
        file = files.write_parquet(tmp_path / "a.parquet", changed)
        with pytest.raises(BodaError) as error:
            make_task(f"{name}:{file}")
        return str(error.value)

    first, second = rows[:2]
    lost = said([{key: value for key, value in row.items() if key != "question"} for row in rows])
    assert "lacks column 'question'" in lost and f"{name} is published with" in lost and "answer (text)" in lost
    index = "question_id" if name == "k-seed" else "index"
    assert f"rows 0 and 1 have one {index}, '{first[index]}'" in said([first, second | {index: first[index]}])
    letters = "A, B" if name == "k-mmbench" else "A, B, C, D"
    outside = f"row {second[index]}: the answer 'F' is none of its options, {letters}"
    assert outside in said([first, second | {"answer": "F"}])


def test_k_mmbench_refuses_gaps_and_indices_that_are_no_numbers(tmp_path: Path):
    (row, _) = files.k_mmbench(("무엇인가요?", ["고양이", "개"], 0))
    for change in ({"C": None, "D": "토끼"}, {"index": "q1"}):
        file = files.write_parquet(tmp_path / "a.parquet", [row | change])
        with pytest.raises(BodaError, match=r"an index is a whole number, and options are A, B, \.\.\. with none left out"):
            make_task(f"k-mmbench:{file}")


def test_k_viscuit_refuses_an_answer_that_is_no_option(tmp_path: Path):
    rows = [{**row, "image": files.picture()} for row in files.k_viscuit([4])]
    with pytest.raises(BodaError, match=r"k-viscuit, row Food.0.0: the answer 4 is none of its 4 options"):
        make_task(f"k-viscuit:{files.write_parquet(tmp_path / 'a.parquet', rows)}")


def test_culture_and_pope_refuse_what_they_cannot_ask(tmp_path: Path):
    (tmp_path / "korean_image").mkdir()
    for change, said in (
        ({"conversations": [{"from": "human", "value": "뭐죠?"}, {"from": "gpt", "value": "E"}]}, "the answer 'E' is none of its options"),
        ({"conversations": [{"from": "human", "value": "뭐죠?"}]}, "row 1 is no item of culture-ko, which are published as"),
        ({"id": "c0"}, "two items have the id 'c0'"),
    ):  # fmt: skip
        first, second = files.culture("AB")
        with pytest.raises(BodaError, match=said):
            make_task(f"culture-ko:{files.write_json(tmp_path / 'a.json', [first, second | change])}")
    few = tmp_path / "kfood" / "국" / "떡국"
    few.mkdir(parents=True)
    (few / "1.jpg").write_bytes(files.picture())
    (tmp_path / "1.png").write_bytes(files.picture())
    pope = files.write_json(tmp_path / "pope.json", files.pope(("사진에 개가 있나요?", "maybe")), lines=True)
    for task, said in (
        (f"culture-ko:{tmp_path / 'kfood'}", "has pictures of 1 labels, and a question needs four"),
        (f"culture-ko:{tmp_path / 'kfood'}:images=x", "'images' is for files of questions"),
        (f"culture-ko:{tmp_path / 'a.json'}:seed=1", "'seed' is for folders of pictures"),
        (f"culture-ko:{tmp_path / 'kfood'}:seed=x", "seed 'x' is no whole number"),
        ("culture-ko", "culture-ko needs data"),
        (f"culture-ko:{files.write_json(tmp_path / 'none.json', [])}", "none.json holds no question"),
        (f"culture-ko:{files.write_json(tmp_path / 'b.json', files.culture('A'))}", "none of the pictures of .* name their folder"),
        ("pope-ko:names=x", "'names' is for a file of questions"),
        ("pope-ko:number=0", "number 0: at least one question a set"),
        (f"pope-ko:{pope}", "row 1: the answer 'maybe' is neither yes nor no"),
        (f"pope-ko:{tmp_path / 'kfood'}", "has not one file of each of POPE's settings"),
        ("k-seed:x=1", "no option 'x'"),
    ):  # fmt: skip
        with pytest.raises(BodaError, match=said):
            make_task(task)


def test_a_picture_that_does_not_decode_fails_its_row_alone_and_of_rotations_the_group(tmp_path: Path):
    rows = files.k_seed("ABC")
    rows[1]["image"] = b"no picture" * 10
    found = run(f"k-seed:{files.write_parquet(tmp_path / 'a.parquet', rows)}", "AC", tmp_path / "seed")
    assert (found["score"], found["n"], found["failed"], found["upstream"]["n"]) == (1, 2, 1, 2)
    rows = files.k_mmbench(*CIRCULAR[:2])
    rows[2]["image"] = b"no picture" * 10
    found = run(
        f"k-mmbench:{files.write_parquet(tmp_path / 'b.parquet', rows)}", ("A", "D", "B", "B", "A"), tmp_path / "mmbench"
    )
    assert (found["score"], found["n"], found["failed"], found["upstream"]["n"]) == (1, 1, 1, 1)
    assert found["chance"] == (1 / 2) ** 2


def test_answers_without_end_are_scored_on_what_they_say(tmp_path: Path):
    task = f"k-seed:{files.write_parquet(tmp_path / 'a.parquet', files.k_seed('BBBB'))}"
    endless = ("정답은 B입니다. " * 300, "B\n" * 2000, "가" * 8000, "고양이와 강아지와 " * 500)
    found = run(task, endless, tmp_path / "out")
    assert scores(tmp_path / "out", "score") == [1, 1, 0, 0] and found["unread"] == 2 and found["upstream"]["score"] == 1 / 4


def test_a_limit_takes_whole_groups_and_only_adds_with_its_size(tmp_path: Path):
    questions = [(f"{number}번은 무엇인가요?", ["하나", "둘", "셋"], 0) for number in range(20)]
    made = make_task(f"k-mmbench:{files.write_parquet(tmp_path / 'a.parquet', files.k_mmbench(*questions))}")
    before: set[str] = set()
    for limit in (1, 2, 3, 7, 30, 59, 60, 1000):
        rows = made.load(limit)
        assert len(rows) == min(60, max(3, limit // 3 * 3)) and before <= {row.id for row in rows}
        before = {row.id for row in rows}
    halves = [dict(row.value.tags)["category"] for row in made.load(30)]
    assert halves.count("object_0") == halves.count("object_1") == 15


def test_a_letter_that_is_given_whatever_is_asked_is_remarked(tmp_path: Path):
    task = f"k-seed:{files.write_parquet(tmp_path / 'a.parquet', files.k_seed('ABCDABCD'))}"
    found = run(task, "AAAAAABB", tmp_path / "out")
    assert found["remarks"] == ["'A' is answered to 75% of the questions, it is right for 25% (answers: A 75%, B 25%)"]
    assert run(task, "ABCDABCD", tmp_path / "fair")["remarks"] == []
    right = f"k-seed:{files.write_parquet(tmp_path / 'b.parquet', files.k_seed('AAAAAABB'))}"
    assert run(right, "AAAAAABB", tmp_path / "right")["remarks"] == []  # given often because it is right often


def test_a_version_tells_questions_apart_and_not_where_they_lie(tmp_path: Path):
    rows = files.k_seed("AB")
    versions = [
        make_task(f"k-seed:{files.write_parquet(tmp_path / place / 'a.parquet', some)}").version
        for place, some in (("x", rows), ("y", rows), ("z", [rows[0], rows[1] | {"answer": "C"}]))
    ]
    assert versions[0] == versions[1] != versions[2]


def test_every_task_here_is_listed():
    assert {"k-mmbench", "k-seed", "k-mmstar", "k-dtcbench", "k-viscuit", "culture-ko", "pope-ko"} <= set(TASKS)
