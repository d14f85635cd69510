"""Korean text benchmarks: what is asked, how it is scored and kept, and what is said where something is missing."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import boda.evaluate
from boda.cli import app
from boda.errors import BadRow, BodaError
from boda.evaluate.answers import read_answers
from boda.evaluate.figures import markdown_table, read_runs
from boda.evaluate.harness import macro_f1
from boda.evaluate.report import contact_sheet
from boda.evaluate.tasks import list_tasks, make_task
from boda.models.checkpoints import load
from tests import tiny
from tests.harness_files import kmmlu_rows, write_click, write_haerae, write_kmmlu, write_kobest, write_lines, write_table
from tests.shared_data import shared_data

pytest.importorskip("lm_eval")


@pytest.fixture(scope="module")
def model():
    return load(tiny.language_folder("llama"), dtype=torch.float32)


def run(model, task: str, out: Path, **rest) -> dict:
    return boda.evaluate.run(model, [task], out, quiet=True, **rest)[task]


def prompts(out: Path) -> dict[str, str]:
    return {record["row"]: record["prompt"][0]["content"] for record in read_answers(out)}


# What is asked


def test_click_asks_as_published(model, tmp_path: Path):
    path = write_click(tmp_path)
    run(model, f"click_cul_law:{path}", tmp_path / "law")
    run(model, f"click_cul_geography:{path}", tmp_path / "geography")
    asked = prompts(tmp_path / "law") | prompts(tmp_path / "geography")
    assert asked["click_cul_law/0"] == (
        "주어진 질문을 천천히 읽고, 적절한 정답을 A, B, C, D 중에 골라 알파벳 하나로 답하시오.\n\n"
        "질문: 맞는 것은?\n보기:\nA:가, B: 나, C: 다, D: 라\n정답:"
    )
    assert asked["click_cul_law/1"] == (
        "주어진 맥락을 천천히 읽고, 질문에 대한 적절한 정답을 A, B, C, D 중에 골라 알파벳 하나로 답하시오.\n\n"
        "맥락: 법이다.\n질문: 내용은?\n보기:\nA:하나, B: 둘, C: 셋, D: 넷\n정답:"
    )
    law, geography = (read_answers(tmp_path / name) for name in ("law", "geography"))
    assert [record["gold"] for record in law] == ["C", "A"] and law[0]["choices"] == list("ABCD")
    # A university entrance exam has a fifth choice, which the published prompt does not print.
    assert geography[0]["gold"] == "E" and geography[0]["choices"] == list("ABCDE")
    assert "D: 섬\n정답:" in asked["click_cul_geography/0"] and "곶" not in asked["click_cul_geography/0"]


def test_kmmlu_and_haerae_ask_as_published(model, tmp_path: Path):
    run(model, f"kmmlu_law:{write_kmmlu(tmp_path)}", tmp_path / "kmmlu", limit=1)
    question = "test의 0번 문제이다.\nA. 사과\nB. 나무\nC. 바다\nD. 하늘\n정답："
    assert "\uff1a" in question and prompts(tmp_path / "kmmlu") == {"kmmlu_law/0": question}
    run(model, f"haerae_history:{write_haerae(tmp_path)}", tmp_path / "haerae")
    asked = prompts(tmp_path / "haerae")
    assert len(asked) == 12 and asked["haerae_history/1"] == "나무의 뜻은?\n(A) 가 (B) 나 (C) 다 (D) 라 (E) 마\n정답: "


def test_examples_come_from_the_files_own_split(model, tmp_path: Path):
    run(model, f"kmmlu_law:{write_kmmlu(tmp_path)}:shots=5", tmp_path / "out")
    for asked in prompts(tmp_path / "out").values():
        *examples, question = asked.split("\n\n")
        assert len(examples) == 5 and all(text.startswith("dev의 ") and text[-2] == " " for text in examples)
        assert question.startswith("test의 ") and question.endswith("정답：")
        # Each example ends in its own answer: the n-th has n % 4.
        assert all(text[-1] == "ABCD"[int(text[len("dev의 ")]) % 4] for text in examples)


# How it is scored


def plainly(model, context: str, choice: str) -> float:
    """log P(choice | context), one token at a time. A space that ends the context belongs to the choice."""
    network, tokenizer = model
    ids, whole = tokenizer(context.rstrip())["input_ids"], tokenizer(context + choice)["input_ids"]
    assert whole[: len(ids)] == ids and len(whole) > len(ids)
    total = 0.0
    with torch.no_grad():
        for place in range(len(ids), len(whole)):
            total += float(network(torch.tensor([whole[:place]])).logits[0, -1].double().log_softmax(-1)[whole[place]])
    return total


def test_answers_are_the_likeliest_choices_computed_by_hand(model, tmp_path: Path):
    path = write_kobest(tmp_path)
    result = run(model, f"kobest_boolq:{path}", tmp_path / "boolq")
    right = []
    for record in read_answers(tmp_path / "boolq"):
        scores = [plainly(model, record["prompt"][0]["content"], f" {choice}") for choice in ("아니오", "예")]
        assert record["logprobs"] == pytest.approx(scores, abs=1e-4)
        assert record["extracted"] == record["raw"] == ("아니오", "예")[int(np.argmax(scores))]
        right.append(record["extracted"] == record["gold"])
        assert record["score"] == record["metrics"]["acc"] == right[-1] and record["failed"] is False
    assert result["metrics"]["acc"]["score"] == pytest.approx(np.mean(right)) and result["n"] == 12


def test_the_length_that_choices_are_divided_by_is_their_letters(model, tmp_path: Path):
    """CLIcK's main metric; seen on endings of different lengths, where it matters."""
    run(model, f"kobest_hellaswag:{write_kobest(tmp_path)}", tmp_path / "out")
    differs = 0
    for record in read_answers(tmp_path / "out"):
        scores = [plainly(model, record["prompt"][0]["content"], f" {choice}") for choice in record["choices"]]
        gold = record["choices"].index(record["gold"])
        a_letter = [score / len(choice) for score, choice in zip(scores, record["choices"])]
        assert record["metrics"]["acc"] == (np.argmax(scores) == gold)
        assert record["metrics"]["acc_norm"] == (np.argmax(a_letter) == gold)
        differs += np.argmax(scores) != np.argmax(a_letter)
    assert differs


