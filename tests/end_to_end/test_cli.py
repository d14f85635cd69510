"""The command line as a user meets it: exit codes, what goes to stdout and what to stderr, `--json`, chat and inspect."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from boda.cli import app
from tests import tiny
from tests.support import tiny_recipe

STAGES = [
    {"name": "align", "train": ["connector"], "validation": 0.2, "max_steps": 2},
    {"name": "instruct", "train": ["connector", "language.lora"], "lora": {"rank": 2, "alpha": 4}},
]


def boda(*arguments: object, stdin: str | None = None):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def last_object(result) -> dict:
    """The object on the last line of stdout, of a command that went well."""
    assert result.exit_code == 0, (result.stderr, result.exception)
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe(folder / "data", STAGES), allow_unicode=True), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model(recipe: Path) -> Path:
    """What `boda train` printed that it made."""
    result = boda("train", recipe, "--out", recipe.parent / "run", "--quiet", "stages.instruct.max_steps=1")
    assert result.exit_code == 0 and result.stderr == ""
    assert result.stdout == f"model: {recipe.parent / 'run' / 'model'}\n"
    return recipe.parent / "run" / "model"


@pytest.fixture(scope="module")
def pictures(recipe: Path) -> list[Path]:
    return sorted((recipe.parent / "data" / "images").iterdir())


# ---------------------------------------------------------------- exit codes and streams


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "No such command"),
        (["chat"], "Missing argument"),
        (["train"], "Missing argument"),
        (["chat", "MODEL", "--picture", "a.png"], "No such option"),
        (["chat", "MODEL", "안녕", "세상"], "one question at a time"),
        (["chat", "MODEL", "--json"], "--json needs a PROMPT"),
        (["inspect", "MODEL", "--count", "many"], "Invalid value"),
        (["eval", "MODEL"], "--tasks"),
    ],
)
def test_wrong_use_is_exit_code_2(arguments: list[str], words: str):
    result = boda(*arguments)
    assert result.exit_code == 2 and words in result.stderr and result.stdout == ""


def test_a_users_mistake_is_exit_code_1_and_a_traceback_only_when_asked_for(tmp_path: Path):
    arguments = ["train", tmp_path / "none.yaml", "--out", tmp_path / "run"]
    result = boda(*arguments)
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr == f"boda: no recipe file at {tmp_path / 'none.yaml'}\n"
    from boda.errors import BodaError

    assert isinstance(boda("--verbose", *arguments).exception, BodaError)
    assert isinstance(boda(*arguments, "--verbose").exception, BodaError)


MENDABLE = [
    (OSError(errno.ENOSPC, "No space left on device", "runs/a.pt"), "no room on the disk at runs/a.pt"),
    (PermissionError(errno.EACCES, "Permission denied", "/etc/shadow"), "not allowed to use /etc/shadow: Permission denied"),
    (
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried\nmore"),
        "a shorter row_length or gradient_checkpoint",
    ),
]


@pytest.mark.parametrize(("error", "words"), MENDABLE, ids=["disk", "rights", "memory"])
def test_what_the_machine_refuses_is_one_message(error: Exception, words: str, monkeypatch):
    fail_with(error, monkeypatch)
    result = boda("recipes")
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("boda: ") and words in result.stderr and result.stderr.count("\n") == 1


def test_a_pydantic_error_is_one_message(monkeypatch):
    import pydantic

    class Knob(pydantic.BaseModel):
        rate: float

    try:
        Knob(rate="fast")
    except pydantic.ValidationError as error:
        fail_with(error, monkeypatch)
    result = boda("recipes")
    assert result.exit_code == 1 and result.stderr.startswith("boda: rate: Input should be a valid number")


def test_a_fault_of_the_program_is_not_hidden(monkeypatch):
    fault = RuntimeError("a fault")
    fail_with(fault, monkeypatch)
    assert boda("recipes").exception is fault


@pytest.mark.parametrize(("verb", "words"), [("train", "stopped; run the same command again to go on"), ("recipes", "stopped")])
def test_ctrl_c_is_exit_code_1(verb: str, words: str, monkeypatch):
    fail_with(KeyboardInterrupt(), monkeypatch)
    result = boda(verb, *(["anything"] if verb == "train" else []))
    assert (result.exit_code, result.stderr) == (1, f"boda: {words}\n")


def fail_with(error: BaseException, monkeypatch) -> None:
    def fail(*arguments, **rest):
        raise error

    monkeypatch.setattr("boda.recipe.recipe_names", fail)
    monkeypatch.setattr("boda.recipe.load_recipe", fail)


def run_entry(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "boda.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120, check=False)


def test_the_entry_point(tmp_path: Path):
    (tmp_path / "bad.yaml").write_text("model: {language: tiny}\nstagse: []\n", encoding="utf-8")
    done = run_entry("train", tmp_path / "bad.yaml")
    assert (done.returncode, done.stdout) == (1, "") and "Traceback" not in done.stderr
    assert "stagse: unknown key; did you mean 'stages'?" in done.stderr
    assert run_entry("train").returncode == 2


# ---------------------------------------------------------------- train


def test_train_says_what_it_will_do_and_ends_with_an_object(recipe: Path, tmp_path: Path):
    result = boda("train", recipe, "--out", tmp_path / "run", "--json", "--stage", "align")
    values = last_object(result)
    assert set(values) == {"model", "stages", "steps", "loss"}
    assert values["model"] == str(tmp_path / "run" / "stages" / "align" / "model")
    assert (values["stages"], values["steps"]) == (["align"], 2) and values["loss"] > 0
    assert len(result.stdout.splitlines()) == 1
    # Before the first step: parts, memory, the first sample with its trained span, how answers end.
    before, progress = result.stderr.split("align 2/2")
    assert "loss" in progress
    rows = [line.split() for line in before.splitlines()]
    assert ["vision", "36,608", "frozen"] in rows and any(row[:1] == ["connector"] and row[1] == row[2] for row in rows if row)
    assert "an estimate" in before and "<|im_end|> (id 509): 100.0% of answers" in before
    assert before.count("⟦") == before.count("⟧") >= 1


# ---------------------------------------------------------------- chat


def test_chat_answers_on_stdout_alone(model: Path):
    result = boda("chat", model, "안녕?", "max_new_tokens=6")
    assert result.exit_code == 0 and result.stderr == "" and result.stdout.endswith("\n")
    assert boda("chat", model, "max_new_tokens=6", "안녕?").stdout == result.stdout
    answer = last_object(boda("--json", "chat", model, "안녕?", "max_new_tokens=6"))
    assert list(answer) == ["answer"]
    assert last_object(boda("chat", "--json", model, "안녕?", "max_new_tokens=1"))["answer"] in answer["answer"]


def test_chat_sees_every_picture(model: Path, pictures: list[Path]):
    ask = lambda *images: last_object(boda("chat", model, "무엇인가요?", "--json", *images))["answer"]  # noqa: E731
    one = ask("--image", pictures[0])
    both = ask("--image", pictures[0], "--image", pictures[1])
    turned = ask("--image", pictures[1], "--image", pictures[0])
    assert len({one, both, turned, ask()}) == 4


def test_chat_obeys_system_context_and_settings(model: Path):
    ask = lambda *words: last_object(boda("chat", model, "무엇인가요?", "--json", *words))["answer"]  # noqa: E731
    plain = ask()
    assert ask("--system", "짧게 대답하세요.") == ask("system=짧게 대답하세요.") != plain
    assert ask("--context", "서울은 대한민국의 수도이다.") != plain
    assert len(ask("max_new_tokens=2")) < len(plain)
    assert ask("temperature=1.5", "seed=1") == ask("temperature=1.5", "seed=1") != ask("temperature=1.5", "seed=2")
    first = plain[:1]
    assert ask(f"stop={plain[1]}") == first


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["temperature=hot"], "'temperature=hot': input should be a valid number, e.g. temperature=0.7"),
        (["temprature=1"], "'temprature=1': no generation setting is called 'temprature'; did you mean 'temperature'?"),
        (["top_p=0"], "'top_p=0': input should be greater than 0, e.g. top_p=0.9"),
        (["beams=1.5"], "'beams=1.5': input should be a valid integer, e.g. beams=4"),
        (["seed=-1"], "'seed=-1': seed is a whole number from 0"),
        (["--image", "{folder}/none.png"], "no picture at {folder}/none.png (No such file or directory)"),
        (["--image", "{folder}/small.yaml"], "{folder}/small.yaml is no picture"),
    ],
)  # fmt: skip
def test_chat_refuses_before_it_answers(model: Path, recipe: Path, words: list[str], message: str):
    result = boda("chat", model, *(word.format(folder=recipe.parent) for word in words), "안녕?")
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr.startswith(f"boda: {message.format(folder=recipe.parent)}") and result.stderr.count("\n") == 1


def test_chat_with_a_language_model(pictures: list[Path]):
    folder = tiny.language_folder("llama")
    assert boda("chat", folder, "안녕?", "max_new_tokens=4").exit_code == 0
    result = boda("chat", folder, "안녕?", "--image", pictures[0])
    assert result.exit_code == 1 and "is a language model and sees no pictures" in result.stderr
    result = boda("chat", tiny.language_folder("gpt_neox"), "안녕?")
    assert result.exit_code == 1 and "has no chat template" in result.stderr


def test_a_conversation(model: Path, pictures: list[Path]):
    """Lines from a pipe: turns are remembered, /new forgets them, a bad picture ends nothing."""
    ask = lambda text: boda("chat", model, "max_new_tokens=8", stdin=text)  # noqa: E731
    first = ask("안녕?\n")
    assert first.exit_code == 0
    both = ask("안녕?\n무엇인가요?\n")
    again = ask("안녕?\n/new\n무엇인가요?\n")
    alone = ask("무엇인가요?\n")
    assert both.stdout.startswith(first.stdout) and again.stdout == first.stdout + alone.stdout != both.stdout
    odd = ask(f"/image {pictures[0].parent / 'none.png'}\n/what\n\n안녕?\n")
    assert odd.exit_code == 0 and odd.stdout == first.stdout
    assert "no picture at" in odd.stderr and "no command /what; there are /image FILE and /new" in odd.stderr
    assert ask(f"/image {pictures[0]}\n안녕?\n").stdout != first.stdout


def test_words_that_would_steer_the_terminal_are_shown_instead(model: Path, monkeypatch):
    def pieces(*arguments, **rest):
        yield "가\x1b[2J"
        yield "나\n"

    monkeypatch.setattr("boda.serve.chat.stream", pieces)
    assert boda("chat", model, "안녕?").stdout == "가␛[2J나\n\n"


# ---------------------------------------------------------------- inspect


def test_inspect_counts_what_training_counts(recipe: Path, model: Path):
    values = last_object(
        boda("inspect", recipe, "--json", "--stage", "instruct", "--samples", 4, "--gpu", "a100-80g", "--count", 2)
    )
    assert values["stage"] == "instruct" and values["stages"] == ["align", "instruct"]
    parts = values["parts"]
    assert parts["connector"]["trained"] == parts["connector"]["parameters"] > 0
    assert parts["language.lora"]["trained"] > 0 and parts["vision"]["trained"] == parts["language"]["trained"] == 0
    data = values["data"][0]
    assert (data["rows"], data["bad_rows"], data["truncated"]) == (24, 0, 0)
    rows = json.loads((recipe.parent / "data" / "chat.json").read_text(encoding="utf-8"))
    assert data["pictures"] == len({row["image"] for row in rows if "image" in row})
    records = [json.loads(line) for line in (model.parent / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    trained = [record for record in records if "loss" in record and record["stage"] == "align"]
    align = last_object(boda("inspect", recipe, "--json", "--samples", 0))
    assert align["steps"] == {"epoch": round(1 / trained[0]["epoch"]), "total": 2, "batch_size": 8} and align["samples"] == []
    assert align["rows"]["tokens_a_step"] * 2 == pytest.approx(sum(record["tokens"] for record in trained))
    assert align["rows"]["trained_tokens_a_step"] * 2 == pytest.approx(sum(record["trained_tokens"] for record in trained))
    assert 0 <= align["rows"]["saved_by_sharing"] < align["rows"]["saved_from_padding"] < 1
    memory = values["memory"]
    assert memory["total"] == pytest.approx(
        sum(value for name, value in memory.items() if name not in ("total", "gpu", "devices"))
    )
    assert values["time"]["seconds"] > 0 and align["time"]["seconds"] is None
    assert [token["token"] for token in values["stop_tokens"]] == ["<|im_end|>"] and values["stop_tokens"][0]["share"] == 1
    sample = values["samples"][0]
    chip, answer = sample["text"].split("<|im_start|>assistant\n")
    assert "[그림 ×4]" in chip and answer.startswith("⟦") and answer.endswith("<|im_end|>⟧\n")
    assert 0 < sample["trained_tokens"] < sample["tokens"]


def test_inspect_names_bad_rows_and_cut_answers(recipe: Path, tmp_path: Path):
    chat = tmp_path / "chat.json"
    rows = tiny.llava_rows(12, text_only=1.0)
    for index in (2, 5):
        rows[index]["conversations"].pop()
    rows[7]["conversations"][0]["value"] = "<image>" * 2
    rows[8]["conversations"][1]["value"] *= 40
    chat.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    result = boda(
        "inspect", recipe, f"stages.align.data.0.path={chat}", "stages.align.max_length=150", "stages.align.validation=null"
    )
    assert result.exit_code == 0, result.stderr
    said = " ".join(result.stdout.split())
    assert "the conversation ends on the user" in said or "no assistant turn" in said
    assert "(and 1 more like it)" in said and "row 7, field" in said
    assert "cut short?" in said
    row = next(line.split() for line in result.stdout.splitlines() if "chat.json" in line and "9" in line.split())
    assert row[-2:] == ["1", "3"]  # cut, bad
    assert not list(tmp_path.glob("*bad*")), "inspect leaves nothing behind"


@pytest.mark.parametrize("system", ["truecolor", "standard"])
def test_inspect_in_colour_marks_trained_tokens_and_never_breaks_a_letter(recipe: Path, system: str):
    from rich.console import Console

    from boda.train.inspect import inspect

    report = inspect(recipe, ["stages.align.chat_template=chatml"], samples=2)
    console = Console(force_terminal=True, color_system=system, width=2000, record=True, file=open(os.devnull, "w"))
    report.show(console)
    with console.capture() as capture:
        report.show(console)
    shown = capture.get()
    assert "\ufffd" not in shown and "⟦" not in shown
    # Runs of text on a green background, as the terminal is told to draw them.
    backgrounds = {"truecolor": ("48;2;23;100;58", "48;2;43;138;87"), "standard": ("42", "102")}[system]
    pieces = re.findall(r"\x1b\[([\d;]+)m([^\x1b]*)", shown)
    green = [text for codes, text in pieces if codes.endswith(backgrounds)]
    marked = [part.split("⟧")[0] for facts in report.values["samples"] for part in facts["text"].split("⟦")[1:]]
    assert "".join(green) == "".join(marked) and len(green) > 3 * len(marked), "tokens are told apart"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpu", "a100"], "--gpu: no figures for 'a100'; did you mean a100-"),
        (["--gpu", "t4-16g", "precision=bf16"], "precision: bf16 and this GPU has none"),
        (["--stage", "alin"], "no stage is called 'alin'; stages are align, instruct"),
        (["--count", "0"], "--count is 0"),
        (["stages.align.max_length=5"], "stage 'align': none of its rows can be used; the first:"),
    ],
)
def test_inspect_refuses(recipe: Path, words: list[str], message: str):
    result = boda("inspect", recipe, *words)
    assert result.exit_code == 1 and result.stderr.startswith("boda: ") and message in result.stderr
