"""`boda` in a process of its own, to be killed, interrupted or limited; imports are paid once, by a server that forks."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests import tiny

STEPS = {"align": 9, "instruct": 8}
IMPORTED = (
    "boda.cli",
    "boda.train.stages",
    "peft.tuners.lora",
    "torch.utils.tensorboard",
    "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama",
    "tests.faults.runs",
)


def write_recipe(folder: Path, **changes) -> Path:
    """A recipe of two stages with dropout, checkpoints every 3 steps and validation every 4, and its 24 rows."""
    chat = tiny.llava_file(folder / "data", 24, turns=(1, 2), pictures=8)
    recipe = {
        "precision": "fp32",
        "model": {
            "vision": str(tiny.vision_folder("clip")),
            "connector": "ldpv2",
            "language": str(tiny.language_folder("llama")),
        },
        "stages": [
            {
                "name": "align",
                "train": ["connector"],
                "data": [{"source": "llava", "path": str(chat), "images": str(chat.parent / "images")}],
                "max_steps": STEPS["align"],
                "batch_size": 6,
                "learning_rate": 1e-3,
                "optimizer": "muon",
                "max_length": 512,
                "save_steps": 3,
                "eval_steps": 4,
                "validation": 0.2,
            },
            {
                "name": "instruct",
                "train": ["connector", "language.lora"],
                "lora": {"rank": 2, "alpha": 4, "dropout": 0.1},
                "optimizer": "adamw",
                "max_steps": STEPS["instruct"],
            },
        ],
        "generation": {"max_new_tokens": 2},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**recipe, **changes}, allow_unicode=True), encoding="utf-8")
    return path


@dataclass
class Run:
    """One `boda` process with its output in files."""

    process: multiprocessing.process.BaseProcess
    folder: Path

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def wait(self, seconds: float = 120) -> int:
        """Its exit code, -9 if it was killed."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"still running after {seconds} s:\n{self.stderr}")
        return self.process.exitcode

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text(encoding="utf-8")

    def until(self, condition: Callable[[], bool], seconds: float = 120) -> bool:
        """Waits for something this process does; False if it ended before."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if condition():
                return True
            if not self.process.is_alive():
                return condition()
            time.sleep(0.002)
        raise AssertionError(f"nothing happened in {seconds} s:\n{self.stderr}")


def start(arguments: list[str], folder: Path, before: Callable[[], None] | None = None) -> Run:
    """Starts `boda ARGUMENTS`; `before` runs in its process first."""
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    process = context.Process(target=_run, args=(arguments, folder, before))
    process.start()
    return Run(process, folder)


def _run(arguments: list[str], folder: Path, before: Callable[[], None] | None) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    if before is not None:
        before()
    from boda.cli import app

    app(arguments)


def slowly() -> None:
    """At least 40 ms a step, so that a busy machine still hits a process in the middle of its run."""
    from boda.train import loop

    real = loop.learning_rate_at

    def late(*arguments):
        time.sleep(0.04)
        return real(*arguments)

    loop.learning_rate_at = late


def records(out: Path) -> list[dict]:
    """The whole lines of a run's log."""
    path = out / "log.jsonl"
    # It may be read while it is written, up to the middle of a letter.
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def steps_done(out: Path) -> int:
    """Steps logged so far, over both stages."""
    done = {name: 0 for name in STEPS}
    for record in records(out):
        if "loss" in record:
            done[record["stage"]] = max(done[record["stage"]], record["step"])
    return sum(done.values())


def assert_same_run(out: Path, other: Path, least: int = 7) -> None:
    """Two finished runs have the same weights and optimizer states bit for bit, and the same log but for its timings."""
    import torch

    names = [path.relative_to(other) for path in sorted(other.rglob("*.safetensors"))]
    assert len(names) >= least and names == [path.relative_to(out) for path in sorted(out.rglob("*.safetensors"))]
    for name in names:
        assert (out / name).read_bytes() == (other / name).read_bytes(), f"{name} differs"
    for name in (path.relative_to(other) for path in sorted(other.rglob("optimizer.pt"))):
        first, second = torch.load(out / name, weights_only=True), torch.load(other / name, weights_only=True)
        assert _plain(first) == _plain(second), f"{name} differs"
    timings = ("tokens_per_second", "memory")
    kept = [[{k: v for k, v in record.items() if k not in timings} for record in records(run)] for run in (out, other)]
    assert kept[0] == kept[1]


def _plain(value):
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value
