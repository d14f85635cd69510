"""The tasks, by exact name. `NAME` or `NAME:OPTION`, where what follows the colon is the task's own business."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

from boda.errors import BodaError
from boda.evaluate.task import Task
from boda.evaluate.tasks import questions


def _drawn(option: str, data_dir: str | Path | None) -> Task:
    from boda.evaluate.tasks import drawn  # needs Pillow

    return drawn.from_option(option, data_dir)


# name: (what makes the task from its option and the data folder, one line for --list)
TASKS: dict[str, tuple[Callable[[str, str | Path | None], Task], str]] = {
    "drawn": (
        _drawn,
        "drawn[:seed=N][:number=N][:only=colour,word]: fresh drawn scenes and words, pairs and a font never trained on among them",
    ),
    "questions": (
        questions.from_option,
        "questions:PATH[:train=PATH]: short answers, exact match, on any file Boda's sources read, grouped by its tags",
    ),
}


def list_tasks() -> dict[str, str]:
    """name -> one line about each task."""
    return {name: about for name, (_, about) in sorted(TASKS.items())}


def make_task(text: str, data_dir: str | Path | None = None) -> Task:
    """The task a `--tasks` entry names. Raises BodaError naming the tasks there are."""
    name, _, option = text.partition(":")
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise BodaError(f"no task '{name}'; {hint}tasks: {', '.join(sorted(TASKS))}")
    return TASKS[name][0](option, data_dir)


def split_tasks(text: str) -> list[str]:
    """`--tasks` at its commas, except those in a list that an `only=` begins: drawn:only=colour,word."""
    found: list[str] = []
    for piece in text.split(","):
        if found and "only=" in found[-1] and piece.partition(":")[0] not in TASKS:
            found[-1] += f",{piece}"
        else:
            found.append(piece)
    return found
