"""`questions`: short answers to questions on pictures, scored by exact match, on any file that Boda's sources read.

The reference is the last assistant turn; what comes before it is asked. Scores are grouped by each of the samples' tags, and
beside each stands what the most frequent answer alone would score: of the questions themselves (the best a constant answer
can do) and, with a training file, what its most frequent answers score (all that can be had without looking).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from boda.data.sample import Sample
from boda.data.sources import read, resolve_data
from boda.errors import BodaError
from boda.evaluate.metrics.exact import clean, same_answer
from boda.evaluate.task import Row, Task, limited, read_options, summary, version_of

VERSION = "1"
MAX_ANSWERS_LISTED = 20


def from_option(option: str, data_dir: str | Path | None) -> Task:
    """The task of `questions:PATH[:train=PATH][:format=F][:images=DIR][:question=TEXT][:answer=TEXT]`."""
    path, given = read_options("questions", option, "train", "format", "images", "question", "answer")
    if not path:
        raise BodaError("questions needs a file: --tasks questions:PATH, e.g. questions:nlvr/test.jsonl")
    return questions(path, data_dir=data_dir, **given)  # type: ignore[arg-type]


def questions(
    path: str | Path,
    train: str | Path | Sequence[str | Path] | None = None,
    data_dir: str | Path | None = None,
    name: str | None = None,
    max_new_tokens: int = 64,
    **source,
) -> Task:
    """The task on one file, looked up as `boda train` looks up data. Raises BodaError: no such file, or no question in it.

    `train`: training files, for the baselines of what they answer most; `source`: `format images columns question answer where`.
    """
    if source.get("images"):
        source["images"] = resolve_data(source["images"], data_dir, None)

    def samples_of(file: str | Path, probe: bool, format: str | None = None, **rest) -> list[Sample]:
        place = resolve_data(str(file), data_dir, None)
        samples = list(read(place, format, probe=probe, **rest))
        if not samples:
            raise BodaError(f"{place} holds no question")
        return samples

    samples, trained = samples_of(path, True, **source), []
    for file in [train] if isinstance(train, (str, Path)) else train or ():
        # The file's own options hold for training files of the same kind; other files tell their format themselves.
        trained += samples_of(file, False, **(source if Path(file).suffix == Path(path).suffix else {}))
    return of_samples(
        samples,
        lambda: trained,
        name or f"questions:{path}",
        decoding={"temperature": 0.0, "max_new_tokens": max_new_tokens},
        note="exact match after Unicode form, case, punctuation around, and the endings of 'it is X'",
    )


def of_samples(
    samples: Sequence[Sample],
    trained: Callable[[], Sequence[Sample]],
    name: str,
    kind_of: Callable[[Sample], str] = lambda sample: next(iter(dict(sample.tags).values()), ""),
    version: str = VERSION,
    **rest,
) -> Task:
    """The task of asking these samples; their places are the rows' names.

    `trained` gives the training samples whose answers make the baselines; `kind_of`: groups
    that a limit keeps in proportion; else by the first tag.
    """
    rows = [Row(str(number), sample) for number, sample in enumerate(samples)]
    known = frozenset(clean(sample.messages[-1].text) for sample in samples)
    asked = ((sample.messages, [image.key for image in sample.images], sample.tags) for sample in samples)
    return Task(
        name=name,
        version=version_of(version, asked),
        load=lambda limit: limited(rows, limit, lambda row: kind_of(row.value)),
        messages=lambda row: messages_of(row.value),
        score=lambda row, answer: score(row.value, answer, known),
        summarise=lambda records: summarise(records, [_facts(sample) for sample in trained()]),
        **rest,
    )


def messages_of(sample: Sample) -> list[dict]:
    """A sample without its last answer, pictures in their places."""
    images = iter(sample.images)
    messages = [message.as_dict() for message in sample.messages[:-1]]
    for part in (part for message in messages for part in message["content"] if part["type"] == "image"):
        part["image"] = next(images)
    return messages


def score(sample: Sample, answer: str, known: frozenset[str] = frozenset()) -> dict:
    """1 if the answer is the reference, else 0; an empty answer is a wrong one."""
    facts = _facts(sample)
    right = same_answer(answer, facts["gold"], known)
    return {"score": float(right), "extracted": clean(facts["gold"] if right else answer), **facts}


def _facts(sample: Sample) -> dict:
    """What is recorded of a question: its reference, its tags and the words of its last turn."""
    return {"gold": sample.messages[-1].text, "tags": dict(sample.tags), "asked": sample.messages[-2].text}


def summarise(records: list[dict], trained: Sequence[dict] = ()) -> dict:
    """Score and baselines of everything and of every group; records and training samples have `gold tags asked`."""
    result = {**summary(records), **_baselines(records, trained), "groups": {}}
    answered = [record for record in records if not record["failed"]]
    for key in sorted({key for record in records for key in record["tags"]}):
        # A tag that says the same of everything, or something else of everything, groups nothing.
        if 1 < len({record["tags"].get(key) for record in answered}) <= max(20, len(records) // 5):
            result["groups"][key] = {
                # What training has nothing of is answered from all of it.
                value: {
                    **summary(some),
                    **_baselines(some, [line for line in trained if line["tags"].get(key) == value] or trained),
                }
                for value, some in _grouped(records, [record["tags"].get(key) for record in records])
            }
    if len({clean(record["gold"]) for record in answered}) <= MAX_ANSWERS_LISTED:
        by_answer = _grouped(records, [clean(record["gold"]) for record in records])
        result["groups"]["answer"] = {answer: summary(some) for answer, some in by_answer}
    return result


def _grouped(records: list[dict], values: list) -> list[tuple[str, list[dict]]]:
    """Records by their values, in order, but for those without one and groups in which nothing was answered."""
    groups: dict[str, list[dict]] = defaultdict(list)
    for record, value in zip(records, values):
        if value is not None:
            groups[value].append(record)
    return [(value, some) for value, some in sorted(groups.items()) if not all(record["failed"] for record in some)]


def _baselines(records: list[dict], trained: Sequence[dict]) -> dict:
    """What answering without looking scores, in the same questions."""
    scored = [(record["asked"], clean(record["gold"])) for record in records if not record["failed"]]
    if not scored:
        return {}
    answer, count = _most_frequent(gold for _, gold in scored)
    found: dict = {"majority": count / len(scored), "majority_answer": answer}
    if trained:
        by_question: dict[str, list[str]] = defaultdict(list)
        for line in trained:
            by_question[line["asked"]].append(clean(line["gold"]))
        overall, _ = _most_frequent(gold for golds in by_question.values() for gold in golds)
        usual = {asked: _most_frequent(golds)[0] for asked, golds in by_question.items()}
        found["train_majority"] = sum(gold == overall for _, gold in scored) / len(scored)
        found["train_majority_by_question"] = sum(usual.get(asked, overall) == gold for asked, gold in scored) / len(scored)
    return found


def _most_frequent(answers: Iterable[str]) -> tuple[str, int]:
    """The most frequent answer and how often it comes; the first in the alphabet of equals."""
    return min(Counter(answers).items(), key=lambda item: (-item[1], item[0]))
