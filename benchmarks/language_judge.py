"""The judged Korean benchmarks, driven whole: a small language model answers them and a scripted judge scores it, into
`benchmarks/language_judge.md`; and LogicKor's tables of published judged answers beside a plain restatement.

    python benchmarks/language_judge.py --data ../shared/data

About ten minutes on two cores. The model is `mini-lm` cut short: it has no idea, which is no matter here. The judge is on this
machine and keeps to a script: of twenty prompts one gets prose at first and then a score, one gets nothing but prose, two are
slow, and one fails once, in turn with 500, 429 and a connection that is closed. What Boda counts is held against what the judge
has seen.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.judge_server import JudgeServer  # noqa: E402

import boda  # noqa: E402
import boda.evaluate  # noqa: E402
from boda.evaluate.judged import judged_report  # noqa: E402

RECIPE = ROOT / "benchmarks/recipes/language-judge.yaml"
TASKS = {"logickor": None, "kullm-geval": 100, "kullm-geval:version=v2": 100, "komt": None}  # and so many rows
DELAY = 0.5
HARDWARE = "2 vCPU AMD EPYC (family 26, model 2)"


def script(number: int, attempt: int) -> object:
    """How the judge meets the `number`-th prompt the `attempt`-th time."""
    place = number % 20
    if place == 3:
        return "good" if attempt else "prose"
    if place == 13:
        return "prose"
    if place in (5, 15):
        return "slow"
    return [500, (429, 1), "close"][number // 20 % 3] if place == 9 and attempt == 0 else "good"


def timed(function, *arguments, **more) -> tuple:
    began = time.perf_counter()
    return function(*arguments, **more), time.perf_counter() - began


def drive(model: Path, task: str, limit: int | None, data: Path, out: Path) -> dict[str, list]:
    """Answers, judges, asks again, and looks once more: a line of the table each."""

    def run(judge: JudgeServer | None = None) -> tuple[dict, float]:
        asked = {"url": judge.url, "model": "scripted"} if judge else None
        found, seconds = timed(boda.evaluate.run, model, [task], out, limit, data_dir=data, quiet=True, judge=asked)
        return next(iter(found.values())), seconds

    lines = {}
    _, answering = run()
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    lines["answered"] = [len(answers), sum(each["failed"] for each in answers), f"{answering:.0f} s"]
    with JudgeServer(script, DELAY) as judge:
        found, seconds = run(judge)
        seen, did, most = sum(judge.did.values()), dict(judge.did), judge.most_at_once
        # A model may say the same in answer to the same question asked in another way: one prompt, judged twice.
        asked = Counter(
            each["prompt"][-1]["content"] for each in map(json.loads, (out / "judgements.jsonl").open(encoding="utf-8"))
        )
        times = {judge.numbers[prompt]: count for prompt, count in asked.items()}
    expected = {
        "prose": sum(n % 20 == 3 for n in times) + found_tries(task) * sum(count for n, count in times.items() if n % 20 == 13),
        "slow": sum(count for n, count in times.items() if n % 20 in (5, 15)),
        "failing": sum(n % 20 == 9 for n in times),
    }
    failing = {name: did.get(name, 0) for name in ("500", "429", "close")}
    lost = sum(count for n, count in times.items() if n % 20 == 13)
    numbers = sum(asked.values())
    lines["judged"] = [
        numbers, found["n"], found["failed"], lost, did.get("prose", 0), expected["prose"], did.get("slow", 0), expected["slow"],
        failing, sum(failing.values()), expected["failing"], found["judge"]["requests"], seen, most, f"{seconds:.1f} s",
    ]  # fmt: skip
    upstream = found["upstream"]
    lines["scores"] = [found["score"], found["n"], upstream["score"], upstream["n"]]
    with JudgeServer() as judge:
        again, seconds = run(judge)
        lines["again"] = [len(judge.bodies), again["n"], again["failed"], f"{seconds:.1f} s"]
        before = len(judge.bodies)
        _, seconds = run(judge)
        lines["once more"] = [len(judge.bodies) - before, f"{seconds:.1f} s"]
    return lines


def found_tries(task: str) -> int:
    """Replies asked for of a prompt that gets nothing but prose."""
    return 5 if task.startswith("logickor") else 3


def restated(path: Path) -> list[str]:
    """LogicKor's figures in the plainest way: single, multi and overall mean of the file's scores."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8-sig").splitlines()]
    single, multi = ([row[f"query_{name}"]["judge_score"] for row in rows] for name in ("single", "multi"))
    means = [sum(single) / len(single), sum(multi) / len(multi)]
    return [f"{value:.2f}" for value in (*means, sum(means) / 2)]


