"""A full disk: one clear message, what was finished stays whole, and the same command goes on once there is room."""

from __future__ import annotations

import resource
import shutil
from functools import partial
from pathlib import Path

import pytest

from boda.errors import BodaError
from tests.faults.runs import assert_same_run, slowly, start, steps_done

KIB = 1024


def limit_files(size: int) -> None:
    """No file of this process may grow beyond `size` bytes: writing fails as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def one_message(stderr: str) -> str:
    """The one line that says what went wrong."""
    said = [line for line in stderr.splitlines() if line.startswith("boda: ")]
    assert len(said) == 1 and "Traceback" not in stderr, stderr
    return said[0]


def test_disk_full_at_a_checkpoint(baseline, tmp_path: Path):
    recipe, whole = baseline
    out = tmp_path / "run"
    arguments = ["train", str(recipe), "--out", str(out), "--quiet"]
    run = start(arguments, tmp_path, slowly)
    assert run.until(lambda: (out / "stages/align/checkpoints/step-3").is_dir() and steps_done(out) < 6), run.stderr
    # From here on the optimizer's 40 KiB do not fit.
    resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (24 * KIB, resource.RLIM_INFINITY))
    assert run.wait() == 1
    message = one_message(run.stderr)
    assert "could not write the checkpoint of step 6" in message and "the checkpoint of step 3 is whole" in message
    assert "run the same command again to go on" in message
    assert sorted(path.name for path in (out / "stages/align/checkpoints").iterdir()) == ["step-3"]
    again = start(arguments, tmp_path)
    assert again.wait() == 0, again.stderr
    assert_same_run(out, whole)


@pytest.mark.parametrize(
    ("size", "lost", "words"),
    [
        (4 * KIB, ("model", "stages"), "could not write prepared data to"),
        (
            8 * KIB,
            ("model", "stages/align/model", "stages/align/checkpoints", "stages/instruct"),
            "there is no earlier checkpoint",
        ),
        (16 * KIB, ("model", "stages/instruct/model"), "could not write {out}/stages/instruct/model"),
        (64 * KIB, ("model",), "could not write the model to {out}/model"),
        (2 * KIB, ("model", "stages/instruct/model"), "could not write {out}/log.jsonl"),
    ],
    ids=["data", "first checkpoint", "stage", "model", "log"],
)
def test_disk_full_elsewhere(baseline, tmp_path: Path, size: int, lost: tuple[str, ...], words: str):
    recipe, whole = baseline
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for name in lost:
        shutil.rmtree(out / name)
    arguments = ["train", str(recipe), "--out", str(out), "--quiet"]
    run = start(arguments, tmp_path, partial(limit_files, size))
    assert run.wait() == 1, run.stderr
    assert words.format(out=out) in one_message(run.stderr)
    assert not [path for path in out.rglob("*partial*") if path.is_dir()]
    again = start(arguments, tmp_path)
    assert again.wait() == 0, again.stderr
    assert_same_run(out, whole)


def test_disk_full_in_a_logger(tmp_path: Path):
    from tensorboard.summary.writer.record_writer import RecordWriter

    from boda.train.log import JsonLines, TensorBoard

    lines = JsonLines(Path("/dev/full"))
    board = TensorBoard(tmp_path)
    board.writer = RecordWriter(Path("/dev/full").open("wb", buffering=0))
    for logger in (lines, board):
        with pytest.raises(BodaError, match=r"could not write .*: No space left on device; free some space"):
            logger.log({"stage": "align", "step": 1, "loss": 2.0})
