"""A finished set in Korean read again: rows that filters refuse are left out, the others stay as they are, format by format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from boda.data.files import Place
from boda.data.sample import ImageRef
from boda.data.sources import read
from boda.data.sources.common import BadRows, Options
from boda.data.sources.parallel import SIDES, is_two_files, rows, two_files
from boda.data.translate.fields import Slot, fields_for, find
from boda.data.translate.filters import FILTERS, NEED_SOURCE, Duplicates, Filter, Limits, Pair, check_pair, tidied
from boda.data.translate.job import inputs_of
from boda.data.translate.shards import Changes, Record, Shard, open_shard
from boda.errors import BadRow, BodaError
from boda.files import as_lines, whole_file, write_json, writing
from boda.terminal import Progress, clear_line

REJECTS = "rejects.jsonl"
_TOGETHER = 64  # rows that a model or an engine scores at once
Score = Callable[[Sequence[Pair], Sequence[ImageRef | None]], Sequence[float]]


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
    scores: Mapping[str, Score] = field(default_factory=dict)
    images: str | Path | None = None
    quiet: bool = True


def filter_set(path: str | Path, out: str | Path, task: Task) -> dict[str, Any]:
    """Writes the files of `path` without the rows that are refused into `out`/data, and these, with the reasons, into rejects.jsonl.

    filter.json beside them says what was asked and found. Returns rows, kept rows, rejected ones by filter, and the filters that
    could not be used. Raises BodaError: nothing to read, a field that is not there, an output folder that is the input's, a full disk.
    """
    out, counts, rejected, skipped = Path(out), Counter[str](), Counter[str](), dict[str, None]()
    is_pair = is_two_files(Place.of(path))
    inputs = {"": Path(path)} if is_pair else inputs_of([path])
    if any(each.parent.resolve() == (out / "data").resolve() for each in inputs.values()):
        raise BodaError(f"{out} holds the input; rows are left out of a copy, so name another --out")
    duplicates = None if task.has_duplicates else Duplicates(task.limits.nearly)
    progress = Progress(lambda each: f"{each.done:,} rows, {rejected.total():,} refused  {each.rate:,.0f}/s", quiet=task.quiet)
    with writing(out), ExitStack() as stack:
        stream = stack.enter_context(
            stack.enter_context(whole_file(out / REJECTS)).open("w", encoding="utf-8", errors="backslashreplace")
        )
        for source in inputs.values():
            shard = _Aligned(source) if is_pair else open_shard(source)
            with ExitStack() as files:
                names = [Path(str(each)).name for each in shard.files] if isinstance(shard, _Aligned) else [source.name]
                shard.start(*[files.enter_context(whole_file(out / "data" / name)) for name in names])
                try:
                    for record, changes, refusal in _judged(shard, task, duplicates, skipped):
                        shard.put(record, None if refusal else changes)
                        if record.value is None:
                            continue
                        counts.update(rows=1, kept=not refusal)
                        if refusal:
                            rejected[refusal["filter"]] += 1
                            stream.write(as_lines([{"file": source.name, "row": record.number, **refusal}]))
                        progress.update(counts["rows"])
                finally:
                    shard.finish()
    clear_line()
    found = {"rows": counts["rows"], "kept": counts["kept"], "rejected": dict(rejected.most_common()), "skipped": list(skipped)}
    asked = {"filters": [*task.filters, *task.scores], "limits": asdict(task.limits), "duplicates_stay": task.has_duplicates}
    with writing(out):
        write_json(out / "filter.json", {**found, **asked, "fields": list(task.fields), "sources": list(task.sources)})
    return {"out": str(out), **found}


def _judged(
    shard: Shard, task: Task, duplicates: Duplicates | None, skipped: dict[str, None]
) -> Iterator[tuple[Record, Changes, dict | None]]:
    """The records in their order, with what is changed in each and why it is refused, if it is."""
    fields, sources = _fields(shard, task)
    if not sources:
        skipped.update(
            dict.fromkeys(name for name in (*task.filters, *task.scores) if name in (*NEED_SOURCE, "back_translation"))
        )
    scores = {name: score for name, score in task.scores.items() if sources or name != "back_translation"}
    pictures = _pictures(shard, task) if "similarity" in scores else None
    judge = partial(_judge, fields=fields, sources=sources, task=task, duplicates=duplicates)
    records = shard.records()
    while some := list(islice(records, _TOGETHER)):
        judged = [(record, *judge(record)) for record in some]
        for name, score in scores.items():
            _score(name, score, judged, pictures, task.limits)
        yield from ((record, changes, refusal) for record, changes, _, refusal in judged)


def _judge(
    record: Record, fields: Sequence[str], sources: Sequence[str], task: Task, duplicates: Duplicates | None
) -> tuple[list[tuple[Slot, str]], list[tuple[Slot, Pair]], dict | None]:
    """A row's changed strings, its pairs, and why it is refused."""
    if isinstance(record.value, BadRow):
        return [], [], _refusal(record.value.field, "row", record.value.why)
    slots, originals = (list(find(record.value or {}, names)) for names in (fields, sources))
    if sources and len(slots) != len(originals):
        return [], [], _refusal(slots[0].where if slots else "", "row", f"{len(slots)} texts and {len(originals)} sources")
    pairs = [
        (slot, Pair(originals[number].text if sources else "", tidied(slot.text, task.limits)))
        for number, slot in enumerate(slots)
    ]
    for slot, pair in pairs:
        if found := check_pair(pair, task.limits, task.filters):
            return [], pairs, _refusal(slot.where, *found, pair)
    if duplicates and slots and (found := duplicates.check("\n".join(pair.translation for _, pair in pairs))):
        return [], pairs, _refusal(slots[0].where, *found, pairs[0][1])
    return [(slot, pair.translation) for slot, pair in pairs if pair.translation != slot.text], pairs, None


