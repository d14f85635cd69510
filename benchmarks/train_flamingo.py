"""Samples a second and peak memory of a Flamingo's training step: Boda beside the published design with the same weights.

    python benchmarks/run.py train_flamingo [steps=4] [sets=captions,documents] [threads=2]

A tower, a resampler and a GPT-NeoX with a gated block before every layer, whose shares of the operations are those of CLIP ViT-L/14,
OpenFlamingo's resampler and Polyglot-Ko 1.3B, roughly; 29 million weights are trained. The other side is a plain restatement of
OpenFlamingo's step (benchmarks/train_flamingo_published.py). Both compute in bf16 under autocast and train the same parts on the same
ids, labels and pictures; neither has the tower in its graph.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from common import ROOT, BenchmarkError, Run, alternate, ratio, run_side, spread

WARMUP, GOAL = 1, 1.5
SETS = {
    "captions": "48 captions a step, each with its picture, 32 tokens at most (the published run's batch)",
    "documents": "8 documents a step of two to six pictures, 256 tokens at most",
}
PUBLISHED = "published design"


def main(run: Run) -> None:
    steps, threads = run.option("steps", 4), {"OMP_NUM_THREADS": str(run.option("threads", 2)), "OMP_WAIT_POLICY": "passive"}
    names = run.option("sets", ",".join(SETS)).split(",")
    with tempfile.TemporaryDirectory() as folder:
        place = f"{folder}/data"
        build = f"""
import sys; sys.path.insert(0, {str(ROOT / "benchmarks")!r})
from pathlib import Path
import train_flamingo_data as data
data.write(Path({place!r}), {WARMUP + steps})
print("{{}}")
"""
        run_side(["-c", build], environment=threads)
        found = {name: measure(run, name, Path(place), steps, threads) for name in names}
        why = "What packing and labels do not touch are loading, tower and resampler; their share and what was tried: docs/log.md."
        run.table("captions and documents", summary(found), why)
        levers(run, Path(place), names, steps, threads)


def measure(run: Run, name: str, folder: Path, steps: int, threads: dict[str, str]) -> dict[str, list[dict]]:
    """One set: both sides in turn."""

    def side(file: str, *more: str):
        command = [ROOT / f"benchmarks/{file}.py", folder, name, "--warmup", WARMUP, "--steps", steps, *more]
        return lambda: run_side(command, python=sys.executable, environment=threads)

    sides = {"Boda": side("train_flamingo_boda"), PUBLISHED: side("train_flamingo_published")}
    results = alternate(sides, run.repetitions, run.say)
    check_same(results["Boda"][0], results[PUBLISHED][0])
    run.table(f"{name}", rows(results), f"{SETS[name].capitalize()}. {verdict(results)}")
    run.raw(name, results)
    return results


def rows(results: dict[str, list[dict]]) -> list[dict]:
    wall, cpu = (
        {side: [each["samples"] / each[clock] for each in found] for side, found in results.items()} for clock in CLOCKS
    )
    reached, in_cpu = (ratio(each["Boda"], each[PUBLISHED]) for each in (wall, cpu))
    return [
        {
            "side": side,
            "samples/s": spread(wall[side]),
            "x": str(reached) if side == "Boda" else "1",
            "samples a CPU second": spread(cpu[side]),
            "x in CPU time": str(in_cpu) if side == "Boda" else "1",
            "peak memory MB": round(spread([each["peak_rss_mb"] for each in found]).median),
            "first loss": f"{found[0]['losses'][0]:.4f}",
            "last loss": f"{found[0]['losses'][-1]:.4f}",
        }
        for side, found in results.items()
    ]


CLOCKS = ("seconds", "cpu_seconds")


def verdict(results: dict[str, list[dict]]) -> str:
    speeds = {side: [each["samples"] / each["seconds"] for each in found] for side, found in results.items()}
    reached = ratio(speeds["Boda"], speeds[PUBLISHED])
    return f"Goal: at least {GOAL} x as fast: {'reached' if reached.median >= GOAL else 'missed'} ({reached})."


def summary(found: dict[str, dict[str, list[dict]]]) -> list[dict]:
    """One step of each set, as the published run takes one of captions and one of documents at a time."""
    seconds = {
        side: [
            sum(each[side][number]["seconds"] for each in found.values())
            for number in range(len(next(iter(found.values()))[side]))
        ]
        for side in ("Boda", PUBLISHED)
    }
    reached = ratio(seconds[PUBLISHED], seconds["Boda"])
    return [
        {"side": side, "seconds": spread(taken), "x": str(reached) if side == "Boda" else "1"}
        for side, taken in seconds.items()
    ]


def levers(run: Run, folder: Path, names: list[str], steps: int, threads: dict[str, str]) -> None:
    """What each of Boda's levers is worth: the same step without it, once each."""
    table = []
    for without in ("", "packing", "labels"):
        row: dict = {"without": without or "nothing"}
        for name in names:
            command = [ROOT / "benchmarks/train_flamingo_boda.py", folder, name, "--warmup", WARMUP, "--steps", steps]
            command += ["--without", without] if without else []
            found = run_side(command, python=sys.executable, environment=threads)
            row |= {f"{name}, samples/s": found["samples"] / found["seconds"], f"{name}, MB": round(found["peak_rss_mb"])}
        table.append(row)
    note = "Without packing every sample is a forward pass of its own, which pads nothing either; without labels the head gives logits of "
    run.table("what each lever is worth", table, note + "every token.")


def check_same(ours: dict, theirs: dict) -> None:
    """Both sides train as many weights on as many tokens, to the same losses. Raises BenchmarkError where they do not."""
    for name in ("trained_parameters", "trained_tokens"):
        if ours[name] != theirs[name]:
            raise BenchmarkError(f"the sides differ in {name}: {ours[name]} and {theirs[name]}")
    for number, pair in enumerate(zip(ours["losses"], theirs["losses"]), 1):
        if abs(pair[0] - pair[1]) > 0.02:
            raise BenchmarkError(f"the sides do not compute the same: the losses of step {number} are {pair}")