def test_macro_f1_and_its_interval_are_those_of_drawn_questions():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    pairs = np.stack([rng.integers(0, 4, 300), rng.integers(0, 3, 300)], axis=1)  # class 3 is never picked
    others = np.stack([rng.integers(0, 2, 100), np.zeros(100, int)], axis=1)

    def f1(some):
        return sklearn.f1_score(some[:, 0], some[:, 1], average="macro")

    score, drawn = macro_f1([pairs, others])
    assert score == pytest.approx((3 * f1(pairs) + f1(others)) / 4)
    plain = []
    for _ in range(400):
        one, two = (some[rng.integers(0, len(some), len(some))] for some in (pairs, others))
        plain.append((3 * f1(one) + f1(two)) / 4)
    assert np.mean(drawn) == pytest.approx(np.mean(plain), abs=0.005) and np.std(drawn) == pytest.approx(
        np.std(plain), rel=0.15
    )


def test_a_benchmark_is_scored_over_its_parts_by_their_sizes(model, tmp_path: Path):
    kobest, click = f"kobest:{write_kobest(tmp_path)}", f"click:{write_click(tmp_path, whole=True)}"
    results = boda.evaluate.run(model, [kobest, click], tmp_path / "out", quiet=True)
    parts = results[kobest]["groups"]["subset"]
    assert {name: part["n"] for name, part in parts.items()} == dict.fromkeys(parts, 12) and len(parts) == 5
    assert results[kobest]["n"] == 60 and results[kobest]["metric"] == "f1"
    assert results[kobest]["score"] == pytest.approx(np.mean([part["score"] for part in parts.values()]))
    assert results[kobest]["metrics"].keys() == {"acc", "acc_norm", "f1"}  # acc_norm: of HellaSwag alone, as in lm-eval
    assert results[kobest]["metrics"]["acc_norm"] == parts["kobest_hellaswag"]["metrics"]["acc_norm"]
    groups = results[click]["groups"]
    assert {name: part["n"] for name, part in groups["group"].items()} == {"click_lang": 3, "click_cul": 9}
    assert len(groups["subset"]) == 11 and results[click]["n"] == 12 and results[click]["metric"] == "acc_norm"
    assert results[click]["chance"] == pytest.approx((11 / 4 + 1 / 5) / 12)
    for result in (results[kobest], *parts.values(), *groups["subset"].values()):
        assert result["low"] <= result["score"] <= result["high"] and result["failed"] == 0
    # The same report as of other tasks.
    written = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))["tasks"]
    assert written[click]["lm_eval"] and written[click]["task_version"] == 1.0 and written[click]["shots"] == 0
    table = markdown_table(read_runs([tmp_path / "out"]))
    assert "| &nbsp;&nbsp;group: click_lang | 3 |" in table and table.splitlines()[0].endswith("| chance |")
    assert contact_sheet(tmp_path / "out", tmp_path / "sheet.png").stat().st_size > 10_000


