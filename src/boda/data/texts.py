"""The words of data sets, a message at a time; read ahead by another process where much is done with them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from boda.data.sources import BadRows, read, resolve_data
from boda.errors import BodaError, explaining
from boda.terminal import Progress, clear_line

MAX_BAD_ROWS = 0.01
GROUP = 4000  # texts that are handed over at a time


def texts_in(paths: Iterable[str], data: str | Path | None = None, quiet: bool = True, **given: Any) -> Iterator[str]:
    """The words of data sets. Raises BodaError, the first rows named, where more than 1 % cannot be used."""
    for path in paths:
        bad, place = BadRows(), resolve_data(path, data)
        progress = Progress(lambda seen, path=path: f"{path}: {seen.done:,} texts, {seen.rate:,.0f} a second", quiet=quiet)  # type: ignore[misc]
        for number, sample in enumerate(read(place, bad_rows=bad, probe=False, trainable=False, **given), 1):
            progress.update(number)
            yield from (message.text for message in sample.messages)
        clear_line()
        bad.check(MAX_BAD_ROWS, "")


def read_ahead(start: Callable[[], Iterable[str]]) -> Iterator[str]:
    """What `start` (a function that can be sent to a process) reads, in its order, read meanwhile by another process.

    Its BodaError is raised here. Everything is over when the iterator is closed.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    reader = context.Process(target=_send, args=(start, sender), daemon=True)
    reader.start()
    sender.close()
    try:
        while some := _received(receiver):
            yield from some
    finally:
        receiver.close()
        reader.terminate()
        reader.join()


def _received(receiver) -> list[str]:
    with explaining("the process that reads the text stopped; was it killed, or is there no memory left?", EOFError):
        received = receiver.recv()
    if isinstance(received, BodaError):
        raise received
    return received


def _send(start: Callable[[], Iterable[str]], sender) -> None:
    """Texts in groups, none in the last one; or the BodaError."""
    try:
        texts, some = iter(start()), [""]
        while some:
            some = list(islice(texts, GROUP))
            sender.send(some)
    except BodaError as error:
        sender.send(BodaError(str(error)))  # of a kind that can be sent
    except (BrokenPipeError, KeyboardInterrupt):  # nobody wants more
        pass
