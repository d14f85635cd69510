"""Translating data files in place: rows are read, their sentences asked for once, and rows written in the order they came.

A job can be killed at any moment and run by several processes at once: what is written does not depend on it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import boda
from boda.data.files import matching
from boda.data.translate.engines import Engine, EngineGone, Reply
from boda.data.translate.fields import Slot, Text, fields_for, find
from boda.data.translate.filters import PRESETS, Pair, check_pair, without_emoji
from boda.data.translate.folder import COSTS, JobFolder, totals
from boda.data.translate.memory import Entry, Memory
from boda.data.translate.protect import Mangled, Protected, protect
from boda.data.translate.shards import SHARDS, Record, Shard, open_shard
from boda.errors import WHY, BadRow, BodaError, explaining
from boda.files import as_lines, whole_file, writing
from boda.terminal import Progress, clear_line

WINDOW = 8192  # rows that are read before the first of them must be finished
WINDOW_CHARACTERS = 1 << 26  # ... and what they may hold
TRIES = 2  # of a sentence whose translation could not be had or used
FIRST_ROWS, MOST_REJECTED = 200, 0.5  # of the first rows: more, and the settings are probably wrong
LAST_REPLIES = 15.0  # seconds for what is under way when a job stops


@dataclass
class Task:
    """What a job is to do, all but where. `fields` are paths such as `conversations[].value`; none: told from the rows. `filters` is one
    of PRESETS, `limits` what differs from its limits.

    `limit`: only the first rows of each file. `budget`: US dollars, `most_characters`: billed ones, that the job may cost in all.
    """

    engine: Engine
    format: str | None = None
    fields: Sequence[str] = ()
    filters: str = "boda"
    limits: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    memory: str | Path | None = None
    budget: float | None = None
    most_characters: int | None = None
    keep_going: bool = False
    licence: str = ""
    quiet: bool = True

    def __post_init__(self):
        if self.filters not in PRESETS:
            raise BodaError(f"no filters '{self.filters}'; there are {', '.join(PRESETS)}")
        self.checks, limits = PRESETS[self.filters]
        with explaining(f"filters: {WHY}; there are {', '.join(dataclasses.asdict(limits))}", TypeError):
            self.checked = dataclasses.replace(limits, **self.limits)

    def settings(self) -> dict[str, Any]:
        """What the output depends on."""
        engine = self.engine
        said = {name: _short(value) for name, value in engine.settings().items()}
        asked: dict[str, Any] = {"format": self.format, "fields": list(self.fields), "limit": self.limit}
        asked |= {"filters": {name: dataclasses.asdict(self.checked) for name in [self.filters]}}
        glossary = engine.glossary.identity if engine.glossary else ""  # type: ignore[union-attr]
        told = {"engine": engine.name, "model": engine.model, "source_language": engine.source_language, "glossary": glossary}
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
            suffixes = (*SHARDS, *(f"{suffix}.gz" for suffix in SHARDS))
            files = sorted(each for each in path.iterdir() if each.name.lower().endswith(suffixes) and each.is_file())
        if not files:
            raise BodaError(f"no data files at {path}; {', '.join(SHARDS)} are translated, text also as .gz")
        for each in files:
            if found.setdefault(each.name, each) != each:
                raise BodaError(
                    f"two inputs are called {each.name} ({found[each.name]} and {each}); translate them in two jobs"
                )
    return found


@dataclass
class _Unit:
    """A sentence that is asked for."""

    key: bytes
    text: str
    protected: Protected
    tries: int = 0


@dataclass
class _Output:
    """A shard that is being written."""

    name: str
    shard: Shard
    done: ExitStack = field(default_factory=ExitStack)
    counts: Counter = field(default_factory=Counter)
    rejected: Counter = field(default_factory=Counter)
    rejects: Any = None
    partial: Path = Path()
    size: int = 0  # bytes of what is read


@dataclass
class _Row:
    """A row on its way; `record` is None behind the last one of a shard."""

    output: _Output
    record: Record | None = None
    slots: list[tuple[Slot, Text]] = field(default_factory=list)
    entries: dict[str, Entry | None] = field(default_factory=dict)  # by unit
    missing: int = 0
    size: int = 0


def translate(paths: Sequence[str | Path], out: str | Path, task: Task) -> dict[str, Any]:
    """Works on the job in folder `out` until no shard is free; returns its counts and costs, `finished` if all shards are done.

    Raises EngineGone, or BodaError: the budget is used up, rows that cannot be translated, another job's folder, a full disk.
    What is paid for is kept, and the same call goes on.
    """
    inputs = inputs_of(paths)
    about = {"boda": boda.__version__, "licence": task.licence}
    folder = JobFolder(out, task.settings(), inputs, about)
    if not all(map(folder.done, inputs)):
        task.engine.stop.clear()
        task.engine.check()
        left = task.engine.left()
        if left is not None and (needed := survey(paths, task)["characters"]) > left:
            raise BodaError(
                f"the job has {needed:,} characters and the account may have {left:,} more translated; --max-characters {left} does so many"
            )
    began = time.monotonic()
    memory = Memory(task.memory, folder.id)
    run = _Run(task, folder, memory)
    try:
        run.work()
    except BaseException:
        clear_line()
        run.last_replies()
        raise
    finally:
        run.end()
        with suppress(BodaError):
            memory.close()
        finished = folder.close(task.engine.price)
    shards = {name: folder.done(name) for name in inputs}
    spent = folder.total_spent()
    costs = {**{name: spent[name] for name in COSTS}, "dollars": task.engine.price_of(spent["characters"])}
    speed = {"seconds": (seconds := time.monotonic() - began), "rows_a_second": run.rows / max(seconds, 1e-9)}
    left_over = [name for name, facts in shards.items() if facts is None]
    return {"out": str(out), "finished": finished, "shards": len(shards), "open": left_over, **totals(shards), **costs, **speed}


def survey(paths: Sequence[str | Path], task: Task) -> dict[str, Any]:
    """What a job would be: rows, units, distinct units that the memory lacks, their characters and price. Asks nobody anything.

    Takes some 100 bytes of memory for a distinct unit.
    """
    counts, seen = Counter[str](), set[bytes]()
    memory, identity, engine = Memory(task.memory), task.engine.identity, task.engine
    try:
        for path in inputs_of(paths).values():
            for record, slots in _read(open_shard(path), task):
                counts["rows"] += record.value is not None
                counts["bad_rows"] += isinstance(record.value, BadRow)
                units = [unit for _, text in slots for unit in text.units]
                counts["units"] += len(units)
                new = {key: unit for unit in units if (key := Memory.key(identity, unit)) not in seen}
                seen.update(new)
                counts["distinct"] += len(new)
                known = memory.find(list(new))
                for key, unit in new.items():
                    protected = None if key in known else protect(unit, engine.placeholder, engine.glossary)  # type: ignore[arg-type]
                    if protected and not protected.is_fixed:
                        counts["to_ask"] += 1
                        counts["characters"] += len(protected.text)
    finally:
        memory.close()
    names = ("rows", "bad_rows", "units", "distinct", "to_ask", "characters")
    return {**{name: counts[name] for name in names}, "dollars": engine.price_of(counts["characters"])}


def _read(shard: Shard, task: Task) -> Iterator[tuple[Record, list[tuple[Slot, Text]]]]:
    """The records of a shard with the strings to translate; of no more rows than the limit."""
    fields, rows, is_first = task.fields, 0, True
    if names := shard.names():
        shard.fields = fields = fields or fields_for(dict.fromkeys(names), str(shard.path), task.format)[1]
    for record in shard.records():
        slots = []
        if record.value is not None:
            if rows == task.limit:
                return
            rows += 1
        if isinstance(record.value, dict):
            if is_first:
                is_first = False
                if not fields:
                    fields = fields_for(record.value, str(shard.path), task.format or shard.format)[1]
                elif not any(re.split(r"[.\[]", name)[0] in record.value or name in record.value for name in fields):
                    has = ", ".join(map(str, record.value))
                    raise BodaError(f"{shard.path} has none of the fields {', '.join(fields)}; its rows have {has}")
            found = [(slot, Text(slot.text)) for slot in find(record.value, fields)]
            slots = [pair for pair in found if pair[1].places]
            if bad := next((slot for slot, _ in slots if not _is_text(slot.text)), None):
                why = "parts written as JSON text, or bytes that are no UTF-8, cannot be translated in place"
                record.value, slots = BadRow(str(shard.path), record.number, bad.where, why), []
        yield record, slots


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return not (text.startswith("[{") and '"type"' in text)


class _Run:
    """One process's share of a job: one thread reads, keeps and writes, others wait for the engine."""

    def __init__(self, task: Task, folder: JobFolder, memory: Memory):
        self.task, self.engine, self.folder, self.memory = task, task.engine, folder, memory
        self.identity = self.engine.identity
        self.window: deque[_Row] = deque()
        self.size = self.rows = self.rejected = 0
        self.waiters: dict[bytes, list[tuple[_Row, str]]] = {}
        self.others: set[bytes] = set()  # what other processes have taken on
        self.pending: deque[_Unit] = deque()
        self.flying = self.flying_characters = 0
        self.jobs: SimpleQueue = SimpleQueue()
        self.replies: SimpleQueue = SimpleQueue()
        self.stopped: BodaError | None = None
        self.open: list[_Output] = []
        total = sum(path.stat().st_size for name, path in folder.inputs.items() if not folder.done(name))
        self.progress, self.bytes, self.polled = Progress(self._line, total, quiet=task.quiet), 0.0, 0.0
        # Daemons: Ctrl-C does not wait for a server.
        for _ in range(self.engine.concurrency):
            threading.Thread(target=self._ask, daemon=True).start()

    def _line(self, progress: Progress) -> str:
        spent = self.folder.total_spent()
        dollars = f", ${self.engine.price_of(spent['characters']):,.2f}" if self.engine.price else ""
        speed = self.rows / max(time.monotonic() - progress.began, 1e-9)
        said = f"{self.rows:,} rows, {self.rejected:,} refused  {speed:,.0f}/s  {progress.left}"
        return f"{said}  {spent['characters']:,} characters{dollars}"

    def work(self) -> None:
        """Until no shard is free and all rows are written."""
        rows, exhausted = self._rows(), False
        ahead = max(256, 4 * self.engine.concurrency * self.engine.texts_a_request)
        while not exhausted or self.window:
            while not exhausted and len(self.window) < WINDOW and self.size < WINDOW_CHARACTERS and len(self.pending) < ahead:
                some = list(islice(rows, 64))
                exhausted = not some
                self._register(some)
            self._send()
            while self.window and not self.window[0].missing:
                row = self.window.popleft()
                self.size -= row.size
                self._write(row)
            self._receive(0.05 if self.flying or self.others else 0.0)
            if self.stopped and not self.flying:
                raise self.stopped

    def _rows(self) -> Iterator[_Row]:
        """The rows of all shards that are free, each shard with an end."""
        for name, path in self.folder.inputs.items():
            if self.folder.done(name):
                continue
            if not self.folder.claim(name):
                self.progress.total -= path.stat().st_size
                continue
            output = _Output(name, open_shard(path), size=path.stat().st_size)
            for record, slots in _read(output.shard, self.task):
                yield _Row(output, record, slots, size=len(record.raw) if isinstance(record.raw, str) else 1000)
            yield _Row(output)

    def _register(self, rows: Sequence[_Row]) -> None:
        """The rows wait for their units' translations, each asked for once."""
        new: dict[bytes, str] = {}
        for row in rows:
            self.window.append(row)
            self.size += row.size
            for unit in dict.fromkeys(unit for _, text in row.slots for unit in text.units):
                key = Memory.key(self.identity, unit)
                if key not in self.waiters:
                    new[key], self.waiters[key] = unit, []
                self.waiters[key].append((row, unit))
                row.entries[unit], row.missing = None, row.missing + 1
        self._take(new)

    def _take(self, units: Mapping[bytes, str]) -> None:
        there, ours = self.memory.take(list(units)) if units else ({}, set())
        self._resolve(there)
        fixed: dict[bytes, Entry] = {}
        for key in (key for key in units if key in ours):  # in the order of the rows
            glossary: Any = self.engine.glossary
            protected = protect(units[key], self.engine.placeholder, glossary)
            if protected.is_fixed:
                fixed[key] = Entry(protected.restore(protected.text))
            else:
                self.pending.append(_Unit(key, units[key], protected))
        if fixed:
            self._resolve(self.memory.put(fixed))
        self.others = (self.others | (units.keys() - there.keys())) - ours - there.keys()

    def _resolve(self, entries: Mapping[bytes, Entry]) -> None:
        for key, entry in entries.items():
            for row, unit in self.waiters.pop(key, ()):
                row.entries[unit], row.missing = entry, row.missing - 1

    def _send(self) -> None:
        """Keeps the threads busy, as far as the budget goes."""
        while self.pending and not self.stopped and self.flying < 2 * self.engine.concurrency:
            batch: list[_Unit] = []
            size = 0
            while self.pending and len(batch) < self.engine.texts_a_request:
                size += len(self.pending[0].protected.text)
                if batch and size > self.engine.characters_a_request:
                    size -= len(self.pending[0].protected.text)
                    break
                batch.append(self.pending.popleft())
            if self._is_too_much(size):
                self.pending.extendleft(reversed(batch))
                return
            self.flying += 1
            self.flying_characters += size
            self.jobs.put((batch, size))

    def _is_too_much(self, size: int) -> bool:
        """Whether so many more characters are beyond the budget, which then stops the job."""
        characters = self.folder.total_spent()["characters"] + self.flying_characters + size
        dollars, most = self.task.budget, self.task.most_characters
        if dollars is not None and self.engine.price_of(characters) > dollars:
            self.stopped = BodaError(
                f"the budget of ${dollars:,.2f} is used up; the same command with a larger --budget goes on"
            )
        elif most is not None and characters > most:
            self.stopped = BodaError(
                f"{most:,} characters are used up; the same command with a larger --max-characters goes on"
            )
        return self.stopped is not None

    def _ask(self) -> None:
        """What a thread does."""
        for batch, size in iter(self.jobs.get, None):
            try:
                replies: Any = self.engine.translate([unit.protected.text for unit in batch])
                assert len(replies) == len(batch), "an engine gives a reply for each text"
            except BaseException as error:  # told where it can be, in the main thread
                replies = error
            self.replies.put((batch, size, replies))

    def _receive(self, timeout: float) -> None:
        """Keeps all replies that have come, and looks after what other processes have taken on."""
        arrived: dict[bytes, Entry] = {}
        failure: BaseException | None = None
        with suppress(Empty):
            while True:
                batch, size, replies = self.replies.get(timeout=timeout) if timeout else self.replies.get_nowait()
                timeout, self.flying, self.flying_characters = 0.0, self.flying - 1, self.flying_characters - size
                if isinstance(replies, BaseException):
                    failure = replies
                    continue
                self.folder.spent["requests"] += 1
                for unit, reply in zip(batch, replies):
                    if entry := self._entry(unit, reply):
                        arrived[unit.key] = entry
        if arrived:
            self._resolve(self.memory.put(arrived))
        self.memory.beat()
        self.folder.beat()
        if failure:
            raise failure
        if self.others and time.monotonic() - self.polled > 0.1:
            self.polled = time.monotonic()
            self._take({key: self.waiters[key][0][1] for key in self.others})

    def _entry(self, unit: _Unit, reply: Reply) -> Entry | None:
        """What is kept of a reply; None: it is asked for again."""
        self.folder.spent.update(characters=reply.characters, tokens=reply.tokens)
        error = f"engine: {reply.error}" if reply.error else ""
        if not error:
            try:
                return Entry(unit.protected.restore(reply.text))
            except Mangled as mangled:
                error = f"protection: {mangled}"
        unit.tries += 1
        if unit.tries < TRIES:
            self.pending.appendleft(unit)
            return None
        return Entry(error=error)

    def _write(self, row: _Row) -> None:
        """The next row, translated, or refused with the reason; behind the last one of a shard its end."""
        output, record = row.output, row.record
        path = self.folder.path / "data" / output.name
        with writing(path):
            if output not in self.open:
                self.open.append(output)
                listed = self.folder.path / "rejects" / f"{output.name}.jsonl"
                output.partial = output.done.enter_context(whole_file(path, is_shared=True))
                rejects = output.done.enter_context(whole_file(listed, is_shared=True))
                output.rejects = output.done.enter_context(rejects.open("w", encoding="utf-8", errors="backslashreplace"))
                output.shard.start(output.partial)
            if record is None:
                self._end_shard(output)
                return
            if record.value is None:
                output.shard.put(record, [])
                return
            changes, refusal = self._changes(row)
            output.shard.put(record, None if refusal else changes)
            if refusal:
                output.rejected[refusal["filter"]] += 1
                output.rejects.write(as_lines([{"row": record.number, **refusal}]))
        output.counts.update(rows=1, kept=not refusal, units=sum(len(text.places) for _, text in row.slots))
        self.rows, self.rejected = self.rows + 1, self.rejected + bool(refusal)
        self.progress.update(int(self.bytes + output.size * record.end))
        if self.rows == FIRST_ROWS and self.rejected > MOST_REJECTED * FIRST_ROWS and not self.task.keep_going:
            raise self._too_many(output)

    def _changes(self, row: _Row) -> tuple[list[tuple[Slot, str]], dict | None]:
        """The row's new strings, and why it is refused, if it is."""
        record, changes = row.record, []
        assert record
        if isinstance(record.value, BadRow):
            said = {"field": record.value.field, "filter": "row", "reason": record.value.why, "source": "", "translation": ""}
            return [], said
        for slot, text in row.slots:
            failed = next((unit for unit in text.units if row.entries[unit].error), None)  # type: ignore[union-attr]
            if failed is not None:
                kind, _, why = row.entries[failed].error.partition(": ")  # type: ignore[union-attr]
                return [], {"field": slot.where, "filter": kind, "reason": why, "source": failed, "translation": ""}
            new = text.filled({unit: entry.text for unit, entry in row.entries.items() if entry})
            new = without_emoji(new) if self.task.checked.emoji == "drop" else new
            if found := check_pair(Pair(str(slot.text), new), self.task.checked, self.task.checks):
                said = {"field": slot.where, "filter": found[0], "reason": found[1], "source": slot.text, "translation": new}
                return [], said
            changes.append((slot, new))
        return changes, None

    def _end_shard(self, output: _Output) -> None:
        output.shard.finish()
        facts: dict[str, Any] = {name: output.counts[name] for name in ("rows", "kept", "units")}
        source = self.folder.inputs[output.name]
        facts |= {"rejected": dict(sorted(output.rejected.items())), "bytes": output.partial.stat().st_size}
        for name, path in (("sha256", output.partial), ("input_sha256", source)):
            with path.open("rb") as stream:
                facts[name] = hashlib.file_digest(stream, "sha256").hexdigest()
        output.done.close()
        self.open.remove(output)
        self.folder.finish(output.name, facts)
        self.bytes += output.size

    def _too_many(self, output: _Output) -> BodaError:
        counts = sum((each.rejected for each in self.open), Counter()) or output.rejected
        kind, number = counts.most_common(1)[0]
        said = f"{self.rejected} of the first {FIRST_ROWS} rows were refused, {number} of them by '{kind}'"
        return BodaError(
            f"{said}: source language, model or prompt may be the wrong one; --keep-going translates the rest, too"
        )

    def last_replies(self) -> None:
        """What is under way and paid for is still kept, as far as it comes soon."""
        self.stopped, self.others = self.stopped or EngineGone("stopped"), set()
        self.engine.stop.set()
        with suppress(BodaError, KeyboardInterrupt):
            while not self.jobs.empty():  # what no thread has begun
                with suppress(Empty):
                    self.jobs.get_nowait()
                    self.flying -= 1
            until = time.monotonic() + LAST_REPLIES
            while self.flying > 0 and time.monotonic() < until:
                with suppress(EngineGone):
                    self._receive(0.1)

    def end(self) -> None:
        """Threads and half-written shards go."""
        for _ in range(self.engine.concurrency):
            self.jobs.put(None)
        for output in self.open:
            with suppress(Exception):
                output.shard.finish()
            output.done.__exit__(BodaError, BodaError("stopped"), None)
