"""A finished set in Korean read again: rows that filters refuse are left out, the others stay as they are, format by format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from boda.data.files import Place
from boda.data.sample import IMAGE_MARK, ImageRef
from boda.data.sources import read
from boda.data.sources.common import BadRows, Options
from boda.data.sources.parallel import SIDES, is_two_files, rows, two_files
from boda.data.translate.fields import Slot, fields_for, find
from boda.data.translate.filters import FILTERS, NEED_SOURCE, Duplicates, Filter, Limits, Pair, check_pair, tidied
from boda.data.translate.job import inputs_of
from boda.data.translate.shards import Changes, Record, Shard, damaged, open_shard
from boda.errors import BadRow, BodaError
from boda.files import as_lines, whole_file, write_json, writing
from boda.terminal import Progress, clear_line

REJECTS = "rejects.jsonl"
_TOGETHER = 64  # rows that a model or an engine scores at once
# Of pairs and their pictures; words in place of a score say why there is none.
Score = Callable[[Sequence[Pair], Sequence[ImageRef | None]], Sequence[float | str]]


@dataclass
class Task:
    """What is looked at, and how. `fields` and `sources` are paths such as `conversations[].value`; told from the rows unless given.

    `scores`: limit's name -> a score of pairs and their pictures, below which they are refused; pictures are found under `images`.
    """

    fields: Sequence[str] = ()
    sources: Sequence[str] = ()
    format: str | None = None
    filters: Mapping[str, Filter] = field(default_factory=lambda: FILTERS)
    limits: Limits = field(default_factory=Limits)
    has_duplicates: bool = False  # whether rows may say what another one said
    scores: dict[str, Score] = field(default_factory=dict)
    images: str | Path | None = None
    quiet: bool = True


def filter_set(path: str | Path, out: str | Path, task: Task) -> dict[str, Any]:
    """Writes the files of `path` without the rows that are refused into `out`/data, and these, with the reasons, into rejects.jsonl.

    filter.json beside them says what was asked and found. Returns rows, kept rows, rejected ones by filter, and the filters that
    could not be used. Raises BodaError: nothing to read, a field that is not there, an output folder that is the input's, a full disk.
    """
    out, count, rejected, skipped = Path(out), 0, Counter[str](), dict[str, None]()
    is_pair = is_two_files(Place.of(path))
    inputs = {"": Path(path)} if is_pair else inputs_of([path])
    if any(each.parent.resolve() == (out / "data").resolve() for each in inputs.values()):
        raise BodaError(f"{out} holds the input; rows are left out of a copy, so name another --out")
    if others := sorted({each.name for each in (out / "data").glob("*")} - set(inputs)) if not is_pair else []:
        raise BodaError(
            f"{out} holds another set ({others[0]}), which would be taken for a part of this one; choose a new folder"
        )
    duplicates = None if task.has_duplicates else Duplicates(task.limits.nearly)
    progress = Progress(lambda each: f"{each.done:,} rows, {rejected.total():,} refused  {each.rate:,.0f}/s", quiet=task.quiet)
    with writing(out), ExitStack() as stack:
        listed = stack.enter_context(whole_file(out / REJECTS))
        stream = stack.enter_context(listed.open("w", encoding="utf-8", errors="backslashreplace"))
        for source in inputs.values():
            shard = _Aligned(source) if is_pair else open_shard(source)
            with ExitStack() as files, damaged(source):
                names = shard.files if isinstance(shard, _Aligned) else [source.name]
                shard.start(*[files.enter_context(whole_file(out / "data" / name)) for name in names])
                try:
                    for row in _judged(shard, task, duplicates, skipped):
                        shard.put(row.record, None if row.refusal else row.changes)
                        if row.record.value is not None:
                            progress.update(count := count + 1)
                        if row.refusal:
                            rejected[row.refusal["filter"]] += 1
                            stream.write(as_lines([{"file": source.name, "row": row.record.number, **row.refusal}]))
                finally:
                    shard.finish()
    clear_line()
    kept, reasons = count - rejected.total(), dict(rejected.most_common())
    found = {"rows": count, "kept": kept, "rejected": reasons, "skipped": list(skipped)}
    asked = {"filters": [*task.filters, *task.scores], "limits": asdict(task.limits), "duplicates_stay": task.has_duplicates}
    with writing(out):
        write_json(out / "filter.json", {**found, **asked, "fields": list(task.fields), "sources": list(task.sources)})
    return {"out": str(out), **found}


@dataclass(eq=False)
class _Row:
    """A record with its strings, what they are to become, the picture beside them, and why it is refused, if it is."""

    record: Record
    pairs: list[tuple[Slot, Pair]] = field(default_factory=list)
    refusal: dict | None = None
    picture: ImageRef | None = None

    def refuse(self, where: str, name: str, reason: str, pair: Pair = Pair("", "")) -> None:
        self.refusal = {"field": where, "filter": name, "reason": reason, **asdict(pair)}

    @property
    def changes(self) -> list[tuple[Slot, str]]:
        return [(slot, pair.translation) for slot, pair in self.pairs if pair.translation != slot.text]


def _judged(shard: Shard, task: Task, duplicates: Duplicates | None, skipped: dict[str, None]) -> Iterator[_Row]:
    """The records in their order."""
    fields, sources = _fields(shard, task)
    unused = () if sources else (*NEED_SOURCE, "back_translation")
    skipped.update(dict.fromkeys(name for name in (*task.filters, *task.scores) if name in unused))
    scores = {name: score for name, score in task.scores.items() if name not in unused}
    picture = _pictures(shard, task) if "similarity" in scores else None
    records = shard.records()
    while rows := [_Row(record) for record in islice(records, _TOGETHER)]:
        for row in rows:
            _judge(row, fields, sources, task, duplicates)
            row.picture = picture(row.record) if picture else None
        for name, score in scores.items():
            _score(name, score, rows, task.limits)
        yield from rows


def _judge(row: _Row, fields: Sequence[str], sources: Sequence[str], task: Task, duplicates: Duplicates | None) -> None:
    value = row.record.value
    if isinstance(value, BadRow):
        return row.refuse(value.field, "row", value.why)
    slots, originals = (list(find(value or {}, names)) for names in (fields, sources))
    if sources and len(slots) != len(originals):
        return row.refuse(slots[0].where if slots else "", "row", f"{len(slots)} texts and {len(originals)} sources")
    texts = [original.text for original in originals] or [""] * len(slots)
    row.pairs = [(slot, Pair(text, tidied(slot.text, task.limits))) for slot, text in zip(slots, texts)]
    for slot, pair in row.pairs:
        if found := check_pair(pair, task.limits, task.filters):
            return row.refuse(slot.where, *found, pair)
    if duplicates and slots and (found := duplicates.check("\n".join(pair.translation for _, pair in row.pairs))):
        row.refuse(slots[0].where, *found, row.pairs[0][1])


def _score(name: str, score: Score, rows: Sequence[_Row], limits: Limits) -> None:
    """Refuses, among rows that are still good, those with a text whose score is too low; to a picture belongs the last text."""
    asked = [
        (row, slot, pair)
        for row in rows
        if not row.refusal and (row.picture is not None or name != "similarity")
        for slot, pair in (row.pairs[-1:] if name == "similarity" else row.pairs)
        if pair.translation.replace(IMAGE_MARK, " ").strip()
    ]
    found = score([pair for *_, pair in asked], [row.picture for row, *_ in asked]) if asked else []
    for (row, slot, pair), value in zip(asked, found, strict=True):
        if isinstance(value, str):
            row.refuse(slot.where, name, value, pair)
        elif value < (least := getattr(limits, name)) and not row.refusal:
            row.refuse(slot.where, name, f"{value:.3f}; at least {least:g} is wanted", pair)


def _pictures(shard: Shard, task: Task) -> Callable[[Record], ImageRef | None]:
    """Gives the first picture of each record in turn; the set is read a second time, as a source of samples."""
    samples = read(shard.path, task.format or shard.format, images=task.images, bad_rows=BadRows(), trainable=False)
    groups = groupby(samples, lambda sample: str(sample.source.row))  # a row may be several samples, or none
    waiting = next(groups, None)

    def picture(record: Record) -> ImageRef | None:
        nonlocal waiting
        if waiting is None or waiting[0] != str(record.number).removeprefix("./"):
            return None
        found = next((sample.images[0] for sample in waiting[1] if sample.images), None)
        waiting = next(groups, None)
        return found

    return picture


def _fields(shard: Shard, task: Task) -> tuple[Sequence[str], Sequence[str]]:
    """The fields that are looked at and those of their sources: as given, two columns that name languages, or as a format has them."""
    first = dict.fromkeys(shard.names()) or next((each.value for each in shard.records() if isinstance(each.value, dict)), {})
    fields, sources = list(task.fields), list(task.sources)
    sides = [next((name for name in names if name in first), None) for names in SIDES.values()]
    if not fields and all(sides):
        fields, sources = [sides[0]], sources or [sides[1]]  # type: ignore[list-item]
    elif not fields and first:
        fields = list(fields_for(first, str(shard.path), task.format or shard.format)[1])
    for name in [*task.fields, *sources]:
        if first and name.partition("[")[0].partition(".")[0] not in first and name not in first:
            raise BodaError(f"{shard.path} has no field '{name}'; its rows have {', '.join(map(str, first))}")
    shard.fields = [*fields, *sources]
    return fields, sources


class _Aligned(Shard):
    """Two files of aligned lines."""

    def __init__(self, path: Path):
        super().__init__(path)
        self.files = [Path(str(place)).name.removesuffix(".gz") for place in two_files(Place.of(path))]  # written as plain text

    def names(self) -> list[str]:
        return ["ko", "en"]

    def records(self) -> Iterator[Record]:
        for number, row in rows(Options(Place.of(self.path))):
            yield Record(number, row)

    def start(self, *targets: Path) -> None:
        self.streams = [target.open("w", encoding="utf-8", errors="surrogateescape") for target in targets]

    def put(self, record: Record, changes: Changes | None) -> None:
        if changes is not None and isinstance(record.value, dict):
            said = record.value | {str(slot.key): new for slot, new in changes}
            for side, stream in zip(("ko", "en"), self.streams):
                stream.write(f"{said[side]}\n")

    def finish(self) -> None:
        for stream in self.streams:
            stream.close()
