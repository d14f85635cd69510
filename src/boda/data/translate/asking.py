"""Sentences and the engine: each is asked for once, many at a time, within a budget, and kept the moment it comes."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from boda.data.translate.engines import Engine, EngineGone, Reply
from boda.data.translate.folder import JobFolder
from boda.data.translate.memory import Entry, Memory
from boda.data.translate.protect import Mangled, Protected
from boda.errors import BodaError

TRIES = 2  # of a sentence whose translation could not be had or used
LAST_REPLIES = 15.0  # seconds for what is under way when a job stops
_POLL = 0.1  # seconds between two looks at what other processes are translating


@dataclass(eq=False)
class Waiting:
    """Who waits for translations: what has come so far, by key, and how many have not."""

    entries: dict[bytes, Entry] = field(default_factory=dict)
    missing: int = 0


@dataclass
class _Unit:
    """A sentence that is asked for."""

    key: bytes
    protected: Protected
    tries: int = 0


def billed(protected: Protected) -> int:
    """Characters of a sentence that an engine bills: placeholders that are markup are none."""
    marks = protected.kept if protected.placeholder.startswith("<") else ()
    return len(protected.text) - sum(len(protected.placeholder.format(number)) for number, _ in enumerate(marks))


class Asking:
    """Belongs to one thread, which says what it wants and looks after the replies; others wait for the engine.

    `budget` is in US dollars, `most_characters` in billed ones: of the whole job, whose costs `folder` counts.
    """

    def __init__(
        self, engine: Engine, memory: Memory, folder: JobFolder, budget: float | None = None, most_characters: int | None = None
    ):
        self.engine, self.memory, self.folder = engine, memory, folder
        self.budget, self.most_characters = budget, most_characters
        self.waiters: dict[bytes, list[Waiting]] = {}
        self.others: dict[bytes, Protected] = {}  # what other processes have taken on
        self.pending: deque[_Unit] = deque()
        self.flying = self.flying_characters = 0
        self.stopped: BodaError | None = None
        self.interrupted = False
        self._polled, self._came = 0.0, dict[bytes, Entry]()  # what is not in the memory yet
        self._jobs: SimpleQueue = SimpleQueue()
        self._replies: SimpleQueue = SimpleQueue()
        # Daemons: Ctrl-C does not wait for a server.
        for _ in range(engine.concurrency):
            threading.Thread(target=self._work, daemon=True).start()

    @property
    def has_enough(self) -> bool:
        """Whether there is plenty to ask for."""
        return len(self.pending) >= max(64, 4 * self.engine.concurrency * self.engine.texts_a_request)

    def want(self, wanted: Sequence[tuple[Waiting, Mapping[bytes, Protected]]]) -> None:
        """Translations that somebody waits for from now on."""
        new: dict[bytes, Protected] = {}
        for who, units in wanted:
            who.missing += len(units)
            for key, protected in units.items():
                if key not in self.waiters:
                    new[key], self.waiters[key] = protected, []
                self.waiters[key].append(who)
        if new:
            self._take(new)

    def _take(self, units: Mapping[bytes, Protected]) -> None:
        there, ours = self.memory.take(list(units))
        self._arrived(there)
        self.pending.extend(_Unit(key, protected) for key, protected in units.items() if key in ours)
        self.others |= {key: protected for key, protected in units.items() if key not in there and key not in ours}

    def _arrived(self, entries: Mapping[bytes, Entry]) -> None:
        for key, entry in entries.items():
            self.others.pop(key, None)
            for who in self.waiters.pop(key, ()):
                who.entries[key] = entry
                who.missing -= 1

    def turn(self, is_idle: bool) -> None:
        """Keeps the threads busy and the replies that have come; waits a little for some if there is nothing else to do.

        Raises EngineGone; BodaError: the budget is used up; KeyboardInterrupt, if `heeding` has noted one.
        """
        self._send()
        self._receive(0.05 if is_idle and (self.flying or self.others) else 0.0)
        if self.others and time.monotonic() - self._polled > _POLL:
            self._polled = time.monotonic()
            waited, self.others = self.others, {}
            self._take(waited)  # done by now, or its taker is gone and it is ours
        if self.stopped and not self.flying:
            raise self.stopped
        if self.interrupted:
            raise KeyboardInterrupt

    @contextmanager
    def heeding(self) -> Iterator[None]:
        """Ctrl-C counts where nothing is lost by it, between two turns; a second one at once."""

        def note(*_) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True

        is_main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGINT, note) if is_main else None
        try:
            yield
        finally:
            if is_main:
                signal.signal(signal.SIGINT, before)

    def _send(self) -> None:
        while self.pending and not self.stopped and self.flying < 2 * self.engine.concurrency:
            batch: list[_Unit] = []
            size = 0
            while self.pending and len(batch) < self.engine.texts_a_request:
                length = billed(self.pending[0].protected)
                if batch and size + length > self.engine.characters_a_request:
                    break
                batch.append(self.pending.popleft())
                size += length
            if self._is_too_much(size):
                self.pending.extendleft(reversed(batch))
                return
            self.flying += 1
            self.flying_characters += size
            self._jobs.put((batch, size))

    def _is_too_much(self, size: int) -> bool:
        """Whether so many more characters are beyond the budget, which then stops the job."""
        characters = self.folder.total_spent()["characters"] + self.flying_characters + size
        if self.budget is not None and self.engine.price_of(characters) > self.budget:
            said = f"the budget of ${self.budget:,.2f} is used up"
            self.stopped = BodaError(f"{said}; the same command with a larger --budget goes on")
        elif self.most_characters is not None and characters > self.most_characters:
            said = f"the {self.most_characters:,} characters are used up"
            self.stopped = BodaError(f"{said}; the same command with a larger --max-characters goes on")
        return self.stopped is not None

    def _work(self) -> None:
        """What a thread does."""
        for batch, size in iter(self._jobs.get, None):
            try:
                replies: Any = self.engine.translate([unit.protected.text for unit in batch])
                assert len(replies) == len(batch), "an engine gives a reply for each text"
            except BaseException as error:  # told where it can be, in the thread that asks
                replies = error
            self._replies.put((batch, size, replies))

    def _receive(self, timeout: float) -> None:
        """Keeps all replies that have come."""
        failure: BaseException | None = None
        with suppress(Empty):
            while True:
                batch, size, replies = self._replies.get(timeout=timeout) if timeout else self._replies.get_nowait()
                timeout, self.flying, self.flying_characters = 0.0, self.flying - 1, self.flying_characters - size
                if isinstance(replies, BaseException):
                    failure = failure or replies
                    continue
                self.folder.spent["requests"] += 1
                for unit, reply in zip(batch, replies):
                    if entry := self._entry(unit, reply):
                        self._came[unit.key] = entry
        if self._came:
            kept = self.memory.put(self._came)
            self._came = {}
            self._arrived(kept)
        self.memory.beat()
        self.folder.beat()
        if failure:
            raise failure

    def _entry(self, unit: _Unit, reply: Reply) -> Entry | None:
        """What is kept of a reply; None: it is asked for again."""
        self.folder.spent.update(characters=reply.characters, tokens=reply.tokens)
        error = f"engine: {reply.error}" if reply.error else ""
        if not error:
            try:
                unit.protected.restore(reply.text)
                return Entry(reply.text)
            except Mangled as mangled:
                error = f"protection: {mangled}"
        unit.tries += 1
        if unit.tries < TRIES:
            self.pending.appendleft(unit)
            return None
        return Entry(error=error)

    def last_replies(self) -> None:
        """The job stops: what is under way and paid for is still kept, as far as it comes soon."""
        self.engine.stop.set()
        with suppress(BodaError, KeyboardInterrupt):
            with suppress(Empty):
                while True:  # what no thread has begun
                    self._jobs.get_nowait()
                    self.flying -= 1
            until = time.monotonic() + LAST_REPLIES
            while (self.flying > 0 or self._came) and time.monotonic() < until:
                with suppress(EngineGone):
                    self._receive(0.1)

    def close(self) -> None:
        """The threads go."""
        for _ in range(self.engine.concurrency):
            self._jobs.put(None)
