"""`few-shot`: questions or captions after so many solved examples, which stand before the question as turns of the conversation.

All numbers of shots ask the same rows. A record tells the examples' rows (`shots`) and the answer of the last one (`copied`);
what repeating that answer would score stands beside the score.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from boda.data.sample import Sample
from boda.errors import BodaError
from boda.evaluate.answers import encoding
from boda.evaluate.shots import Demonstrations, with_shots
from boda.evaluate.task import Row, Task, read_options, version_of
from boda.evaluate.tasks.caption import captioning
from boda.evaluate.tasks.questions import messages_of, of_samples, questions

VERSION = "1"
KINDS = ("questions", "captions")
SOURCE = ("format", "images", "question", "answer")


def from_option(option: str, data_dir: str | Path | None) -> list[Task]:
    """The tasks of `few-shot:PATH[:train=PATH][:shots=0/4/8][:choose=random|MODEL][:as=questions|captions][:seed=N][:tokenizer=T]`
    and the options of `questions`, one for each number of shots."""
    path, given = read_options("few-shot", option, "train", "shots", "choose", "as", "seed", "tokenizer", *SOURCE)
    if not path:
        raise BodaError("few-shot needs a file: --tasks few-shot:PATH:train=PATH, e.g. few-shot:test.jsonl:train=train.jsonl")
    numbers = {"shots": given.pop("shots", "4").split("/"), "seed": [given.pop("seed", "0")]}
    for name, texts in numbers.items():
        if wrong := [text for text in texts if not (text.isascii() and text.isdecimal())]:
            raise BodaError(f"few-shot: {name} '{wrong[0]}' is no whole number from 0; several shots are written 0/4/8")
    shots, (seed,) = ([int(text) for text in texts] for texts in numbers.values())
    return few_shot(path, shots=shots, seed=seed, kind=given.pop("as", KINDS[0]), data_dir=data_dir, **given)  # type: ignore[arg-type]


def few_shot(
    path: str | Path,
    train: str | Path | None = None,
    shots: Sequence[int] = (4,),
    choose: Any = "random",
    kind: str = "questions",
    seed: int = 0,
    tokenizer: str = "kiwi",
    data_dir: str | Path | None = None,
    max_new_tokens: int = 64,
    **source,
) -> list[Task]:
    """A task for each number of shots, on files that are looked up as `questions` does.

    `train`: where the examples come from; None: the other pictures of the file itself. `choose`: "random", or a pair model (folder,
    hub id, (model, processor) or Encoder) by which pictures are the likest. `kind`: questions are scored by exact match, captions
    by CIDEr-D against all answers to the same pictures and words. Raises BodaError: no such file, too few pictures in it, or a kind,
    tokenizer or model that is none.
    """
    if kind not in KINDS:
        raise BodaError(f"few-shot: as '{kind}' is nothing; there are {', '.join(KINDS)}")

    def samples_of(file: str | Path, options: dict) -> list[Sample]:
        return [row.value for row in questions(file, data_dir=data_dir, **options).load(None)]

    samples = samples_of(path, source)
    # The file's own options hold for training files of the same kind, as in `questions`.
    pool = samples if train is None else samples_of(train, source if Path(train).suffix == Path(path).suffix else {})
    chooser = None if choose == "random" else encoding(choose)
    if chooser and (blank := [sample for sample in (*samples, *pool) if not sample.images]):
        raise blank[0].bad("images", f"there is none, and choose={chooser.name} compares pictures; choose=random does not")
    demonstrations = Demonstrations(pool, max(shots, default=0), seed, chooser.open if chooser else None)
    base = captioning(samples, tokenizer) if kind == "captions" else of_samples(samples, lambda: pool if train else [], "")
    asked = [kind, tokenizer, seed, chooser and (chooser.fingerprint or chooser.name)]
    asked += [(sample.messages, [image.key for image in sample.images], sample.tags) for sample in (*samples, *pool)]
    rest = ([f"choose={chooser.name}"] if chooser else []) + (["as=captions"] if kind == "captions" else [])
    return [
        replace(
            _shown(base, demonstrations, number),
            name=":".join(["few-shot", str(path), f"shots={number}", *rest]),
            version=version_of(VERSION, [number, *asked]),
            # Many pictures may not fit: such a question fails, and is not asked beyond the model's last position.
            decoding={"temperature": 0.0, "max_new_tokens": max_new_tokens} | ({"within_context": 1} if number else {}),
            note=f"{base.note}; {number} solved examples before each question",
        )
        for number in shots
    ]


def _shown(task: Task, demonstrations: Demonstrations, number: int) -> Task:
    """The task with so many demonstrations before each question."""
    rows = {row.id: row for row in task.load(None)}

    def messages(row: Row) -> list[dict]:
        return messages_of(with_shots(row.value, demonstrations.of(row, number)))

    def score(row: Row, answer: str) -> dict:
        shown = demonstrations.of(row, number)
        # The question's own pictures: scores on the same one stand and fall together, whatever was shown before.
        own = [None if image.data else json.loads(image.to_json()) for image in row.value.images]
        facts = {"images": own, "shots": [sample.source.row for sample in shown]}
        return {**task.score(row, answer), **facts, **({"copied": shown[-1].messages[-1].text} if shown else {})}

    def summarise(records: list[dict]) -> dict:
        result = task.summarise(records)
        if answered := [{**record, "raw": record["copied"]} for record in records if number and not record["failed"]]:
            copies = [{**record, **task.score(rows[record["row"]], record["raw"])} for record in answered]
            result["copied"] = task.summarise(copies)["score"]
            said = f"repeating the last example's answer would score {result['copied']:.3f}"
            result["remarks"] = [*result.get("remarks", []), said]
        return result

    return replace(task, messages=messages, score=score, summarise=summarise)
