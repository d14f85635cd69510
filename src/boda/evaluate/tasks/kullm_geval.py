"""`kullm-geval`: KULLM's G-Eval, 252 Korean instructions, each answer marked by a judge on several criteria.

Two published versions: v3 (KULLM3: English prompt, five criteria from 1 to 5) and v2 (KULLM v2: Korean prompt, six criteria of
different ranges). Prompts are the published ones. v3's script drops replies that it cannot read and takes N/A as 1; v2's leaves
reading to people, so how it is read here is Boda's.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from boda.errors import BodaError
from boda.evaluate import judged
from boda.evaluate.task import Judging, Row, Task, limited, read_options, version_of

VERSION = "1"
NEEDED = "response_scores, the judge's reply, as scripts/evaluation/eval.py writes it"  # of a row that v2's evaluator wrote
FILE = "data/user_oriented_instructions_eval.jsonl"
# {version: {criterion: (lowest, highest mark)}}; the last is the overall one
CRITERIA: dict[str, dict[str, tuple[int, int]]] = {
    "v2": {
        "이해 가능성": (0, 1), "자연스러움": (1, 3), "맥락 유지": (1, 3),
        "흥미롭기": (1, 3), "Instruction 사용": (0, 1), "전반적인 품질": (1, 5),
    },
    "v3": dict.fromkeys(("Fluency", "Coherence", "Accuracy", "Completeness", "Overall Quality"), (1, 5)),
}  # fmt: skip
_NAMES = f"({'|'.join(CRITERIA['v3'])})"
# "Fluency (1-5): 4", "Fluency (4)", "Fluency (4/5)": the first form in which a reply has five marks is the one it is read in.
_FORMS = [
    re.compile(rf".*{_NAMES}\s*{mark}", re.IGNORECASE)
    for mark in (r"(?:\(?.*\))?\s*:\s*(\d|N/A)", r"\((\d|N/A)\)", r"\((\d|N/A)[-/]5\)")
]
_MARK_V2 = r"\s*(?:\([^)\n]*\))?\s*[:：]?\s*(\d+(?:\.\d+)?)"


def from_option(option: str, data_dir: str | Path | None) -> Task:
    """The task of `kullm-geval[:PATH][:version=v2|v3]`, v3 unless said; PATH is a copy of KULLM's repository or the file."""
    path, given = read_options("kullm-geval", option, "version")
    version = given.get("version", "v3")
    if version not in CRITERIA:
        raise BodaError(f"kullm-geval: no version '{version}'; there are {', '.join(CRITERIA)}")
    place, questions = judged.rows_of(path, "kullm_v2", FILE, data_dir)
    rows, kinds = [], {}
    for number, row in enumerate(questions):
        instances = row.get("instances")
        if not isinstance(row.get("instruction"), str) or not instances or not isinstance(instances[0].get("input"), str):
            raise BodaError(f"{place}, row {number} needs an instruction and instances with an input")
        kinds[name := str(row.get("id", number))] = str(row.get("motivation_app", ""))
        rows.append(Row(name, {"instruction": row["instruction"], "input": instances[0]["input"]}))

    def messages(row: Row) -> list[dict]:
        # The input stands below the instruction; a template with a heading for it finds it as a part of its own.
        parts = (row.value["instruction"], f"\n\n{row.value['input']}")
        return [{"role": "user", "content": [{"type": "text", "text": part} for part in parts]}]

    def requests(row: Row, record: dict) -> dict[str, list[dict]]:
        words = judged.prompts("kullm_geval")[version]
        user = words["user"] if row.value["input"] else words.get("user_without_input", words["user"])
        filled = user.format(**row.value, response=record["raw"])
        return {version: judged.chat(system=words["system"], user=filled)}

    return Task(
        name="kullm-geval" if version == "v3" else f"kullm-geval-{version}",
        version=version_of(VERSION, [*((row.id, row.value) for row in rows), judged.prompts("kullm_geval")[version]]),
        load=lambda limit: limited(rows, limit, lambda row: kinds[row.id]),
        messages=messages,
        score=lambda row, answer: {"score": None, "version": version},
        summarise=lambda records: summarise(records, version),
        decoding={"temperature": 0.0, "max_new_tokens": 2048, "within_context": True},
        note=f"G-Eval {version}: mean overall mark, 1 to 5; replies that cannot be read are left out",
        judging=Judging((version,), requests, lambda reply: read(reply, version)),
    )


