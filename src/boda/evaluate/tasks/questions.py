"""`questions`: short answers to questions on pictures, scored by exact match, on any file that Boda's sources read.

The reference is the last assistant turn; what comes before it is asked. Scores are grouped by each of the samples' tags, and
beside each stands what the most frequent answer alone would score: of the questions themselves (the best a constant answer
can do) and, with a training file, what its most frequent answers score (all that can be had without looking).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from boda.data.sample import Sample
from boda.errors import BodaError
from boda.evaluate.metrics.exact import clean, same_answer
from boda.evaluate.task import Row, Task, summary

VERSION = "1"
OPTIONS = ("train", "format", "images", "question", "answer")
MAX_ANSWERS_LISTED = 20
_NEXT_OPTION = re.compile(rf":(?=(?:{'|'.join(OPTIONS)})=)")


def from_option(option: str, data_dir: str | Path | None) -> Task:
    """The task of `questions:PATH[:train=PATH][:format=F][:images=DIR][:question=TEXT][:answer=TEXT]`."""
    path, *rest = _NEXT_OPTION.split(option)
    if not path:
        raise BodaError("questions needs a file: --tasks questions:PATH, e.g. questions:nlvr/test.jsonl")
    settings = dict(part.split("=", 1) for part in rest)
    return questions(path, data_dir=data_dir, **settings)  # type: ignore[arg-type]


def questions(
    path: str | Path,
    train: str | Path | Sequence[str | Path] | None = None,
    data_dir: str | Path | None = None,
    name: str | None = None,
    max_new_tokens: int = 64,
    **source,
) -> Task:
    """The task on one file.

    Args:
        path: a file, folder, zip or tar, looked up as `boda train` looks up data.
        train: one or several training files, for the baselines of what they answer most.
        name: what the results call it; None: `questions:PATH`.
        source: `format images columns question answer where`, as `boda.data.sources.read` takes them.

    Raises:
        BodaError: no such file, or no question in it.
    """
    samples = _read(path, data_dir, source)
    trains = [] if train is None else [train] if isinstance(train, (str, Path)) else list(train)
    # The file's own options hold for training files of the same kind; other files tell their format themselves.
    trained = [
        sample
        for one in trains
        for sample in _read(one, data_dir, source if Path(one).suffix == Path(path).suffix else {}, probe=False)
    ]
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
    kind_of: Callable[[Sample], str] = lambda sample: "",
    version: str = VERSION,
    **rest,
) -> Task:
    """The task of asking these samples; their places are the rows' names.

    Args:
        trained: gives the training samples whose answers make the baselines, when they are needed.
        kind_of: groups that a limit keeps in proportion.
        version: of how they are asked and scored.
        rest: `decoding` and `note` of the task.
    """
    known = frozenset(clean(_reference(sample)) for sample in samples)
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(repr((sample.messages, [image.key for image in sample.images], sample.tags)).encode())

    def load(limit: int | None) -> list[Row]:
        rows = [Row(str(index), sample) for index, sample in enumerate(samples)]
        if limit is None or limit >= len(rows):
            return rows
        # The same rows whatever the limit: a larger one only adds to them; files are often sorted, so not simply the first.
        kinds: dict[str, list[Row]] = defaultdict(list)
        for row in sorted(rows, key=lambda row: hashlib.sha256(row.id.encode()).digest()):
            kinds[kind_of(row.value)].append(row)
        placed = [((place + 0.5) / len(found), row) for found in kinds.values() for place, row in enumerate(found)]
        chosen = sorted(placed, key=lambda pair: pair[0])[:limit]
        return sorted((row for _, row in chosen), key=lambda row: int(row.id))

    return Task(
        name=name,
        version=f"{version}-{digest.hexdigest()[:16]}",
        load=load,
        messages=lambda row: messages_of(row.value),
        score=lambda row, answer: score(row.value, answer, known),
        summarise=lambda records: summarise(
            records, [(_tags(sample), _asked(sample), _reference(sample)) for sample in trained()]
        ),
        **rest,
    )


def _read(path: str | Path, data_dir: str | Path | None, source: dict, probe: bool = True) -> list[Sample]:
    from boda.data.sources import read, resolve_data

    source = dict(source)
    if source.get("images"):
        source["images"] = resolve_data(source["images"], data_dir, None)
    place = resolve_data(str(path), data_dir, None)
    samples = [sample for sample in read(place, source.pop("format", None), probe=probe, **source)]
    if not samples:
        raise BodaError(f"{place} holds no question")
    return samples


def messages_of(sample: Sample) -> list[dict]:
    """A sample without its last answer, pictures in their places."""
    images = iter(sample.images)
    return [
        {
            "role": message.role,
            "content": [
                {"type": "image", "image": next(images)} if part.type == "image" else {"type": "text", "text": part.text}
                for part in message.content
            ],
        }
        for message in sample.messages[:-1]
    ]


def score(sample: Sample, answer: str, known: frozenset[str] = frozenset()) -> dict:
    """1 if the answer is the reference, else 0; an empty answer is a wrong one."""
    reference = _reference(sample)
    right = same_answer(answer, reference, known)
    extracted = clean(reference) if right else clean(answer)
    return {"score": float(right), "extracted": extracted, "gold": reference, "tags": _tags(sample), "asked": _asked(sample)}


def summarise(records: list[dict], trained: Sequence[tuple[dict, str, str]] = ()) -> dict:
    """Score and baselines, of everything and of every group.

    Args:
        records: answer records with `gold`, `tags`, `asked`.
        trained: (tags, question, answer) of the training samples.
    """
    result = {**summary(records), **_baselines(records, trained), "groups": {}}
    tags = {key for record in records for key in record.get("tags", {})}
    for key in sorted(tags):
        # A tag that says the same of everything, or something else of everything, groups nothing.
        values = {record["tags"].get(key) for record in records if not record["failed"]}
        if 1 < len(values) <= max(20, len(records) // 5):
            result["groups"][key] = _grouped(records, trained, lambda tags, answer, key=key: tags.get(key))
    if len({clean(record["gold"]) for record in records if not record["failed"]}) <= MAX_ANSWERS_LISTED:
        by_answer = _grouped(records, (), lambda tags, answer: clean(answer))
        for group in by_answer.values():  # within one reference answer a constant answer is always right
            del group["majority"], group["majority_answer"]
        result["groups"]["answer"] = by_answer
    return result


def _grouped(records: list[dict], trained: Sequence[tuple[dict, str, str]], group_of: Callable) -> dict[str, dict]:
    groups: dict[str, list[dict]] = defaultdict(list)
    for record in records:
        groups[group_of(record.get("tags", {}), record.get("gold", ""))].append(record)
    return {
        name: {
            **summary(found),
            # What training has nothing of is answered from all of it.
            **_baselines(found, [line for line in trained if group_of(line[0], line[2]) == name] or trained),
        }
        for name, found in sorted(groups.items(), key=lambda item: str(item[0]))
        if name is not None and any(not record["failed"] for record in found)
    }


def _baselines(records: Iterable[dict], trained: Sequence[tuple[dict, str, str]]) -> dict:
    """What answering without looking scores, in the same questions."""
    scored = [record for record in records if not record["failed"]]
    if not scored:
        return {}
    golds = [clean(record["gold"]) for record in scored]
    answer, count = _most_frequent(golds)
    found: dict = {"majority": count / len(golds), "majority_answer": answer}
    if trained:
        overall, _ = _most_frequent(clean(line[2]) for line in trained)
        by_question: dict[str, list[str]] = defaultdict(list)
        for _, asked, given in trained:
            by_question[asked].append(clean(given))
        usual = {asked: _most_frequent(given)[0] for asked, given in by_question.items()}
        hits = sum(usual.get(record["asked"], overall) == gold for record, gold in zip(scored, golds))
        found["train_majority"] = sum(gold == overall for gold in golds) / len(golds)
        found["train_majority_by_question"] = hits / len(golds)
    return found


def _most_frequent(answers: Iterable[str]) -> tuple[str, int]:
    """The most frequent answer and how often it comes; the first in the alphabet of equals."""
    return min(Counter(answers).items(), key=lambda item: (-item[1], item[0]))


def _reference(sample: Sample) -> str:
    return sample.messages[-1].text


def _asked(sample: Sample) -> str:
    """The words of the last question."""
    return sample.messages[-2].text


def _tags(sample: Sample) -> dict[str, str]:
    return dict(sample.tags)
