"""Evaluation, driven whole, into `benchmarks/evaluation.md`: what published rules and Boda make of the same answers, scores beside the
packages that published figures come from, a board of the models that come with Boda, and a judge that fails by a script.

    python benchmarks/evaluation.py [--data ../shared/data] [--work DIR]

About ten minutes on two cores. The board's page is looked at in Chromium, where it is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import answer_styles  # noqa: E402
from common import commit  # noqa: E402
from real import about_machine  # noqa: E402
from tests import benchmark_files_open as published  # noqa: E402
from tests.judge_server import PROSE, JudgeServer, verdict  # noqa: E402
from tests.parity import test_metrics as parity  # noqa: E402

from boda.evaluate.board import run_board  # noqa: E402
from boda.evaluate.figures import published_score  # noqa: E402
from boda.evaluate.latency import bench  # noqa: E402
from boda.evaluate.metrics import captions, reading  # noqa: E402
from boda.evaluate.metrics.tokens import tokenize  # noqa: E402
from boda.evaluate.report import write_report  # noqa: E402

ASKED = ["drawn:number=30", "pope-ko:number=50", "ocr-text:number=150"]
COMPARED = ["drawn-pairs"]
TOLD = {
    "koffvqa": ("koffvqa:{0}/KOFFVQA_Data", 60),
    "chart-ko": ("chart-ko:{0}/items.json", 60),
    "k-llava-w": ("k-llava-w:{0}/K-LLaVA-W", 60),
}


def table(head: list[str], rows: list[list]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def styles() -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        answer_styles.main()
    return out.getvalue().strip()


def differences() -> str:
    """The largest difference of each score from the package's, over the parity tests' 1,000 generated Korean pairs."""
    import jiwer
    from nltk.translate.bleu_score import SmoothingFunction
    from nltk.translate.bleu_score import sentence_bleu as nltk_bleu
    from nltk.translate.meteor_score import single_meteor_score
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from torchmetrics.functional.text import char_error_rate, word_error_rate

    generated, rows = parity.captions(), []
    for name in ("whitespace", "kiwi"):
        split = iter(tokenize([text for caption, known in generated for text in (caption, *known)], name))
        pairs = [(next(split), [next(split) for _ in known]) for _, known in generated]
        said = {number: [" ".join(tokens)] for number, (tokens, _) in enumerate(pairs)}
        known = {number: [" ".join(each) for each in references] for number, (_, references) in enumerate(pairs)}
        with contextlib.redirect_stdout(io.StringIO()):
            theirs = {"BLEU-1..4": Bleu(4).compute_score(known, said)[0], "ROUGE-L": Rouge().compute_score(known, said)[1]}
            theirs["CIDEr-D"] = Cider().compute_score(known, said)[1]
        counts = captions.count(pairs)
        ours = {"BLEU-1..4": captions.bleu(counts), "CIDEr-D": captions.cider(counts)}
        ours["ROUGE-L"] = [captions.rouge_l(*pair) for pair in pairs]
        for score, values in theirs.items():
            rows.append([score, "pycocoevalcap", name, f"{max(abs(a - b) for a, b in zip(ours[score], values)):.0e}"])
        stub = parity.NoWordNet()
        meteor = [max(single_meteor_score(each, tokens, wordnet=stub) for each in references) for tokens, references in pairs]
        found = [captions.meteor(*pair) for pair in pairs]
        rows.append(["METEOR", "NLTK, no WordNet", name, f"{max(abs(a - b) for a, b in zip(found, meteor)):.0e}"])
        method = SmoothingFunction().method4
        bleus = [nltk_bleu(references, tokens, smoothing_function=method) for tokens, references in pairs]
        found = [captions.sentence_bleu(*pair, smoothing=4) for pair in pairs]
        rows.append(["sentence BLEU-4, method4", "NLTK", name, f"{max(abs(a - b) for a, b in zip(found, bleus)):.0e}"])
    read = parity.readings()
    rates, (said, written) = reading.edit_rates(read), zip(*read)
    for name, jiwers, torchs in (("cer", jiwer.cer, char_error_rate), ("wer", jiwer.wer, word_error_rate)):
        mine = rates[name]
        rows.append([name.upper(), "jiwer", "-", f"{abs(mine - jiwers(list(written), list(said))):.0e}"])
        rows.append([name.upper(), "torchmetrics (fp32)", "-", f"{abs(mine - float(torchs(list(said), list(written)))):.0e}"])
    return table(["score", "package", "tokens", "largest difference"], rows)


def board(work: Path, data: Path) -> tuple[str, Path]:
    """The board of `mini` and `mini-clip` with their speed: its tables, and the page."""
    told = {"title": "보다에 들어 있는 모델", "models": ["mini", "mini-clip"], "tasks": [*ASKED, *COMPARED]}
    began = time.perf_counter()
    found = run_board(told, work / "board", data, quiet=True)
    seconds = time.perf_counter() - began
    for name in told["models"]:
        bench(name, batches=[1, 4, 16], out=work / f"bench-{name}")
    page = write_report([work / "board", *(work / f"bench-{name}" for name in told["models"])], work / "report")[0]
    rows = []
    for each in found["tables"]:
        for row in each["rows"]:
            if row.get("error") or row["score"] is None:
                continue
            shown = [f"{value:.1%}" if value is not None else "" for value in (row["score"], row["low"], row["high"])]
            upstream = published_score(row["upstream"], row) if row.get("upstream") else ""
            interval = f"{shown[1]} - {shown[2]}" if shown[1] else ""
            rank = "-".join(map(str, row["rank"])) if row["rank"] else ""
            seen = (row.get("overlap") or {}).get("images")
            overlap = f"{seen:.0%}" if seen is not None else ""
            name = f"{row['name']} ({row['kind']})"
            rows.append([f"`{each['task']}`", name, row["n"] or "", shown[0], interval, upstream, rank, overlap, row["flag"]])
    head = ["task", "row", "n", "score", "95 %", "published rule", "rank", "pictures seen in training", "flag"]
    return f"The whole board in {seconds:.0f} s.\n\n{table(head, rows)}", page


def screenshots(page: Path) -> list[Path]:
    """The page at desktop and phone width, its first screens."""
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser")
    if not browser_path:
        return []
    from playwright.sync_api import sync_playwright

    made = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for name, width, height in (("page", 1180, 1500), ("phone", 375, 1500)):
            view = browser.new_page(viewport={"width": width, "height": height})
            view.goto(page.resolve().as_uri())
            made.append(ROOT / f"benchmarks/evaluation-{name}.png")
            view.screenshot(path=made[-1])
        browser.close()
    return made


def scripted(number: int, attempt: int):
    """Of twenty prompts one is met by a 500 first, one by a 429, one by a closed connection, two slowly; one in twenty by its words
    gets nothing but prose, whenever it is asked."""
    if attempt == 0 and number % 20 in (3, 9, 15):
        return {3: 500, 9: (429, 1), 15: "close"}[number % 20]
    if number % 20 in (5, 11):
        return "slow"

    def by_words(messages: list[dict]) -> str:
        digest = hashlib.sha256(str(messages[-1]["content"]).encode()).digest()
        return PROSE if digest[0] % 20 == 13 else verdict(messages)

    return by_words


def evaluated(task: str, out: Path, judge: JudgeServer, kill_at: int | None = None) -> int:
    """`boda eval mini` in a process of its own; killed once so many lines of answers and judgements are there. The lines there are."""
    command = [sys.executable, "-m", "boda.cli", "eval", "mini", "--tasks", task, "--out", str(out), "--quiet"]
    process = subprocess.Popen([*command, "--judge", judge.url, "--judge-model", "scripted"], stdout=subprocess.DEVNULL)
    lines = lambda: sum(len(path.read_bytes().splitlines()) for path in out.glob("*.jsonl"))  # noqa: E731
    while process.poll() is None:
        if kill_at is not None and lines() >= kill_at:
            process.kill()
            process.wait()
            return lines()
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{task}: boda eval ended with {process.returncode}")
    return lines()


def judged(work: Path) -> str:
    """What was counted, and whether a run that was killed ends like one that was not."""
    folder = work / "files"
    published.koffvqa(folder, TOLD["koffvqa"][1])
    published.k_llava_w(folder, " ".join(["conv", "detail", "complex"] * (TOLD["k-llava-w"][1] // 3)))
    published.llava(
        folder, *((f"{number}번 도형의 색은 무엇인가요?", "빨간색입니다.") for number in range(TOLD["chart-ko"][1]))
    )
    rows = []
    for name, (task, number) in TOLD.items():
        task, results, pages = task.format(folder), [], []
        for run in ("whole", "killed"):
            out = work / f"{name}-{run}"
            with JudgeServer(scripted, delay=0.3) as judge:
                kills = [number // 2, number + number // 4, number + number // 2] if run == "killed" else []
                stopped = [evaluated(task, out, judge, at) for at in kills]
                evaluated(task, out, judge)
                did = {what: judge.did.get(what, 0) for what in ("500", "429", "close", "slow")}
            results.append(json.loads((out / "results.json").read_text(encoding="utf-8"))["tasks"])
            shutil.move(out, work / "run")  # the page names its run by its folder
            page = write_report([work / "run"], work / "page", quiet=True)[0].read_text(encoding="utf-8")
            pages.append(re.sub(r'(?s)<section id="speed".*?</section>', "", page))
            shutil.move(work / "run", out)
        [(_, found)] = results[0].items()
        kept = [json.loads(line) for line in (work / f"{name}-whole/judgements.jsonl").read_text(encoding="utf-8").splitlines()]
        unscored = all(line["score"] is None for line in kept if line["failed"])
        lost, same = sum(line["failed"] for line in kept), [_told(each) for each in results]
        met = ", ".join(f"{what} {count}" for what, count in did.items())
        right, equal = unscored and found["n"] + lost == number, (same[0] == same[1], pages[0] == pages[1])
        scores = [f"{found['score']:.2f}", f"{found['upstream']['score']:.2f}"]
        said = ["yes" if each else "NO" for each in (right, *equal)]
        where = ", ".join(map(str, stopped))
        rows.append([f"`{name}`", len(kept), met, lost, found["n"], said[0], *scores, where, *said[1:]])
    head = [
        "task",
        "judgements",
        "met by (killed run)",
        "failed",
        "scored",
        "none that failed is scored",
        "Boda",
        "published rule",
    ]
    return table([*head, "killed at line", "same results", "same page"], rows)


def _told(tasks: dict) -> dict:
    """Results without what the judge has cost: asking again after a kill costs more."""
    return {
        name: {key: value for key, value in found.items() if key not in ("judge", "remarks")} for name, found in tasks.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--work", type=Path, help="keep the runs here")
    chosen = parser.parse_args()
    work = chosen.work or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    tables, page = board(work, chosen.data)
    shots = screenshots(page)
    text = f"""# Evaluation, driven whole

{datetime.date.today()}, commit {commit()}, {about_machine()}, `python benchmarks/evaluation.py`

## One answer, two rules

A model that is always right and answers in ten styles: published rule → Boda, in per cent. What K-MMBench's rule cannot read is drawn
from its seed, as happens there without a judge.

{styles()}

## Scores beside the packages that published figures come from

Over 1,000 generated Korean pairs (`tests/parity/test_metrics.py` holds them to 1e-9, of torchmetrics' fp32 to 1e-6).
How fast: [metrics.md](metrics.md).

{differences()}

## A board of the models that come with Boda

{tables}

The page that `boda report` makes of it, with the speed of both, in Chromium at desktop and phone width:

{"".join(f"![{shot.stem}]({shot.name}) " for shot in shots)}

## A judge that fails

60 made-up questions each, asked of `mini`, judged by a script on this machine: some requests end in 500, 429 or a closed connection
and go well the next time, some replies are slow, and of prompts one in twenty gets nothing but prose. The second run of each was
killed (`kill -9`) three times, while it answered and while it was judged. The marks themselves mean nothing.

{judged(work)}
"""
    (ROOT / "benchmarks/evaluation.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
