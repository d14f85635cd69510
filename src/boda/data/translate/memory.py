"""What has been translated is paid for once: a file of translations that jobs and processes share, and who is at work on what."""

from __future__ import annotations

import hashlib
import os
import socket
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from boda.errors import WHY, BodaError, explaining
from boda.files import GO_ON, cache_folder

LEASE = 60.0  # seconds without a sign of life after which what a process had taken on is free
_BEAT = 5.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS owners (id INTEGER PRIMARY KEY AUTOINCREMENT, host TEXT, pid INTEGER, seen REAL);
CREATE TABLE IF NOT EXISTS units (key BLOB PRIMARY KEY, text TEXT, error TEXT, job TEXT, owner INTEGER) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Entry:
    """A translation, with placeholders as the engine gave it; or why this job has none."""

    text: str = ""
    error: str = ""


class Memory:
    """Translations by key; a key that nobody has is taken by whoever asks first, until it is put or its taker is gone.

    A taker is gone when its process is, or has given no sign of life for LEASE. For one thread, and for the processes of one machine.
    Raises BodaError where the file cannot be used.
    """

    def __init__(self, path: str | Path | None = None, job: str = ""):
        self.path, self.job, self._beaten = Path(path or cache_folder() / "translations" / "memory.sqlite"), job, 0.0
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            # A killed process loses nothing that it has written; a machine without power may lose the last moments.
            self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;" + _SCHEMA)
            self._db.execute("DELETE FROM owners WHERE seen < ?", (time.time() - 1000 * LEASE,))
            said = "SELECT host FROM owners WHERE host != ? AND seen > ?"
            other = self._db.execute(said, (socket.gethostname(), time.time() - LEASE)).fetchone()
            if other:  # what one machine writes another one does not see in time
                raise BodaError(
                    f"the translation memory {self.path} is in use by {other[0]}; --memory names one of this machine's own"
                )
            said = "INSERT INTO owners (host, pid, seen) VALUES (?, ?, ?)"
            self.owner = self._db.execute(said, (socket.gethostname(), os.getpid(), time.time())).lastrowid

    @staticmethod
    def key(identity: str, text: str) -> bytes:
        """What a text's translation by an engine of this identity is kept under."""
        return hashlib.sha256(f"{identity}\0{text}".encode()).digest()[:16]

    def find(self, keys: Sequence[bytes]) -> dict[bytes, Entry]:
        """What is there of these keys; nothing is taken."""
        with self._explained():
            return {key: entry for key, entry, _ in self._rows(keys) if entry}

    def take(self, keys: Sequence[bytes]) -> tuple[dict[bytes, Entry], set[bytes]]:
        """What is there of these keys, and which of the others are now ours to translate; the rest is others' work."""
        there = self.find(keys)  # most often all: reading waits for nobody
        ours: set[bytes] = set()
        if missing := [key for key in dict.fromkeys(keys) if key not in there]:
            with self._writing():
                rows = list(self._rows(missing))
                there |= {key: entry for key, entry, _ in rows if entry}
                takers = {key: owner for key, entry, owner in rows if not entry}
                others = self._at_work(set(takers.values()))
                ours = {key for key in missing if key not in there and takers.get(key) not in others}
                said = "INSERT OR REPLACE INTO units VALUES (?, NULL, NULL, NULL, ?)"
                self._db.executemany(said, [(key, self.owner) for key in ours])
        return there, ours

    def put(self, entries: Mapping[bytes, Entry]) -> dict[bytes, Entry]:
        """Keeps what came, and gives back what is kept: another process may have been first."""
        with self._writing():
            there = self.find(list(entries))
            new = {key: entry for key, entry in entries.items() if key not in there}
            rows = [(key, entry.text, entry.error or None, self.job if entry.error else None) for key, entry in new.items()]
            self._db.executemany("INSERT OR REPLACE INTO units VALUES (?, ?, ?, ?, NULL)", rows)
        return there | new

    def beat(self) -> None:
        """A sign of life, to be given every few seconds."""
        if time.monotonic() - self._beaten > _BEAT:
            self._beaten = time.monotonic()
            with self._explained():
                self._db.execute("UPDATE owners SET seen = ? WHERE id = ?", (time.time(), self.owner))

    def close(self) -> None:
        """What was taken and not put is free again."""
        with self._explained(), closing(self._db):
            self._db.execute("DELETE FROM owners WHERE id = ?", (self.owner,))

    def _rows(self, keys: Sequence[bytes]) -> Iterator[tuple]:
        """(key, translation or failure, None where one is at work, owner) of what is there; another job's failures are not."""
        for start in range(0, len(keys), 500):
            some = keys[start : start + 500]
            said = f"SELECT key, text, error, owner, job FROM units WHERE key IN ({','.join('?' * len(some))})"
            for key, text, error, owner, job in self._db.execute(said, some):
                if error is None or job == self.job:
                    yield key, None if text is None else Entry(text, error or ""), owner

    def _at_work(self, owners: set[int]) -> set[int]:
        """Those that may still put something: we, and processes that live."""
        known = self._db.execute("SELECT id, host, pid, seen FROM owners").fetchall() if owners else ()
        return {
            id for id, host, pid, seen in known if id == self.owner or (time.time() - seen < LEASE and is_running(host, pid))
        }

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _explained(self) -> explaining:
        said = f"the translation memory {self.path} cannot be used ({WHY}); if the disk is full, {GO_ON}; --memory names another file"
        return explaining(said, sqlite3.Error, OSError)


def is_running(host: str, pid: int) -> bool:
    """Whether the process may still be at work; one of another machine always may."""
    if host != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
