"""Jobs that several workers do at the same time, what comes of them as it comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any, TypeVar

LAST = 15.0  # seconds for what is under way when the work has to be given up
Job = TypeVar("Job")


def side_by_side(
    workers: Sequence[Callable[[Job], Any]], jobs: Sequence[Job], stop: threading.Event
) -> Iterator[tuple[Job, Any]]:
    """(job, what a worker made of it), each worker in a thread of its own with one job at a time.

    The first error sets `stop`, after which no job is begun, and is raised after what is under way, as far as it comes soon.
    """
    waiting: SimpleQueue = SimpleQueue()
    done: SimpleQueue = SimpleQueue()

    def work(worker: Callable[[Job], Any]) -> None:
        for job in iter(waiting.get, None):
            if stop.is_set():
                return
            try:
                done.put((job, worker(job), None))
            except BaseException as error:  # told where it can be, in the thread that asks
                done.put((job, None, error))
                stop.set()

    # Daemons: Ctrl-C does not wait for a server.
    threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in workers[: len(jobs)]]
    for job in (*jobs, *(None for _ in threads)):  # None: no more for a thread
        waiting.put(job)
    for thread in threads:
        thread.start()
    try:
        for _ in jobs:
            job, found, error = done.get()
            if error:
                until = time.monotonic() + LAST
                for thread in threads:
                    thread.join(max(0.0, until - time.monotonic()))
                late = [done.get() for _ in range(done.qsize())]
                yield from ((job, found) for job, found, failure in late if not failure)
                raise error
            yield job, found
    finally:
        stop.set()