def marks(reply: str, version: str) -> dict[str, float] | None:
    """Every criterion's mark, of v3 by the published rule; None where one is missing."""
    names = CRITERIA[version]
    if version == "v2":
        hits = {name: re.search(re.escape(name) + _MARK_V2, reply.replace("*", "")) for name in names}
        found = {name: float(hit[1]) for name, hit in hits.items() if hit}
    else:
        five = next((some for form in _FORMS if len(some := form.findall(reply)) == len(names)), [])
        found = {name.title(): 1.0 if mark.upper() == "N/A" else float(mark) for name, mark in five}
    return found if set(found) == set(names) else None


def read(reply: str, version: str) -> dict | None:
    """Marks of a reply, with the overall one as its score; None where one is missing or out of its range."""
    found = marks(reply, version)
    if not found or any(not low <= found[name] <= high for name, (low, high) in CRITERIA[version].items()):
        return None
    return {"score": found[[*found][-1]], "marks": {name: found[name] for name in CRITERIA[version]}}


def summarise(records: Sequence[dict], version: str) -> dict:
    """Results of answers with their judgements."""

    def first_marks(judgement: dict) -> dict[str, float] | None:
        return next((marks(reply, version) for reply in judgement["replies"][:1]), None)

    lines = judged.lines_of(records, (version,), first_marks, lambda *_: {})
    for line in lines:
        first = line["upstream"]
        line["marks"] = {"boda": None if line["failed"] else line["verdict"]["marks"], "upstream": first}
        line["upstream"] = first and first[[*CRITERIA[version]][-1]]
    return results(lines, "boda", version)


def results(lines: Sequence[dict], rule: str, version: str = "v2") -> dict:
    """`score`, the mean overall mark by the rule, and each criterion's mean and spread by both rules."""
    found = {**judged.scored(lines, rule, 5), "rule": rule, "version_of_prompt": version}
    for each in judged.RULES:
        kept = [line["marks"][each] for line in lines if line["marks"][each]]
        criteria = {}
        for name, (_, high) in CRITERIA[version].items():
            values = [some[name] for some in kept]
            middle, spread = judged.mean(values), statistics.pstdev(values) if values else None
            criteria[name] = {"mean": middle, "std": spread, "scaled": None if middle is None else 100 * middle / high}
        overall = criteria[[*criteria][-1]]["mean"]
        found[each] = {"score": overall, "n": len(kept), "failed": len(lines) - len(kept), "criteria": criteria}
    return found


def tables(result: dict) -> str:
    """Means and spreads by criterion as published, and of v2 also on its graph's scale."""
    found, criteria = result[result["rule"]], CRITERIA[result["version_of_prompt"]]
    columns = 4 if result["version_of_prompt"] == "v2" else 3
    rows = [("Criterion", "Mean", "Std", "0 - 100")[:columns]]
    for name, each in found["criteria"].items():
        figures = (judged.shown(each["mean"]), judged.shown(each["std"]), judged.shown(each["scaled"], 1))
        rows.append(("{} ({} - {})".format(name, *criteria[name]), *figures)[:columns])
    told = f"{found['n']} answers, {found['failed']} whose marks could not be had"
    return f"{told}\n\n{judged.table(rows[0], rows[1:])}"


def published(file: Path, number: int, row: dict) -> Iterator[tuple[str, dict]]:
    """(file, line) of a row that v2's evaluator wrote, with the judge's reply in `response_scores`."""
    found = read(row["response_scores"], "v2")
    score = found and found["score"]
    line = {"row": str(row.get("id", number)), "name": "v2", "failed": not found, "boda": score, "upstream": score}
    yield file.stem, {**line, "marks": dict.fromkeys(judged.RULES, found and found["marks"])}
