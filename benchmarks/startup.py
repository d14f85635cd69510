"""How long the command line takes to answer before any work begins: at most half a second for `boda --help`."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from common import ROOT, BenchmarkError, Run, spread

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "python -c 'import boda'": [sys.executable, "-c", "import boda"],
    "boda --help": [str(Path(sys.executable).parent / "boda"), "--help"],
    "boda recipes": [str(Path(sys.executable).parent / "boda"), "recipes"],
    "python -c 'import torch'": [sys.executable, "-c", "import torch"],
}


def seconds(command: list[str]) -> float:
    """Wall time of a command that must succeed."""
    began = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if result.returncode != 0:
        raise BenchmarkError(f"{' '.join(command)} failed:\n{result.stderr[-1000:]}")
    return time.perf_counter() - began


def main(run: Run) -> None:
    """Every command once to warm the file cache, then `repetitions` times three, in turn."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for repetition in range(3 * run.repetitions + 1):
        for name, command in COMMANDS.items():
            taken = seconds(command)
            if repetition:
                times[name].append(taken)
    run.raw("seconds", times)
    run.table(
        "Seconds until the command has ended", [{"command": name, "seconds": spread(taken)} for name, taken in times.items()]
    )
    slow = spread(times["boda --help"]).median
    run.text(f"`boda --help`: {'within' if slow <= 0.5 else 'over'} the half second it may take.")
