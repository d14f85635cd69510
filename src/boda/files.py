"""Writing that is whole or not there: a kill or a full disk leaves nothing that looks finished."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from boda.errors import BodaError, write_problem


def cache_folder() -> Path:
    """What Boda keeps between runs: BODA_CACHE or ~/.cache/boda."""
    return Path(os.environ.get("BODA_CACHE") or Path.home() / ".cache" / "boda")


@contextmanager
def whole_folder(
    folder: Path, what: str = "", advice: str | Callable[[], str] = "free some space and run the same command again to go on"
) -> Iterator[Path]:
    """A folder to write into that takes its name, and the place of an older one, when the block ends without an error.

    Args:
        what: what is written, for the message; the folder unless given.
        advice: what to do where it cannot be written.

    Raises:
        BodaError: the disk is full or the folder cannot be written; an older one is still there.
    """
    partial = folder.with_name(f".{folder.name}.partial")  # a killed process's leftover has the same name and goes first
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except Exception as error:
        why = write_problem(error)
        if why is None:
            raise
        help_text = advice if isinstance(advice, str) else advice()
        raise BodaError(f"could not write {what or folder}: {why}; {help_text}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
