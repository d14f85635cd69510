"""Trained tokens a second and peak memory of tuning a language model on text: Boda beside TRL's SFTTrainer with packing and DPOTrainer.

    python benchmarks/run.py train_text [steps=3] [sets=text,dpo] [threads=2]

The same model folder (a Llama of 35 million parameters, 16,064 words), the same ids, LoRA of rank 16 on every matrix, frozen weights in
bf16 and adapters in fp32 under autocast on both sides. Real Korean text: BODA_DATA names the folder with songys_chatbot and
logickor_pairs. TRL first tries its micro-batch sizes and goes on with its fastest.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from common import ROOT, BenchmarkError, Run, alternate, ratio, run_side, spread

WARMUP = 1
# What it is, Boda's samples a step, TRL's rows a step and the micro-batches it tries, goals: times as fast, share of memory.
SETS = {
    "text": ("questions and answers, a third of them long; answers are trained", 24, 4, (1, 2), 1.2, None),
    "dpo": ("two answers to a question, up to 1,024 tokens each", 8, 8, (1, 2), 1.5, 0.7),
}
PEERS = {"text": "TRL SFTTrainer, packing", "dpo": "TRL DPOTrainer"}


def main(run: Run) -> None:
    steps, threads = run.option("steps", 3), {"OMP_NUM_THREADS": str(run.option("threads", 2)), "OMP_WAIT_POLICY": "passive"}
    with tempfile.TemporaryDirectory() as folder:
        build = f"""
import sys; sys.path.insert(0, {str(ROOT / "benchmarks")!r})
from pathlib import Path
import train_text_data as data
data.write(Path({folder!r}), {24 * (WARMUP + steps) * 2}, {8 * (WARMUP + steps)})
print("{{}}")
"""
        run_side(["-c", build], environment=threads)
        for name in run.option("sets", ",".join(SETS)).split(","):
            measure(run, name, Path(folder), steps, threads)


def measure(run: Run, name: str, folder: Path, steps: int, threads: dict[str, str]) -> None:
    """One set: TRL's best setting, then both sides in turn."""
    meaning, batch, rows, micros, goal, share = SETS[name]
    ours = [ROOT / "benchmarks/train_text_boda.py", folder, name, "--batch-size", batch, "--warmup", WARMUP, "--steps", steps]
    theirs = [ROOT / "benchmarks/peers/trl_text.py", folder, name, "--batch-size", rows, "--warmup", WARMUP]

    def rate(side: dict, clock: str = "seconds") -> float:
        return side["trained_tokens"] / side[clock]

    tried = {}
    for micro in micros:
        tried[micro] = rate(run.peer([*theirs, "--steps", 1, "--micro-batch", micro], environment=threads), "cpu_seconds")
        run.say(f"{name}: TRL with micro-batches of {micro}: {tried[micro]:.0f} trained tokens a CPU second")
    micro = max(tried, key=tried.__getitem__)
    run.raw(f"{name}: TRL by micro-batch", tried)
    peer = PEERS[name]
    sides = {
        "Boda": lambda: run_side(ours, python=sys.executable, environment=threads),
        peer: lambda: run.peer([*theirs, "--steps", steps, "--micro-batch", micro], environment=threads),
    }
    results = alternate(sides, run.repetitions, run.say)
    check_same(name, results["Boda"], results[peer])
    wall, cpu = (
        {side: [rate(each, clock) for each in found] for side, found in results.items()} for clock in ("seconds", "cpu_seconds")
    )
    reached, in_cpu = ratio(wall["Boda"], wall[peer]), ratio(cpu["Boda"], cpu[peer])
    memory = {side: spread([each["peak_rss_mb"] for each in found]).median for side, found in results.items()}
    table = [
        {
            "side": side,
            "trained tokens/s": spread(wall[side]),
            "x TRL": str(reached) if side == "Boda" else "1",
            "trained tokens a CPU second": spread(cpu[side]),
            "x TRL in CPU time": str(in_cpu) if side == "Boda" else "1",
            "peak memory MB": round(memory[side]),
            "tokens computed for one trained": found[0]["computed_tokens"] / found[0]["trained_tokens"],
            "first loss": f"{found[0]['losses'][0]:.4f}",
            "last loss": f"{found[0]['losses'][-1]:.4f}",
            "": "" if side == "Boda" else f"micro-batches of {micro}, the fastest of {sorted(tried)}",
        }
        for side, found in results.items()
    ]
    verdict = f"at least {goal} x as fast: {'reached' if reached.median >= goal else 'missed'} ({reached})"
    if share is not None:
        taken = memory["Boda"] / memory[peer]
        verdict += f"; at most {share} of the memory: {'reached' if taken <= share else 'missed'} ({taken:.2f})"
    unit = "packed rows" if name == "text" else "pairs"
    note = (
        f"{meaning.capitalize()}. {steps} steps after {WARMUP} of warm-up ({batch} samples a step; TRL {rows} {unit}), {run.repetitions} "
        f"runs of each side in turn, {threads['OMP_NUM_THREADS']} threads. CPU seconds depend less on what else runs on the machine. "
        f"Goal: {verdict}."
    )
    run.table(name, table, note)
    run.raw(name, results)


def check_same(name: str, ours: list[dict], theirs: list[dict]) -> None:
    """Both sides train as much; of pairs they also have the same in every step. Raises BenchmarkError where they do not."""
    counts = {ours[0]["trained_parameters"], theirs[0]["trained_parameters"]}
    if len(counts) > 1:
        raise BenchmarkError(f"the sides train different numbers of parameters: {counts}")
    if name == "dpo":
        for number, pair in enumerate(zip(ours[0]["losses"], theirs[0]["losses"])):
            # Adapters begin with other random numbers on each side; on the same ones a test holds the losses to 1e-4, in fp32.
            if abs(pair[0] - pair[1]) > (1e-4 if number == 0 else 0.02):
                raise BenchmarkError(f"the sides do not compute the same: the losses of step {number + 1} are {pair}")
