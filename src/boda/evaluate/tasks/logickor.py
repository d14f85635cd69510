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

NEEDED = "category, query_single.judge_score and query_multi.judge_score"  # of a row that LogicKor's evaluator wrote
VERSION, TRIES, SCALE, TURNS = "1", 5, 10, ("single", "multi")
STOP = ["<|endoftext|>", "[INST]", "[/INST]", "<|im_end|>", "<|end|>", "<|eot_id|>", "<end_of_turn>", "<eos>"]
GIVEN_UP = "Impossible to judge due to repetition."  # what the published evaluator writes beside its 0.0
_SCORE, _MESSAGE = re.compile(r"점수:\s*(\d+(\.\d+)?)"), re.compile(r"평가:(.*?)점수:", re.DOTALL)


def from_option(option: str, data_dir: str | Path | None) -> Task:
    """The task of `logickor[:PATH][:strategy=default|1-shot|cot-1-shot|all]`; PATH is the benchmark's folder or questions.jsonl."""
    path, given = read_options("logickor", option, "strategy")
    words = judged.prompts("logickor")
    choices = {name: [name] for name in words["strategies"]} | {"all": [*words["strategies"]]}
    if (wanted := given.get("strategy", "all")) not in choices:
        raise BodaError(f"logickor: no strategy '{wanted}'; {nearest(wanted, [*choices])}")
    place, questions = judged.rows_of(path, "logickor", "questions.jsonl", data_dir)
    for number, row in enumerate(questions):
        if len(row.get("questions") or ()) < 2 or len(row.get("references") or ()) < 2 or not {"id", "category"} <= set(row):
            raise BodaError(f"{place}, row {number} needs id, category, two questions and two references")
    rows = [Row(f"{strategy}/{row['id']}", {"strategy": strategy, **row}) for strategy in choices[wanted] for row in questions]
    asked = [(row["id"], row["category"], row["questions"][:2], row["references"][:2]) for row in questions]

    def messages(row: Row) -> list[dict]:
        return [*words["strategies"][row.value["strategy"]], *judged.chat(user=row.value["questions"][0])]

    return Task(
        name="logickor",
        version=version_of(VERSION, [*asked, words]),
        load=lambda limit: limited(rows, limit, lambda row: f"{row.value['strategy']} {row.value['category']}"),
        messages=messages,
        turns=2,
        follow=lambda row, answers: messages(row) + judged.chat(assistant=answers[0], user=row.value["questions"][1]),
        score=lambda row, answer: {"score": None, "strategy": row.value["strategy"], "category": row.value["category"]},
        summarise=summarise,
        decoding={"temperature": 0.0, "max_new_tokens": 4096, "stop": STOP, "within_context": True},
        note="judged 0 to 10: (mean of first turns + mean of second turns) / 2, over the strategies asked; failures left out",
        judging=Judging(TURNS, requests, read, {"temperature": 0.0, "n": 1}, TRIES),
    )


def requests(row: Row, record: dict) -> dict[str, list[dict]]:
    """The judge's messages for both turns, as the published evaluator writes them."""
    words = judged.prompts("logickor")
    user, judge, turns = words["user"], words["judge"], []
    asked = zip(("question", "follow_up"), row.value["questions"], row.value["references"], record["answers"])
    for kind, question, reference, answer in asked:
        given = f"{user['reference']}{reference}" if reference else ""
        turns.append(f"{user[kind]}{question}{given}{user['response']}{answer}")
    first, both = (f"{user['begin']}{''.join(turns[:number])}{user['end']}" for number in (1, 2))
    return {
        "single": judged.chat(system=judge["single_turn"], user=first),
        "multi": judged.chat(system=judge["multi_turn"], user=both),
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

    def keys(record: dict, name: str) -> dict:
        question = record["row"].partition("/")[2]  # asked in three ways it is one question
        return {"row": question, "strategy": record["strategy"], "category": record["category"]}

    return results(judged.lines_of(records, TURNS, by_published_rule, keys), "boda")


def results(lines: Sequence[dict], rule: str) -> dict:
    """`score` by the rule, and by strategy what the benchmark prints, by both rules."""
    groups = {key: judged.grouped(lines, key, rule, SCALE) for key in ("strategy", "category")}
    strategies: dict[str, dict] = {strategy: {} for strategy in groups["strategy"]}
    found = {**judged.scored(lines, rule, SCALE), "rule": rule}
    for each in judged.RULES:
        for strategy, both in strategies.items():
            some = judged.by_turn([line for line in lines if line["strategy"] == strategy], each, TURNS)
            # Turns weigh the same, also where judgements of one of them failed.
            both[each] = {"overall": judged.mean(some["turns"].values()), **some}
        found[each] = {"score": judged.mean(both[each]["overall"] for both in strategies.values())}
        found[each] |= {key: sum(both[each][key] for both in strategies.values()) for key in ("n", "failed")}
    for strategy, group in groups["strategy"].items():
        group["score"] = strategies[strategy][rule]["overall"]
    return {**found, "score": found[rule]["score"], "strategies": strategies, "groups": groups}


def tables(result: dict) -> str:
    """The published tables of each strategy; where the two rules differ, the other's figures below."""
    told = []
    for strategy, found in result["strategies"].items():
        some = found["upstream"]
        rows = [(category, *(judged.shown(turns[name]) for name in TURNS)) for category, turns in some["categories"].items()]
        told += [f"### {strategy}", judged.table(("Category", "Single turn", "Multi turn"), rows)]
        figures = {"Single turn": some["turns"]["single"], "Multi turn": some["turns"]["multi"], "Overall": some["overall"]}
        told.append(judged.table(("Category", "Score"), [(name, judged.shown(value)) for name, value in figures.items()]))
        zeros = some["n"] - found["boda"]["n"]
        if zeros:
            figure = f"{judged.shown(found['boda']['overall'])} over {found['boda']['n']}"
            told.append(f"{zeros} of {some['n']} judgements failed and count 0.00 above; left out, overall {figure}.")
        if some["failed"] > zeros:
            told.append(f"{some['failed'] - zeros} further judgements could not be made: the model gave no answer.")
    return "\n\n".join(told)


def published(file: Path, number: int, row: dict) -> Iterator[tuple[str, dict]]:
    """(model, line) of a row of ORGANISATION/MODEL/STRATEGY.jsonl, for both turns."""
    for name in TURNS:
        found = row[f"query_{name}"]
        failed, score = found.get("judge_message") == GIVEN_UP, float(found["judge_score"])
        line = {"row": str(row.get("id", number)), "name": name, "strategy": file.stem, "category": row["category"]}
        line |= {"failed": failed, "upstream": score, "boda": None if failed else score}
        yield "/".join(file.absolute().parts[-3:-1]), line
