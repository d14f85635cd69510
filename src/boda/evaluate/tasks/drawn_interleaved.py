"""`drawn-shots`: fresh drawn documents of several pictures, the same last one after 0, 1, 2, 4, 8 and 16 others.

`latest` asks about the last picture, of which the right answer is right for none of the others. `task`, `marks` and `names` ask nothing:
the turns before show what to say, a task that training never has; one with words around it that training never has; and names that it
never has and that another document gives others.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import Path

from boda.data.drawn.interleaved import FORMS, MOST_TURNS
from boda.data.drawn.samples import read
from boda.data.sample import Sample
from boda.errors import BodaError
from boda.evaluate.metrics.exact import clean, same_answer
from boda.evaluate.task import Row, Task, read_options, summary, version_of
from boda.evaluate.tasks.drawn import read_numbers
from boda.evaluate.tasks.questions import messages_of

VERSION = "1"
# type: (which pairs of `where`, pictures before the last unless said: for `latest` about as many as training has)
TYPES: dict[str, tuple[str, tuple[int, ...]]] = {
    "latest": ("seen", (0, 1, 2, 4)),
    "task": ("unseen", (0, 1, 2, 4, 8, 16)),
    "marks": ("unseen", (0, 1, 2, 4, 8, 16)),
    "names": ("unseen", (0, 1, 2, 4, 8, 16)),
}
# What is recorded of an answer beside its score, each a mean over the answers that have it.
SHARES = {
    "earlier": "right for an earlier picture instead",
    "value": "right but for its form",
    "known": "shown before with its name",
    "copying": "right if the most frequent answer shown is given",
}


def from_option(option: str, data_dir: str | Path | None) -> Task:
    """The task of `drawn-shots[:seed=N][:number=N][:shots=N/N][:only=TYPE,TYPE]`: `number` last pictures of each type.

    Raises BodaError: another option, no such type, a number out of range, or shots that are none.
    """
    path, given = read_options("drawn-shots", option, "seed", "number", "shots", "only")
    if path:
        raise BodaError(f"drawn-shots: '{path}' is no option; drawn-shots[:seed=N][:number=N][:shots=0/1/4][:only=task,names]")
    seed, number, only = read_numbers("drawn-shots", given, tuple(TYPES))
    shots = given["shots"].split("/") if "shots" in given else []
    if wrong := [each for each in shots if not (each.isascii() and each.isdecimal() and int(each) < MOST_TURNS)]:
        raise BodaError(
            f"drawn-shots: '{wrong[0]}' shots: give numbers from 0 to {MOST_TURNS - 1} with / between, such as 0/1/4"
        )
    found: list[tuple[int, int, Row]] = []
    for kind in dict.fromkeys(only):
        pair, usual = TYPES[kind]
        for many in dict.fromkeys(map(int, shots)) or usual:
            where = {"kind": kind, "pair": pair, "turns": str(many + 1)}
            for place, sample in enumerate(read("interleaved", number, seed, where)):
                found.append((place, many, Row(f"{kind}/{many}/{place}", sample)))
    # A limit takes of every type and number of shots; the last pictures stay the same in all of them.
    found.sort(key=lambda each: each[0])
    return Task(
        name=f"drawn-shots:{option}".rstrip(":"),
        version=version_of(VERSION, ((row.value.messages, row.value.tags, row.value.images) for *_, row in found)),
        # Those of about one length together, as they are asked in batches.
        load=lambda limit: [row for _, _, row in sorted(found[:limit], key=lambda each: each[1])],
        messages=lambda row: messages_of(row.value),
        score=lambda row, answer: score(row.value, answer),
        summarise=summarise,
        decoding={"temperature": 0.0, "max_new_tokens": 32},
        note="drawn documents; exact match, of `task` and `marks` in the form that was shown, else but for punctuation and sentence ending",
    )


def score(sample: Sample, answer: str) -> dict:
    """1 if the answer is that of the last picture (of a `task` in the form that was shown), else 0; and what else it may be."""
    tags, gold = dict(sample.tags), sample.messages[-1].text
    shown = [message.text for message in sample.messages[1:-1:2]]
    found = {"gold": gold, "type": tags["type"], "shots": len(shown), "tags": tags, "extracted": clean(answer)}
    given = unicodedata.normalize("NFC", answer).strip()
    found["score"] = float(given == gold if tags["type"] in ("task", "marks") else same_answer(answer, gold))
    if tags["type"] == "latest":
        others = tags["others"].split("|") if shown else []
        return found | {"earlier": float(any(same_answer(answer, other) for other in others))}
    usual, _ = min(Counter(shown).items(), key=lambda item: (-item[1], shown[::-1].index(item[0]))) if shown else ("", 0)
    found["copying"] = float(usual == gold)
    if tags["type"] == "names":
        found["known"] = float(gold in shown)
    if tags["type"] == "task":
        found["value"] = float(given in {say(tags["value"]) for say in FORMS.values()})
    return found


def summarise(records: list[dict]) -> dict:
    """Score of everything; in `groups` {type: {"4 shots": score, majority and SHARES}}."""
    parts: dict[str, dict[int, list[dict]]] = {}
    for record in records:
        parts.setdefault(record["type"], {}).setdefault(record["shots"], []).append(record)
    groups = {kind: {_shots(many): _part(some) for many, some in sorted(of.items())} for kind, of in parts.items()}
    remarks = []
    for kind, of in groups.items():
        for key, about in SHARES.items():
            if told := [f"{group[key]:.1%} ({many})" for many, group in of.items() if key in group]:
                remarks.append(f"{kind}, {about}: {', '.join(told)}")
    return {**summary(records), "groups": groups, "remarks": remarks}


def _shots(many: int) -> str:
    return f"{many} shot{'s' * (many != 1)}"


def _part(records: list[dict]) -> dict:
    answered = [record for record in records if not record["failed"]]
    found = summary(records)
    if answered:
        answer, count = min(Counter(record["gold"] for record in answered).items(), key=lambda item: (-item[1], item[0]))
        found |= {"majority": count / len(answered), "majority_answer": answer}
        found |= {key: sum(record[key] for record in answered) / len(answered) for key in SHARES if key in answered[0]}
    return found