def published(data: Path) -> tuple[list[str], int, int]:
    """Lines of a table of all judged files, how many files there are, and how many of them agree with the restatement."""
    lines, equal, files = [], 0, sorted((data / "logickor/evaluated").rglob("*.jsonl"))
    for path in files:
        found, _ = judged_report("logickor", [path])
        strategy = found["logickor"]["strategies"][path.stem]
        turns = strategy["upstream"]["turns"]
        ours = [f"{value:.2f}" for value in (turns["single"], turns["multi"], strategy["upstream"]["overall"])]
        equal += ours == restated(path)
        corrected = f"{strategy['boda']['overall']:.2f} over {strategy['boda']['n']}" if strategy["boda"]["failed"] else ""
        name = "/".join(path.parts[-3:-1])
        lines.append(f"| {name} | {path.stem} | {' | '.join(ours)} | {restated(path)[2]} | {corrected} |")
    return lines, len(files), equal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--work", type=Path, help="keep the model and the runs here")
    parser.add_argument("--date", default=datetime.date.today().isoformat())
    chosen = parser.parse_args()
    work = chosen.work or Path(tempfile.mkdtemp())
    model = boda.train(RECIPE, out=work / "model", quiet=True)
    driven = {}
    for number, (task, limit) in enumerate(TASKS.items()):
        driven[task] = drive(model, task, limit, chosen.data, work / f"run-{number}")
        print(task, driven[task], file=sys.stderr, flush=True)
    text = [
        "# Judged benchmarks, driven whole",
        f"{chosen.date}, {HARDWARE}, `python benchmarks/language_judge.py`",
        f"Model: `{RECIPE.relative_to(ROOT)}`, `mini-lm` cut short: it has learnt to tell of drawn scenes and "
        "knows nothing of these questions. Judge: scripted, on this machine: of twenty prompts one gets prose at first and then "
        f"a score, one nothing but prose, two answers come after {DELAY} s, and for one the first request fails (500, 429 with "
        "Retry-After 1 s, or a closed connection). The marks themselves mean nothing.",
        "## What was counted",
        "| task | answers (failed) | seconds | prompts judged | scored | failed | scripted to fail | prose seen / scripted | slow seen / "
        "scripted | failing seen / scripted | requests counted / seen | most at once | seconds |",
        "|---|" + "---:|" * 12,
    ]
    exact = True
    for task, lines in driven.items():
        count, failed, answering = lines["answered"]
        prompts, n, lost, planned, prose, prose_e, slow, slow_e, kinds, failing, failing_e, counted, seen, most, seconds = (
            lines["judged"]
        )
        per_answer = 2 if task in ("logickor", "komt") else 1
        exact &= (prose, slow, failing, counted) == (prose_e, slow_e, failing_e, seen)
        exact &= (n, lost) == (prompts - planned, planned + failed * per_answer)
        told = ", ".join(f"{kind}: {number}" for kind, number in kinds.items())
        text.append(
            f"| {task} | {count} ({failed}) | {answering} | {prompts} | {n} | {lost} | {planned} | {prose} / {prose_e} | "
            f"{slow} / {slow_e} | {failing} / {failing_e} ({told}) | {counted} / {seen} | {most} | {seconds} |"
        )
    text += [
        "Failed: prompts that got nothing but prose"
        + (", and the turns of answers that failed." if any(lines["answered"][1] for lines in driven.values()) else "."),
        f"All counts are exactly as scripted: **{'yes' if exact else 'no'}**.",
        "## What the rules make of it, and a second and third run",
        "| task | boda (over) | upstream (over) | second run asked for | scored, failed | seconds | third run asked for | seconds |",
        "|---|" + "---:|" * 7,
    ]
    for task, lines in driven.items():
        score, n, upstream, of = lines["scores"]
        asked, scored, left, seconds = lines["again"]
        text.append(
            f"| {task} | {score:.3f} ({n}) | {upstream:.3f} ({of}) | {asked} | {scored}, {left} | {seconds} | "
            f"{lines['once more'][0]} | {lines['once more'][1]} |"
        )
    rows, files, equal = published(chosen.data)
    text += [
        "The second run meets a judge that keeps to the form: only what failed is asked for. `upstream`: LogicKor counts five replies "
        "without a score as 0.0; G-Eval and KoMT-Bench use first replies only and drop what cannot be read; KoMT-Bench's has no "
        "penalty for answers that are not Korean.",
        "## LogicKor's published judged answers",
        f"{files} files of the benchmark (`boda report FILE --task logickor`) beside a restatement in four lines: **{equal} of {files} "
        "equal** in all three figures. Where the benchmark's judge gave up, its 0.0 is in the overall; left out, it is the last column.",
        "| model | strategy | single | multi | overall | restated | without failed judgements |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    out = ""
    for line in [*text, *rows]:
        out += ("\n" if line.startswith("|") and out.rstrip().endswith("|") else "\n\n" if out else "") + line
    (ROOT / "benchmarks/language_judge.md").write_text(out + "\n", encoding="utf-8")
    print(out)


if __name__ == "__main__":
    main()