def _refusal(where: str, name: str, reason: str, pair: Pair | None = None) -> dict[str, str]:
    texts = {"source": pair.source, "translation": pair.translation} if pair else {"source": "", "translation": ""}
    return {"field": where, "filter": name, "reason": reason, **texts}


def _score(name: str, score: Score, judged: list, pictures: Callable | None, limits: Limits) -> None:
    """Refuses, among rows that are still good, those with a text whose score is too low; to a picture belongs the last text."""
    asked = [
        (row, slot, pair, image)
        for row, (record, _, pairs, refusal) in enumerate(judged)
        for image in ([pictures(record) if pictures else None] if not refusal else [])
        for slot, pair in (pairs[-1:] if name == "similarity" else pairs)
        if pair.translation.strip() and (image is not None or name != "similarity")
    ]
    found = score([pair for _, _, pair, _ in asked], [image for *_, image in asked]) if asked else []
    for (row, slot, pair, _), value in zip(asked, found, strict=True):
        record, changes, pairs, refusal = judged[row]
        if value < (least := getattr(limits, name)) and not refusal:
            judged[row] = (
                record,
                changes,
                pairs,
                _refusal(slot.where, name, f"{value:.3f}; at least {least:g} is wanted", pair),
            )


def _pictures(shard: Shard, task: Task) -> Callable[[Record], ImageRef | None]:
    """Gives the first picture of each record in turn; the set is read a second time, as a source of samples."""
    samples = read(shard.path, task.format or shard.format, images=task.images, bad_rows=BadRows(), trainable=False)
    waiting = next(samples, None)

    def picture(record: Record) -> ImageRef | None:
        nonlocal waiting
        found = None
        while waiting and str(waiting.source.row) == str(record.number):  # a row may be several samples
            found = found or (waiting.images[0] if waiting.images else None)
            waiting = next(samples, None)
        return found

    return picture


def _fields(shard: Shard, task: Task) -> tuple[Sequence[str], Sequence[str]]:
    """The fields that are looked at and those of their sources: as given, two columns that name languages, or as a format has them."""
    first = dict.fromkeys(shard.names()) or next(
        (record.value for record in shard.records() if isinstance(record.value, dict)), {}
    )
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
        self.files = two_files(Place.of(path))

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
            with suppress(ValueError):
                stream.close()
