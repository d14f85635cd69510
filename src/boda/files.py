"""Files that are whole or not there: a kill or a full disk leaves nothing that looks finished. And JSON in files."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from boda.errors import WHY, BodaError, explaining

GO_ON = "free some space and run the same command again to go on"


def cache_folder() -> Path:
    """What Boda keeps between runs: BODA_CACHE or ~/.cache/boda."""
    return Path(os.environ.get("BODA_CACHE") or Path.home() / ".cache" / "boda")


@contextmanager
def writing(what: object, advice: str | Callable[[], str] = GO_ON) -> Iterator[None]:
    """Raises BodaError, with what to do, where the disk is full or cannot be written to; every other error goes on."""
    try:
        yield
    except Exception as error:
        why = _problem(error)
        if why is None:
            raise
        raise BodaError(f"could not write {what}: {why}; {advice if isinstance(advice, str) else advice()}") from error


def _problem(error: Exception) -> str | None:
    """Why a file could not be written, None if the error is about something else.

    A full disk comes as OSError from Python, as an error of their own with `(os error N)` from safetensors and tokenizers, and as
    RuntimeError about a position or a stream from torch.save.
    """
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if number := re.search(r"\(os error (\d+)\)", str(error)):
        return os.strerror(int(number[1]))
    if isinstance(error, RuntimeError) and re.search("unexpected pos|PytorchStreamWriter failed|iostream error", str(error)):
        return "the disk took only a part of it"
    return None


@contextmanager
def whole_folder(folder: Path, what: str = "", advice: str | Callable[[], str] = GO_ON) -> Iterator[Path]:
    """A folder to write into that takes its name, and the place of an older one, when the block ends without an error.

    Raises BodaError as `writing` does, of `what` or the folder; an older one is still there.
    """
    partial = folder.with_name(f".{folder.name}.partial")  # a killed process's leftover has the same name and goes first
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with writing(what or folder, advice):
            partial.mkdir(parents=True)
            yield partial
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def whole_file(path: Path, is_shared: bool = False) -> Iterator[Path]:
    """A name to write a file under that becomes `path` when the block ends without an error.

    `is_shared`: other processes, on other machines too, may be writing the same file.
    """
    partial = path.with_name(f".{path.name}.{f'{socket.gethostname()}.{os.getpid()}' if is_shared else 'partial'}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def one_writer(folder: Path, name: object = None) -> Iterator[None]:
    """One process at a time writes into a folder; the lock goes with the process that held it. Raises BodaError: another does."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "writer.lock", "w") as lock:
        with explaining(f"another process is writing to {name or folder}; wait until it has ended", OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def write_json(path: Path, value: Any) -> None:
    """One JSON value, for people to read, too; whole."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path, advice: str = "copy or make it again") -> dict:
    """What a file says; empty where there is none. Raises BodaError, with what to do, if it is no JSON."""
    with explaining(f"{path} is no valid JSON ({WHY}); {advice}", ValueError):
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def as_lines(values: Iterable[Any]) -> str:
    """JSON, a value a line."""
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def write_lines(path: Path, values: Iterable[Any]) -> None:
    """`as_lines`, whole. Raises BodaError as `writing` does."""
    with writing(path), whole_file(path) as partial:
        partial.write_text(as_lines(values), encoding="utf-8")


def append_line(path: Path, value: Any) -> None:
    """One more line. Raises BodaError as `writing` does."""
    with writing(path), path.open("a", encoding="utf-8") as stream:
        stream.write(as_lines([value]))


def read_lines(path: Path) -> Iterator[Any]:
    """What `as_lines` wrote, if it is there; lines that are none are left out, such as the one a killed run was writing."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""  # it may end within a letter
    for line in text.split("\n"):  # a text may hold other line ends
        try:
            yield json.loads(line)
        except ValueError:
            continue