# How it is kept


def test_a_rerun_computes_only_what_is_missing_and_draws_the_same_examples(model, tmp_path: Path, monkeypatch):
    from boda.evaluate import likelihood

    task = f"kobest:{write_kobest(tmp_path)}:shots=2"
    first = run(model, task, tmp_path / "out")
    before = (tmp_path / "out" / "answers.jsonl").read_text(encoding="utf-8")
    lines = before.splitlines(keepends=True)
    make, asked = likelihood.harness_model, []

    def watched(*arguments):
        made = make(*arguments)
        answer = made.loglikelihood
        made.loglikelihood = lambda requests, **rest: asked.append(len(requests)) or answer(requests, **rest)
        return made

    monkeypatch.setattr(likelihood, "harness_model", watched)
    assert run(model, task, tmp_path / "out") == first and asked == []
    # Killed in the middle of the second part, while writing a line.
    (tmp_path / "out" / "answers.jsonl").write_text("".join(lines[:17]) + lines[17][:40], encoding="utf-8")
    again = run(model, task, tmp_path / "out")
    assert asked == [7 * 2, 12 * 4, 12 * 2, 12 * 2]  # copa's rest, then hellaswag, sentineg and wic
    assert again["score"] == first["score"]
    new = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    for record, line in zip(new, lines, strict=True):
        old = json.loads(line)
        assert record["prompt"] == old["prompt"] and record["logprobs"] == pytest.approx(old["logprobs"], abs=1e-4)


def test_a_limit_takes_the_first_of_each_part_and_a_larger_one_adds(model, tmp_path: Path):
    task = f"kobest:{write_kobest(tmp_path)}:shots=1"
    result = run(model, task, tmp_path / "out", limit=3)
    first = prompts(tmp_path / "out")
    assert result["n"] == 15 and [name for name in first if name.startswith("kobest_wic")] == [
        f"kobest_wic/{n}" for n in range(3)
    ]
    assert "first rows of each subset" in result["note"]
    assert run(model, task, tmp_path / "out", limit=5)["n"] == 25
    whole = prompts(tmp_path / "out")
    assert len(whole) == 25 and first.items() <= whole.items()


def test_other_questions_or_another_number_of_examples_are_another_version(tmp_path: Path):
    path = write_kobest(tmp_path)
    versions = {make_task(f"kobest_boolq:{path}:shots={shots}").version for shots in (0, 1)}
    assert make_task(f"kobest_boolq:{path}").version in versions
    (tmp_path / "kobest" / "v1.0" / "BoolQ" / "test.tsv").write_text(
        "Text\tQuestion\tAnswer\n글\t물음?\tTrue\n", encoding="utf-8"
    )
    assert len(versions | {make_task(f"kobest_boolq:{path}").version}) == 3


def test_prompts_longer_than_the_model_are_counted(model, tmp_path: Path):
    network, tokenizer = load(tiny.language_folder("llama"), dtype=torch.float32)
    network.config.max_position_embeddings = 32
    result = run((network, tokenizer), f"kobest_boolq:{write_kobest(tmp_path)}", tmp_path / "out")
    cut = [record["cut"] for record in read_answers(tmp_path / "out")]
    assert all(0 < number < 400 for number in cut)
    assert result["remarks"] == ["12 of 12 prompts were longer than the model can read and lost their beginning, as in lm-eval"]
    assert run(model, f"kobest_boolq:{tmp_path / 'kobest'}", tmp_path / "whole")["remarks"] == []


# Files of other shapes


