"""`logickor`: LogicKor's 42 two-turn Korean questions in six categories, asked in three ways and scored 0 to 10 by a judge.

The questions are read from the user's copy of github.com/instructkr/LogicKor; prompts, judge messages, what is read of a reply and
the tables are the published ones. Published as well, and kept as `upstream`: five replies without a score make 0.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from boda.errors import BodaError
from boda.evaluate import judged
from boda.evaluate.task import Judging, Row, Task, limited, read_options, version_of
from boda.recipe.words import nearest

VERSION, TRIES, SCALE, TURNS = "1", 5, 10, ("single", "multi")
STOP = ["<|endoftext|>", "[INST]", "[/INST]", "<|im_end|>", "<|end|>", "<|eot_id|>", "<end_of_turn>", "<eos>"]
GIVEN_UP = "Impossible to judge due to repetition."  # what the published evaluator writes beside its 0.0
_SCORE, _MESSAGE = re.compile(r"점수:\s*(\d+(\.\d+)?)"), re.compile(r"평가:(.*?)점수:", re.DOTALL)


def from_option(option: str, data_dir: str | Path | None) -> Task:
    """The task of `logickor[:PATH][:strategy=default|1-shot|cot-1-shot|all]`; PATH is the benchmark's folder or questions.jsonl."""
    path, given = read_options("logickor", option, "strategy")
    words = judged.prompts("logickor")
    strategies = list(words["strategies"])
    if (wanted := given.get("strategy", "all")) != "all":
        if wanted not in strategies:
            raise BodaError(f"logickor: no strategy '{wanted}'; {nearest(wanted, [*strategies, 'all'])}")
        strategies = [wanted]
    place, questions = judged.rows_of(path, "logickor", "questions.jsonl", data_dir)
    for number, row in enumerate(questions):
        if len(row.get("questions") or ()) < 2 or len(row.get("references") or ()) < 2 or not {"id", "category"} <= set(row):
            raise BodaError(f"{place}, row {number} needs id, category, two questions and two references")
    rows = [Row(f"{strategy}/{row['id']}", {"strategy": strategy, **row}) for strategy in strategies for row in questions]
    asked = [(row["id"], row["category"], row["questions"][:2], row["references"][:2]) for row in questions]

    def messages(row: Row) -> list[dict]:
        return [*words["strategies"][row.value["strategy"]], {"role": "user", "content": row.value["questions"][0]}]

    def follow(row: Row, answers: list[str]) -> list[dict]:
        then = [{"role": "assistant", "content": answers[0]}, {"role": "user", "content": row.value["questions"][1]}]
        return [*messages(row), *then]

    return Task(
        name="logickor",
        version=version_of(VERSION, [*asked, words]),
        load=lambda limit: limited(rows, limit, lambda row: f"{row.value['strategy']} {row.value['category']}"),
        messages=messages,
        turns=2,
        follow=follow,
        score=lambda row, answer: {"score": None, **{key: row.value[key] for key in ("strategy", "category")}},
        summarise=summarise,
        decoding={"temperature": 0.0, "max_new_tokens": 4096, "stop": STOP, "within_context": True},
        note="judged 0 to 10: (mean of first turns + mean of second turns) / 2, over the strategies asked; failures left out",
        judging=Judging(TURNS, requests, read, {"temperature": 0.0, "n": 1}, TRIES),
    )


def requests(row: Row, record: dict) -> dict[str, list[dict]]:
    """The judge's messages for both turns, as the published evaluator writes them."""
    words = judged.prompts("logickor")
    user, judge = words["user"], words["judge"]
    turns = []
    for kind, question, reference, answer in zip(
        ("question", "follow_up"), row.value["questions"], row.value["references"], record["answers"]
    ):
        said = f"{user[kind]}{question}"
        said += f"{user['reference']}{reference}" if reference else ""
        turns.append(f"{said}{user['response']}{answer}")
    first, both = f"{user['begin']}{turns[0]}{user['end']}", f"{user['begin']}{''.join(turns)}{user['end']}"
    return {
        "single": [{"role": "system", "content": judge["single_turn"]}, {"role": "user", "content": first}],
        "multi": [{"role": "system", "content": judge["multi_turn"]}, {"role": "user", "content": both}],
    }


