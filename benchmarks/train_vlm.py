"""Trained tokens a second and peak memory of a vision-language training step: Boda, Boda without each of its levers, and TRL.

    python benchmarks/run.py train_vlm [steps=4] [batch=16] [levers=true] [sets=instruction,questions] [micro=1,2,4]

The same model folder (CLIP ViT/14 at 336 pixels, MLP connector, Llama with 32,064 vocabulary rows), the same rows, the same parts
trained (the connector, LoRA on every linear layer of the language model), frozen weights in bf16 on both sides. TRL first tries its
micro-batch sizes and goes on with its fastest.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from common import ROOT, Run, alternate, ratio, run_side, spread

SETS = {
    "instruction": "conversations like LLaVA's instruction set: 1 to 5 turns, 20 to 400 answer tokens, a quarter without a picture",
    "questions": "8 questions a picture, short answers",
}
GOALS = {"instruction": 2.0, "questions": 3.0}
LEVERS = {
    "labels": "logits at every position, not at labels only",
    "packing": "a sample a forward pass, not rows of several",
    "sharing": "every question computes its own picture",
    "segments": "one dense mask a row, not attention within segments",
}
RANK = "16"


def main(run: Run) -> None:
    steps, batch = run.option("steps", 4), run.option("batch", 16)
    warmup = 1
    rows = (warmup + steps) * batch
    with tempfile.TemporaryDirectory() as folder:
        build = f"""
import sys; sys.path.insert(0, {str(ROOT / "benchmarks")!r})
from pathlib import Path
import train_vlm_data as data
folder = Path({folder!r})
data.write_instruction_set(folder, {rows})
data.write_question_set(folder, {-(-rows // 8)})
data.write_model(folder / "model")
print("{{}}")
"""
        run_side(["-c", build])
        for name in run.option("sets", "instruction,questions").split(","):
            measure(run, name, Path(folder), steps, warmup, batch)


def measure(run: Run, name: str, folder: Path, steps: int, warmup: int, batch: int) -> None:
    """One set: TRL's best setting, both sides in turn, then the levers."""
    arguments = [folder / "model", folder / f"{name}.jsonl", "--batch-size", batch, "--warmup", warmup, "--lora-rank", RANK]
    ours = [ROOT / "benchmarks/train_vlm_boda.py", *arguments, "--steps", steps]
    theirs = [ROOT / "benchmarks/peers/trl_vlm.py", *arguments, "--workers", 0]

    tried = {}
    for micro in map(int, run.option("micro", "1,2,4").split(",")):
        side = run.peer([*theirs, "--steps", 1, "--micro-batch", micro])
        tried[micro] = side["trained_tokens_per_second"]
        run.say(f"{name}: TRL with micro-batches of {micro}: {tried[micro]:.1f} trained tokens/s")
    micro = max(tried, key=tried.__getitem__)
    run.raw(f"{name}: TRL by micro-batch", tried)

    sides = {
        "Boda": lambda: run_side(ours, python=sys.executable),
        "TRL": lambda: run.peer([*theirs, "--steps", steps, "--micro-batch", micro]),
    }
    results = alternate(sides, run.repetitions, run.say)
    rates = {side: [result["trained_tokens_per_second"] for result in found] for side, found in results.items()}
    memory = {side: spread([result["peak_rss_mb"] for result in found]).median for side, found in results.items()}
    reached = ratio(rates["Boda"], rates["TRL"])
    table = [
        row("Boda", rates["Boda"], memory["Boda"], reached.median, ""),
        row("TRL SFTTrainer", rates["TRL"], memory["TRL"], 1.0, f"micro-batches of {micro}, the fastest of {sorted(tried)}"),
    ]
    if run.option("levers", True):
        for lever, meaning in LEVERS.items():
            side = run_side([*ours, "--without", lever])
            run.raw(f"{name}: without {lever}", side)
            rate = side["trained_tokens_per_second"]
            base = spread(rates["TRL"]).median
            table.append(row(f"Boda without {lever}", [rate], side["peak_rss_mb"], rate / base, meaning))
    verdict = "reached" if reached.median >= GOALS[name] else "missed"
    note = (
        f"{SETS[name].capitalize()}. {steps} steps of {batch} samples after {warmup} of warm-up, {run.repetitions} runs of each side in "
        f"turn. Goal: {GOALS[name]} x TRL: {verdict} ({reached})."
    )
    run.table(name, table, note)
    run.raw(name, results)


def row(side: str, rates: list[float], memory: float, times: float, note: str) -> dict:
    return {
        "side": side,
        "trained tokens/s": spread(rates),
        "x TRL": f"{times:.2f}",
        "peak memory MB": round(memory),
        "": note,
    }
