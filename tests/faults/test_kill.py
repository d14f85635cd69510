"""Killed, interrupted and torn: the same command again ends with bitwise the weights of a run that was left alone."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from tests.faults.runs import STEPS, assert_same_run, records, slowly, start, steps_done

TOTAL = sum(STEPS.values())


def train(recipe: Path, out: Path, before=None):
    return start(["train", str(recipe), "--out", str(out)], out.parent, before)


def finish(recipe: Path, out: Path):
    """Runs to the end, which must be without complaint."""
    run = train(recipe, out)
    assert run.wait() == 0, run.stderr
    assert "Traceback" not in run.stderr
    return run


def test_killed_three_times_at_random_moments(baseline, tmp_path: Path):
    recipe, whole = baseline
    out = tmp_path / "run"
    chance = random.Random(20)
    moments = [chance.randint(1, 6), chance.randint(7, 11), chance.randint(12, TOTAL - 1)]
    for moment in moments:
        run = train(recipe, out, slowly)
        assert run.until(lambda moment=moment: steps_done(out) >= moment), run.stderr
        time.sleep(chance.random() * 0.05)
        os.kill(run.pid, signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
    finish(recipe, out)
    assert_same_run(out, whole)
    counted = Counter((record["stage"], record["step"]) for record in records(out) if "loss" in record)
    assert counted == {(stage, step): 1 for stage, steps in STEPS.items() for step in range(1, steps + 1)}
    left = [path for path in out.rglob("*") if "partial" in path.name]
    assert not left, f"left behind: {left}"


def die_at(call: int, owner, name: str) -> None:
    """Kills this process at the given call of OWNER.NAME, as a power cut would."""
    real = getattr(owner, name)
    calls = iter(range(call - 1))

    def deadly(*arguments, **rest):
        if next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **rest)

    setattr(owner, name, deadly)


def test_a_log_goes_back_to_a_step(tmp_path: Path):
    """... with all that was said up to it, whatever line ends an answer holds, and without the line that was being written."""
    from boda.train.log import JsonLines

    log = JsonLines(tmp_path / "log.jsonl")
    said = [{"stage": "a", "step": 1, "validation_loss": 2.0, "answers": ["가\u2028나\x85"]}, {"stage": "a", "step": 2}]
    for record in said:
        log.log(record)
    with log.path.open("ab") as stream:
        stream.write('{"stage": "a", "answer": "아니'.encode()[:-1])  # a full buffer may end within a letter
    assert not log.rewind("a", 2) and log.path.read_text(encoding="utf-8").count("\n") == 2
    assert log.rewind("a", 1)
    assert [json.loads(line) for line in log.path.read_text(encoding="utf-8").split("\n")[:-1]] == said[:1]


def die_in_checkpoint() -> None:
    die_at(5, os, "fsync")  # four files a checkpoint: it dies in the second


def die_in_last_validation() -> None:
    from boda.train.validate import Validator

    die_at(3, Validator, "__call__")  # steps 4, 8 and 9: the checkpoint of step 9 is there


def die_in_stage_model() -> None:
    from boda.train import build

    die_at(1, build, "save_adapter")


def die_in_final_model() -> None:
    from transformers import PreTrainedTokenizerFast

    die_at(1, PreTrainedTokenizerFast, "save_pretrained")


def test_killed_while_writing(baseline, tmp_path: Path):
    recipe, whole = baseline
    out = tmp_path / "run"
    left = []
    for before in (die_in_checkpoint, die_in_last_validation, die_in_stage_model, die_in_final_model):
        run = train(recipe, out, before)
        assert run.wait() == -signal.SIGKILL, run.stderr
        left += [path.name for path in out.rglob("*partial*")]
    assert len(left) == 3, left
    finish(recipe, out)
    assert_same_run(out, whole)
    assert not list(out.rglob("*partial*"))


def test_torn_checkpoints_are_passed_over(baseline, tmp_path: Path):
    recipe, whole = baseline
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    # As it was in the middle of the second stage.
    shutil.rmtree(out / "model")
    shutil.rmtree(out / "stages" / "instruct" / "model")
    checkpoints = out / "stages" / "instruct" / "checkpoints"
    newest, before = checkpoints / "step-8", checkpoints / "step-6"
    weights = newest / "trained.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    optimizer = bytearray((before / "optimizer.pt").read_bytes())
    optimizer[len(optimizer) // 2] ^= 1
    (before / "optimizer.pt").write_bytes(optimizer)
    run = finish(recipe, out)
    assert f"boda: checkpoint {newest} is passed over: trained.safetensors is missing or cut short" in run.stderr
    assert f"boda: checkpoint {before} is passed over: optimizer.pt is damaged" in run.stderr
    assert_same_run(out, whole)


def test_ctrl_c_says_how_to_go_on(baseline, tmp_path: Path):
    recipe, whole = baseline
    out = tmp_path / "run"
    for moment in (2, 11):
        run = train(recipe, out, slowly)
        assert run.until(lambda moment=moment: steps_done(out) >= moment), run.stderr
        os.kill(run.pid, signal.SIGINT)
        assert run.wait() == 1
        assert "Traceback" not in run.stderr
        said = [line for line in run.stderr.splitlines() if line.startswith("boda: ")]
        assert len(said) == 1 and said[0].endswith("run the same command again to go on"), run.stderr
        assert steps_done(out) < TOTAL
    finish(recipe, out)
    assert_same_run(out, whole)


def test_a_finished_run_is_left_alone(baseline, tmp_path: Path):
    recipe, whole = baseline
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    run = finish(recipe, whole)
    assert run.stdout == f"model: {whole / 'model'}\n"
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()} == before


@pytest.mark.long
def test_ctrl_c_with_two_processes(baseline, tmp_path: Path):
    recipe, _ = baseline
    out = tmp_path / "run"
    arguments = ["train", str(recipe), "--out", str(out), "--processes", "2"]
    run = start(arguments, tmp_path)
    assert run.until(lambda: steps_done(out) >= 2), run.stderr
    os.kill(run.pid, signal.SIGINT)
    assert run.wait() == 1
    assert "Traceback" not in run.stderr
    said = [line for line in run.stderr.splitlines() if line.startswith("boda: ")]
    assert len(said) == 1 and "run the same command again to go on" in said[0], run.stderr
    again = start(arguments, tmp_path)
    assert again.wait() == 0, again.stderr
    assert (out / "model" / "config.json").is_file()


def test_a_language_model_and_what_it_is_a_part_of(baseline, tmp_path: Path):
    """Killed while the part is trained, while its folder is written, and in the model that it is a part of."""
    from tests.support import language_recipe

    part = language_recipe(tmp_path / "text")
    part["stages"][0] |= {"max_steps": 6, "save_steps": 2, "validation": 0.1, "eval_steps": 3}
    part["stages"][1]["lora"]["dropout"] = 0.1
    part["stages"][1] |= {"max_steps": 4}
    (tmp_path / "lm.yaml").write_text(yaml.safe_dump(part, allow_unicode=True), encoding="utf-8")
    whole = yaml.safe_load(baseline[0].read_text(encoding="utf-8"))
    whole["model"]["language"], whole["stages"] = {"recipe": "lm.yaml"}, [whole["stages"][0] | {"max_steps": 4}]
    recipe, out = tmp_path / "vlm.yaml", tmp_path / "run"
    recipe.write_text(yaml.safe_dump(whole, allow_unicode=True), encoding="utf-8")
    finish(recipe, tmp_path / "whole")
    for done, moment in ((out / "parts/lm", 4), (out / "parts/lm", 8), (out, 3)):
        run = train(recipe, out, slowly)
        assert run.until(lambda done=done, moment=moment: len(records(done)) >= moment), run.stderr
        os.kill(run.pid, signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
    run = train(recipe, out, die_in_final_model)
    assert run.wait() == -signal.SIGKILL, run.stderr
    finish(recipe, out)
    assert_same_run(out, tmp_path / "whole", least=4)
    assert_same_run(out / "parts/lm", tmp_path / "whole/parts/lm")