def test_files_are_found_by_name_folder_or_column(tmp_path: Path):
    rows = kmmlu_rows("test", 3)
    write_table(tmp_path / "a" / "law_test.csv", rows, ",")
    write_lines(tmp_path / "b" / "test" / "Law.jsonl", rows)
    write_lines(tmp_path / "c" / "all.jsonl", [{**row, "subject": "law"} for row in rows])
    write_table(tmp_path / "d" / "questions.csv", rows, ",")  # its Category says Law
    letters = [{**row, "answer": "ABCD"[row["answer"] - 1]} for row in rows]
    write_lines(tmp_path / "e" / "law" / "test-00000-of-00001.jsonl", letters)
    worked = [
        {**row, "target": f"차근 차근 생각해봅시다. 따라서, 정답은 ({'ABCD'[row['answer'] - 1]}) 입니다.", "subject": "law"}
        for row in rows
    ]
    write_lines(tmp_path / "f" / "worked.jsonl", [{name: row[name] for name in row if name != "answer"} for row in worked])
    (tmp_path / "f" / "README.md").write_text("읽어 보세요.", encoding="utf-8")
    with zipfile.ZipFile(tmp_path / "g.zip", "w") as archive:
        archive.write(tmp_path / "a" / "law_test.csv", "data/Law-test.csv")
    places = [*(tmp_path / name for name in "abcdef"), tmp_path / "g.zip", tmp_path / "a" / "law_test.csv"]
    assert len({make_task(f"kmmlu_law:{place}").version for place in places}) == 1
    assert len(make_task("kmmlu_law:a", tmp_path).load(None)) == 3  # looked up in the data folder


def test_a_row_that_cannot_be_used_is_named(tmp_path: Path):
    path = tmp_path / "kobest" / "copa" / "test.tsv"
    write_table(path, [{"sentence": "글", "question": "원인", "1": "가", "2": "나", "Answer": 3}], "\t")
    with pytest.raises(BadRow, match=r"test\.tsv, row 0, field 'label': '3' is no label of copa"):
        make_task(f"kobest_copa:{tmp_path / 'kobest'}")
    write_table(path, [{"sentence": "글", "question": "원인", "1": "가", "Answer": 1}], "\t")
    with pytest.raises(BadRow, match=r"no column 'alternative_2' .in KoBEST's own tables '2'.; there are sentence, question"):
        make_task(f"kobest_copa:{tmp_path / 'kobest'}")
    write_lines(tmp_path / "click.jsonl", [{"id": "KIIP_law_1", "question": "?", "choices": list("가나다라"), "answer": "마"}])
    with pytest.raises(BadRow, match="must be one of the row's four or five choices, and '마' is not"):
        make_task(f"click_cul_law:{tmp_path / 'click.jsonl'}")


# What is said


@pytest.mark.parametrize(
    "task, said",
    [
        ("kobest_bolq", "lm-eval .* has no task 'kobest_bolq'; did you mean 'kobest_boolq'?"),
        ("kobest_boolq:{data}/kobest:shot=5", "no option 'shot'; there are shots"),
        ("kobest_boolq:{data}/kobest:shots=many", "shots=many is no number of examples"),
        ("kobest_boolq:{data}/kobest:shots=9", "9 examples are asked for and there are 8 to draw from; say shots=8"),
        ("kobest_boolq:{data}/nowhere", "no data at '.*nowhere'"),
        ("haerae:{data}/kobest", "none of its 10 data files .* is called after a subset .general_knowledge, history"),
        ("kmmlu:{data}/kmmlu", "no file of 44 of its 45 subsets .*; ask for those it has: --tasks kmmlu_law:"),
        (
            "kmmlu_law:{data}/kmmlu:shots=5",
            "the 5 examples .* split 'dev', and .* has no file of it; put it there as Law/dev.tsv",
        ),
        ("click:{data}/click", "click_lang_function: no question in .*click belongs to it"),
        ("clik", "no task 'clik'; did you mean 'click'?"),
    ],
)
def test_mistakes_are_one_sentence(task: str, said: str, tmp_path: Path):
    write_kobest(tmp_path)
    write_kmmlu(tmp_path, dev=0)
    write_click(tmp_path)
    with pytest.raises(BodaError, match=said.replace("?", r"\?")):
        make_task(task.format(data=tmp_path))