def read(reply: str) -> dict | None:
    """Score and remark of a reply; None without a score from 0 to 10."""
    plain = reply.replace("*", "")
    found, message = _SCORE.search(plain), _MESSAGE.search(plain)
    if not found or float(found[1]) > SCALE:
        return None
    return {"score": float(found[1]), "message": message[1].strip() if message else "No judge message found"}


def by_published_rule(judgement: dict) -> float:
    """The first score, however large, in at most five replies; 0 without one."""
    found = (_SCORE.search(reply.replace("*", "")) for reply in judgement["replies"][:TRIES])
    return next((float(score[1]) for score in found if score), 0.0)


def summarise(records: Sequence[dict]) -> dict:
    """Results of answers with their judgements."""
    keys = {key: lambda record, name, key=key: record[key] for key in ("strategy", "category")}
    lines = judged.lines_of(records, TURNS, by_published_rule, **keys)
    for line in lines:
        line["row"] = line["row"].partition("/")[2]  # a question asked in three ways is one question
    return results(lines, "boda")


def results(lines: Sequence[dict], rule: str) -> dict:
    """`score` by the rule, and by strategy what the benchmark prints, by both rules."""
    strategies = {}
    for strategy in dict.fromkeys(line["strategy"] for line in lines):
        some = [line for line in lines if line["strategy"] == strategy]
        strategies[strategy] = {each: _overall(judged.by_turn(some, each, TURNS)) for each in ("boda", "upstream")}
    found = {**judged.scored(lines, rule, SCALE), "rule": rule}
    for each in ("boda", "upstream"):
        overall = judged.mean(strategy[each]["overall"] for strategy in strategies.values())
        found[each] = {
            "score": overall,
            **{key: sum(some[each][key] for some in strategies.values()) for key in ("n", "failed")},
        }
    groups = {key: judged.grouped(lines, key, rule, SCALE) for key in ("strategy", "category")}
    for strategy, group in groups["strategy"].items():
        group["score"] = strategies[strategy][rule]["overall"]
    return {**found, "score": found[rule]["score"], "strategies": strategies, "groups": groups}


def _overall(turns: dict) -> dict:
    single, multi = (turns["turns"][name] for name in TURNS)
    # Turns weigh the same, also where judgements of one of them failed.
    return {"overall": judged.mean([single, multi]), **turns}


def tables(result: dict) -> str:
    """The published tables of each strategy; where the two rules differ, the other's figures below."""
    told = []
    for strategy, found in result["strategies"].items():
        some = found["upstream"]
        rows = [(category, *(judged.shown(turns[name]) for name in TURNS)) for category, turns in some["categories"].items()]
        told += [f"### {strategy}", judged.table(("Category", "Single turn", "Multi turn"), rows)]
        figures = [(name, some["turns"][turn]) for name, turn in (("Single turn", "single"), ("Multi turn", "multi"))]
        told.append(
            judged.table(
                ("Category", "Score"), [(name, judged.shown(value)) for name, value in [*figures, ("Overall", some["overall"])]]
            )
        )
        zeros = some["n"] - found["boda"]["n"]
        if zeros:
            figure = f"{judged.shown(found['boda']['overall'])} over {found['boda']['n']}"
            told.append(f"{zeros} of {some['n']} judgements failed and count 0.00 above; left out, overall {figure}.")
        if some["failed"] > zeros:
            told.append(f"{some['failed'] - zeros} further judgements could not be made: the model gave no answer.")
    return "\n\n".join(told)


def published(file: Path, task: str) -> Iterator[tuple[str, dict]]:
    """(model, line) of a file that LogicKor's evaluator wrote: ORGANISATION/MODEL/STRATEGY.jsonl."""
    model = "/".join(file.absolute().parts[-3:-1])
    for number, row in enumerate(judged.json_lines(file)):
        for name in TURNS:
            found = row.get(f"query_{name}")
            if not isinstance(found, dict) or not isinstance(found.get("judge_score"), (int, float)) or "category" not in row:
                raise judged.foreign(file, task, number, "category, query_single.judge_score and query_multi.judge_score")
            failed, score = found.get("judge_message") == GIVEN_UP, float(found["judge_score"])
            line = {"row": str(row.get("id", number)), "name": name, "strategy": file.stem, "category": row["category"]}
            yield model, {**line, "failed": failed, "upstream": score, "boda": None if failed else score, "images": None}
