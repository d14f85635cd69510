"""Translating data files in place: rows are read, their sentences asked for once, and rows written in the order they came.

A job can be killed at any moment and run by several processes at once: what is written does not depend on it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import boda
from boda.data.files import Place, matching
from boda.data.translate.asking import Asking, Waiting, billed
from boda.data.translate.engines import Engine
from boda.data.translate.fields import Slot, Text, fields_for, find
from boda.data.translate.filters import PRESETS, Pair, changed_limits, check_pair, tidied
from boda.data.translate.folder import COSTS, JobFolder, totals
from boda.data.translate.memory import Memory
from boda.data.translate.protect import Protected, protect
from boda.data.translate.shards import SHARDS, Record, Shard, damaged, open_shard
from boda.errors import BadRow, BodaError
from boda.files import as_lines, whole_file, writing
from boda.terminal import Progress, clear_line

WINDOW = 8192  # rows that are read before the first of them must be finished
WINDOW_CHARACTERS = 1 << 26  # ... and what they may hold
REMEMBERED, SHORT = 1 << 14, 500  # of texts that come again and again, how many are looked at once, and how long they are
_NO_TEXT = re.compile(r"[\ud800-\udfff]|^\[\{[^\n]*\"type\"")  # bytes that are no UTF-8; parts of a message as JSON
FIRST_ROWS, MOST_REJECTED = 200, 0.5  # of the first rows: more, and the settings are probably wrong


@dataclass
class Task:
    """What a job is to do, all but where.

    `fields` are paths such as `conversations[].value`; none: told from the rows. `preset` is one of PRESETS, `limits` what differs from its
    limits, `skip` filters that are left out. `limit`: only the first rows of each file. `budget`: US dollars, `most_characters`: billed
    ones, that the job may cost in all.
    """

    engine: Engine
    format: str | None = None
    fields: Sequence[str] = ()
    preset: str = "boda"
    limits: Mapping[str, Any] = field(default_factory=dict)
    skip: Sequence[str] = ()
    limit: int | None = None
    memory: str | Path | None = None
    budget: float | None = None
    most_characters: int | None = None
    keep_going: bool = False
    licence: str = ""
    quiet: bool = True

    def __post_init__(self):
        if self.preset not in PRESETS:
            raise BodaError(f"no filters '{self.preset}'; there are {', '.join(PRESETS)}")
        checks, limits = PRESETS[self.preset]
        if unknown := sorted(set(self.skip) - set(checks)):
            raise BodaError(f"no filter '{unknown[0]}'; there are {', '.join(checks)}")
        self.checks = {name: check for name, check in checks.items() if name not in self.skip}
        self.checked = changed_limits(limits, {name: str(value) for name, value in self.limits.items()})

    def settings(self) -> dict[str, Any]:
        """What the output depends on."""
        engine = self.engine
        said = {name: _short(value) for name, value in engine.settings().items()}
        glossary = engine.glossary.identity if engine.glossary else ""
        told = {"engine": engine.name, "model": engine.model, "source_language": engine.source_language, "glossary": glossary}
        filters = {"preset": self.preset, "skip": sorted(self.skip), **dataclasses.asdict(self.checked)}
        asked = {"format": self.format, "fields": list(self.fields), "limit": self.limit, "filters": filters}
        return {**told, **said, "identity": engine.identity, **asked}


def _short(value: Any) -> Any:
    """A setting as a manifest holds it: a long text by its hash."""
    return f"sha256 {hashlib.sha256(value.encode()).hexdigest()}" if isinstance(value, str) and len(value) > 80 else value


def inputs_of(paths: Sequence[str | Path]) -> dict[str, Path]:
    """name -> file, of files, patterns, and folders of data files. Raises BodaError: nothing there, or two of one name."""
    found: dict[str, Path] = {}
    for path in map(Path, paths):
        files = [path] if path.is_file() else list(map(Path, matching(path)))
        if path.is_dir():
            files = sorted(each for each in path.iterdir() if Place(str(each)).suffix in SHARDS and each.is_file())
        if not files:
            raise BodaError(f"no data files at {path}; {', '.join(SHARDS)} are translated, text also as .gz")
        for each in files:
            if found.setdefault(each.name, each) != each:
                raise BodaError(
                    f"two inputs are called {each.name} ({found[each.name]} and {each}); translate them in two jobs"
                )
    return found


class _Unit(NamedTuple):
    """What is translated of a line, and the key of its translation in the memory; b"" where nothing in it needs any."""

    protected: Protected
    key: bytes


class _Part(NamedTuple):
    """One string of a row."""

    slot: Slot
    text: Text
    units: list[_Unit]


@dataclass(eq=False)
class _Output:
    """A shard that is being written, beside it the rows that are refused."""

    name: str
    shard: Shard
    size: int  # bytes that are read
    counts: Counter = field(default_factory=Counter)
    rejected: Counter = field(default_factory=Counter)
    files: ExitStack = field(default_factory=ExitStack)
    partial: Path = Path()
    rejects: Any = None

    def start(self, folder: Path) -> None:
        self.partial = self.files.enter_context(whole_file(folder / "data" / self.name, is_shared=True))
        listed = self.files.enter_context(whole_file(folder / "rejects" / f"{self.name}.jsonl", is_shared=True))
        self.rejects = self.files.enter_context(listed.open("w", encoding="utf-8", errors="backslashreplace"))
        self.shard.start(self.partial)

    def finish(self) -> dict[str, Any]:
        """What is to be known of the shard, which has its name now."""
        self.shard.finish()
        facts: dict[str, Any] = {name: self.counts[name] for name in ("rows", "kept", "units")}
        facts |= {"rejected": dict(sorted(self.rejected.items())), "bytes": self.partial.stat().st_size}
        for name, path in (("sha256", self.partial), ("input_sha256", self.shard.path)):
            with path.open("rb") as stream:
                facts[name] = hashlib.file_digest(stream, "sha256").hexdigest()
        self.files.close()
        return facts

    def give_up(self) -> None:
        """Nothing of it stays."""
        with suppress(Exception):
            self.shard.finish()
        self.files.__exit__(BodaError, BodaError("stopped"), None)


@dataclass(eq=False)
class _Row(Waiting):
    """A row on its way; `record` is None behind the last one of a shard."""

    output: _Output = None  # type: ignore[assignment]
    record: Record | None = None
    parts: list[_Part] = field(default_factory=list)
    size: int = 0


def translate(paths: Sequence[str | Path], out: str | Path, task: Task) -> dict[str, Any]:
    """Works on the job in folder `out` until no shard is free; returns its counts and costs, `finished` if all shards are done.

    Raises EngineGone, or BodaError: the budget is used up, rows that cannot be translated, another job's folder, a full disk.
    What is paid for is kept, and the same call goes on.
    """
    inputs = inputs_of(paths)
    folder = JobFolder(out, task.settings(), inputs, {"boda": boda.__version__, "licence": task.licence})
    if not all(map(folder.done, inputs)):
        task.engine.stop.clear()
        task.engine.check()
        left = task.engine.left()
        if left is not None and (needed := survey(paths, task)["characters"]) > left:
            said = f"the job has {needed:,} characters and the account may have {left:,} more translated"
            if task.most_characters is None:
                raise BodaError(f"{said}; --max-characters {left} does so many and stops")
    began, memory = time.monotonic(), Memory(task.memory, folder.id)
    run = _Run(task, folder, memory)
    try:
        with run.asking.heeding():
            run.work()
    except BaseException:
        clear_line()
        run.asking.last_replies()
        raise
    finally:
        run.close()
        with suppress(BodaError):
            memory.close()
        finished = folder.close(task.engine.price)
    shards, spent = {name: folder.done(name) for name in inputs}, folder.total_spent()
    costs = {**{name: spent[name] for name in COSTS}, "dollars": task.engine.price_of(spent["characters"])}
    speed = {"seconds": (seconds := time.monotonic() - began), "rows_a_second": run.rows / seconds}
    left_over = [name for name, facts in shards.items() if facts is None]
    return {"out": str(out), "finished": finished, "shards": len(shards), "open": left_over, **totals(shards), **costs, **speed}


def survey(paths: Sequence[str | Path], task: Task) -> dict[str, Any]:
    """What a job would be: rows, units, different ones, those that the memory lacks, their characters and price. Asks nobody anything.

    Takes some 100 bytes of memory for each different unit.
    """
    counts, seen = Counter[str](), set[bytes]()
    with closing(Memory(task.memory)) as memory:
        for path in inputs_of(paths).values():
            for record, parts in _read(open_shard(path), task):
                counts["rows"] += record.value is not None
                counts["bad_rows"] += isinstance(record.value, BadRow)
                counts["units"] += sum(len(part.units) for part in parts)
                new = {unit.key: unit for part in parts for unit in part.units if unit.key and unit.key not in seen}
                seen.update(new)
                for key in new.keys() - memory.find(list(new)).keys():
                    counts["to_ask"] += 1
                    counts["characters"] += billed(new[key].protected)
    found = {name: counts[name] for name in ("rows", "bad_rows", "units", "to_ask", "characters")}
    return {**found, "distinct": len(seen), "dollars": task.engine.price_of(counts["characters"])}


def _read(shard: Shard, task: Task) -> Iterator[tuple[Record, list[_Part]]]:
    """The records of a shard with the strings to translate; of no more rows than the limit."""
    fields, rows, is_first = task.fields, 0, True
    unit = _remembering(partial(_unit, task.engine, task.engine.identity))
    if names := shard.names():
        shard.fields = fields = fields or fields_for(dict.fromkeys(names), str(shard.path), task.format)[1]
    with damaged(shard.path):
        for record in shard.records():
            parts: list[_Part] = []
            rows += record.value is not None
            if task.limit is not None and rows > task.limit:
                return
            if isinstance(record.value, dict):
                if is_first and not fields:
                    fields = fields_for(record.value, str(shard.path), task.format or shard.format)[1]
                elif is_first and not any({name, re.split(r"[.\[]", name)[0]} & record.value.keys() for name in fields):
                    has = ", ".join(map(str, names or record.value))
                    raise BodaError(f"{shard.path} has none of the fields {', '.join(fields)}; its rows have {has}")
                is_first = False
                for slot in find(record.value, fields):
                    text = Text(slot.text)
                    if text.places and _NO_TEXT.search(slot.text):
                        why = "parts written as JSON text, or bytes that are no UTF-8, cannot be translated in place"
                        record.value, parts = BadRow(str(shard.path), record.number, slot.where, why), []
                        break
                    if text.places:
                        parts.append(_Part(slot, text, list(map(unit, text.units))))
            yield record, parts


def _unit(engine: Engine, identity: str, line: str) -> _Unit:
    """What the engine gets of a line is what the memory knows it by: lines that differ in their numbers alone are one to both."""
    protected = protect(line, engine.placeholder, engine.glossary)
    return _Unit(protected, b"" if protected.is_fixed else Memory.key(identity, protected.text))


def _remembering(function: Callable[..., Any]) -> Callable[..., Any]:
    """Does the same for the same texts only once, if these are short: long ones seldom come again, and would fill memory."""
    kept = lru_cache(REMEMBERED)(function)
    return lambda *texts: (kept if len(texts[0]) < SHORT else function)(*texts)


class _Run:
    """One process's share of a job."""

    def __init__(self, task: Task, folder: JobFolder, memory: Memory):
        self.task, self.folder = task, folder
        self.asking = Asking(task.engine, memory, folder, task.budget, task.most_characters)
        self.check: Callable[[str, str], tuple[str, str] | None] = _remembering(
            lambda text, new: check_pair(Pair(text, new), task.checked, task.checks)
        )
        self.window: deque[_Row] = deque()
        self.open: list[_Output] = []
        self.size = self.rows = self.bytes = 0
        self.rejected = Counter[str]()
        total = sum(path.stat().st_size for name, path in folder.inputs.items() if not folder.done(name))
        self.progress = Progress(self._line, total, quiet=task.quiet)

    def _line(self, progress: Progress) -> str:
        spent, engine = self.folder.total_spent()["characters"], self.task.engine
        speed = self.rows / max(time.monotonic() - progress.began, 1e-9)
        said = f"{self.rows:,} rows, {self.rejected.total():,} refused  {speed:,.0f}/s  {progress.left}  {spent:,} characters"
        return said + (f", ${engine.price_of(spent):,.2f}" if engine.price else "")

    def work(self) -> None:
        """Until no shard is free and all rows are written."""
        rows, exhausted = self._read_on(), False
        while not exhausted or self.window:
            while not exhausted and len(self.window) < WINDOW and self.size < WINDOW_CHARACTERS and not self.asking.has_enough:
                some = list(islice(rows, 64))
                exhausted = not some
                self.window.extend(some)
                self.size += sum(row.size for row in some)
                units = [{unit.key: unit.protected for part in row.parts for unit in part.units if unit.key} for row in some]
                self.asking.want(list(zip(some, units)))
                self.asking.turn(False)
            while self.window and not self.window[0].missing:
                row = self.window.popleft()
                self.size -= row.size
                self._write(row)
            self.asking.turn(True)

    def _read_on(self) -> Iterator[_Row]:
        """The rows of all shards that are free, each shard with an end."""
        for name, path in self.folder.inputs.items():
            size = path.stat().st_size
            if self.folder.done(name):
                continue
            if not self.folder.claim(name):
                self.progress.total -= size
                continue
            output = _Output(name, open_shard(path), size)
            for record, parts in _read(output.shard, self.task):
                yield _Row(output=output, record=record, parts=parts, size=record.size)
            yield _Row(output=output)

    def _write(self, row: _Row) -> None:
        """The next row, translated, or refused with the reason; behind the last one of a shard its end."""
        output, record = row.output, row.record
        with writing(self.folder.path / "data" / output.name):
            if output not in self.open:
                self.open.append(output)
                output.start(self.folder.path)
            if record is None:
                self.folder.finish(output.name, output.finish())
                self.open.remove(output)
                self.bytes += output.size
            elif record.value is None:
                output.shard.put(record, [])
            else:
                changes, refusal = self._changes(row)
                output.shard.put(record, None if refusal else changes)
                if refusal:
                    for counts in (output.rejected, self.rejected):
                        counts[refusal["filter"]] += 1
                    output.rejects.write(as_lines([{"row": record.number, **refusal}]))
                output.counts.update(rows=1, kept=not refusal, units=sum(len(part.units) for part in row.parts))
                self.rows += 1
                self.progress.update(int(self.bytes + output.size * record.end))
                if self.rows == FIRST_ROWS and not self.task.keep_going:
                    self._look_at_first()

    def _look_at_first(self) -> None:
        if (number := self.rejected.total()) > MOST_REJECTED * FIRST_ROWS:
            most = ", ".join(f"{kind}: {count}" for kind, count in self.rejected.most_common(3))
            said = f"{number} of the first {FIRST_ROWS} rows were refused ({most})"
            raise BodaError(
                f"{said}: source language, model or prompt may be the wrong one; --keep-going translates the rest, too"
            )

    def _changes(self, row: _Row) -> tuple[list[tuple[Slot, str]], dict | None]:
        """The row's new strings, and why it is refused, if it is."""
        record, changes = row.record, []
        assert record
        if isinstance(record.value, BadRow):
            return [], _refusal(record.value.field, "row", record.value.why)
        for slot, text, units in row.parts:
            lines = []
            for line, (protected, key) in zip(text.units, units):
                if key and (error := row.entries[key].error):
                    kind, _, why = error.partition(": ")
                    return [], _refusal(slot.where, kind, why, line)
                lines.append(protected.restore(row.entries[key].text if key else protected.text))
            new = tidied(text.filled(lines), self.task.checked)
            if found := self.check(str(slot.text), new):
                return [], _refusal(slot.where, *found, slot.text, new)
            changes.append((slot, new))
        return changes, None

    def close(self) -> None:
        """Threads and half-written shards go."""
        self.asking.close()
        for output in self.open:
            output.give_up()


def _refusal(where: str, kind: str, reason: str, source: str = "", translation: str = "") -> dict[str, str]:
    return {"field": where, "filter": kind, "reason": reason, "source": source, "translation": translation}