def test_the_test_file_itself_may_be_missing(tmp_path: Path):
    write_kobest(tmp_path)
    (tmp_path / "kobest" / "v1.0" / "WiC" / "test.tsv").unlink()
    with pytest.raises(
        BodaError, match=r"kobest_wic: its questions are in the split 'test', .* wic/test\.tsv or wic-test\.csv"
    ):
        make_task(f"kobest:{tmp_path / 'kobest'}")


def test_without_the_hub_the_form_with_files_is_named():
    with pytest.raises(BodaError) as caught:
        make_task("kobest_copa")
    said = str(caught.value)
    assert "kobest_copa: its data could not be had from the hub (" in said and "--tasks kobest_copa:PATH" in said
    assert "\n" not in said


def test_without_lm_eval_the_command_that_installs_it_is_named(monkeypatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(BodaError, match=r"kobest needs lm-eval: pip install 'boda\[eval\]'"):
        make_task(f"kobest:{tmp_path}")


def test_a_model_that_only_answers_has_no_log_likelihoods(tmp_path: Path):
    class Answers:
        def answer(self, conversations):
            return ["예"] * len(conversations)

    with pytest.raises(BodaError, match="kobest_wic compares log-likelihoods: it needs a model folder, a hub id or a"):
        run(Answers(), f"kobest_wic:{write_kobest(tmp_path)}", tmp_path / "out")


def test_a_model_too_short_to_write_an_answer_is_told(tmp_path: Path):
    network, tokenizer = load(tiny.language_folder("llama"), dtype=torch.float32)
    network.config.max_position_embeddings = 64
    with pytest.raises(
        BodaError, match=r"kmmlu_direct_law cannot be asked of this model: .* \(256\) must be less than .* \(64\)"
    ):
        run((network, tokenizer), f"kmmlu_direct_law:{write_kmmlu(tmp_path)}", tmp_path / "out")


def test_the_command_prints_the_object_and_nothing_of_lm_eval(tmp_path: Path, capfd):
    folder = tmp_path / "model"
    shutil.copytree(tiny.language_folder("llama"), folder)
    path = write_kobest(tmp_path)
    command = ["eval", str(folder), "--tasks", "kobest_wic:kobest,kobest_hellaswag:kobest:shots=1", "--data", str(path.parent)]
    told = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out"), "--limit", "2", "--json"], catch_exceptions=False)
    assert told.exit_code == 0
    found = json.loads(told.stdout.splitlines()[-1])["tasks"]
    assert {name: result["n"] for name, result in found.items()} == {
        "kobest_wic:kobest": 2,
        "kobest_hellaswag:kobest:shots=1": 2,
    }
    noise = told.output + "".join(capfd.readouterr())
    for word in ("Building contexts", "it/s", "examples/s", "WARNING", "Tokenizing", "pretrained"):
        assert word not in noise
    assert {"click", "haerae", "kmmlu", "kobest"} <= list_tasks().keys()
    assert "kobest[:PATH]" in CliRunner().invoke(app, ["eval", "--list"]).stdout


# Real files


@pytest.mark.parametrize(
    "task, data, limit, number",
    [
        ("kobest", "kobest", 20, 5 * 20),
        ("kobest_boolq:shots=1", "kobest/v1.0/BoolQ", 20, 20),
        ("click", "click", 2, 11 * 2),
        ("kmmlu", "lm_eval_kmmlu", None, 45 * 5),
        ("kmmlu_direct_hard_law", "lm_eval_kmmlu", None, 5),
    ],
)
def test_real_files_are_asked_whole(task: str, data: str, limit: int | None, number: int, model, tmp_path: Path):
    name, _, option = task.partition(":")
    result = run(model, f"{name}:{shared_data(data)}:{option}".rstrip(":"), tmp_path / "out", limit=limit)
    assert result["n"] == number and result["failed"] == 0 and 0 <= result["low"] <= result["score"] <= result["high"] <= 1
    if "chance" in result:
        assert abs(result["metrics"]["acc"]["score"] - result["chance"]) < 0.35  # it knows nothing


def test_every_real_question_is_read():
    numbers = {"kobest": 1404 + 1000 + 500 + 397 + 1260, "click": 1995}
    for name, number in numbers.items():
        assert len(make_task(f"{name}:{shared_data(name)}").load(None)) == number
