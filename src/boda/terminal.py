"""What people see while work goes on: progress, times, and words that cannot steer the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Thing = TypeVar("Thing")
WIDTH = 128  # columns where the output is no terminal
_CLEAR = "\r\x1b[K"


class Progress:
    """How far work is, on stderr: one line that renews itself on a terminal, a plain line every few seconds elsewhere."""

    def __init__(self, line: Callable[[Progress], str], total: int = 0, first: int = 0, quiet: bool = False):
        self.line, self.total, self.first, self.done, self.quiet = line, total, first, first, quiet
        self.on_terminal = sys.stderr.isatty()
        self.every = 0.2 if self.on_terminal else 10.0
        self.began = self.shown = time.monotonic()

    def update(self, done: int) -> None:
        """So many are done; what `line` says is shown when it is time to, and at the end of `total`."""
        self.done, now = done, time.monotonic()
        if self.quiet or (now - self.shown < self.every and done != self.total):
            return
        self.shown = now
        stays = done == self.total or not self.on_terminal
        print((_CLEAR if self.on_terminal else "") + self.line(self), end="\n" if stays else "", file=sys.stderr, flush=True)

    @property
    def rate(self) -> float:
        """Done a second."""
        return (self.done - self.first) / max(time.monotonic() - self.began, 1e-9)

    @property
    def left(self) -> str:
        """The time that the rest will take."""
        return f"{duration((self.total - self.done) / max(self.rate, 1e-9))} left"


def counted(what: str, total: int, first: int = 0, quiet: bool = False) -> Progress:
    """Progress that says how many of `total` are done, the rate and the time left."""
    return Progress(lambda seen: f"{what} {seen.done:,}/{seen.total:,}  {seen.rate:.1f}/s  {seen.left}", total, first, quiet)


def watched(things: Iterable[Thing], what: str, total: int, quiet: bool = False) -> Iterator[Thing]:
    """Goes through things and shows how far it is."""
    progress = counted(what, total, 0, quiet)
    for done, thing in enumerate(things, 1):
        yield thing
        progress.update(done)


def clear_line() -> None:
    """Takes a line of progress away, so that something else can be said."""
    if sys.stderr.isatty():
        print(_CLEAR, end="", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds -> '1h 02m', '3m 20s' or '12s'."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


def harmless(text: str) -> str:
    """Words of others without the control characters that would steer the terminal."""
    return "".join(chr(0x2400 + ord(letter)) if ord(letter) < 32 and letter not in "\n\t" else letter for letter in text)


def console(stderr: bool = False):
    """Where tables are printed: as wide as the terminal is, or as a line of code where there is none."""
    from rich.console import Console

    found = Console(stderr=stderr, highlight=False)
    return found if found.is_terminal else Console(stderr=stderr, highlight=False, width=WIDTH)
