"""A model in each of several processes: this one asks them and writes, they answer."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from boda.errors import BodaError
from boda.evaluate.asking import ModelGone
from boda.evaluate.engines import last_said

WORK = "from boda.evaluate.processes import work; work()"


def start(model: str, total: int, trust_remote_code: bool) -> list[Worker]:
    """So many processes with the model loaded. Raises BodaError: it cannot be, or a process ends."""
    workers: list[Worker] = []
    try:
        workers += (Worker(number, total) for number in range(total))
        for worker in workers:
            worker.send((model, trust_remote_code, worker.number, total))
        for worker in workers:
            worker.receive()
    except BaseException:
        stop(workers)
        raise
    return workers


def stop(workers: Sequence[Worker]) -> None:
    for worker in workers:
        worker.process.kill()
        worker.process.wait()


class Worker:
    """One of them, as an Ask."""

    def __init__(self, number: int, total: int):
        self.number, self.total, self.precision, self._peak = number, total, "", 0
        threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
        places = {"PYTHONPATH": os.pathsep.join(place or os.getcwd() for place in sys.path)}
        environment = os.environ | places | {"OMP_NUM_THREADS": str(max(1, threads // total))}
        self._log = tempfile.TemporaryFile()
        # A session of its own: Ctrl-C comes to this process, which stops it.
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORK],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            start_new_session=True,
        )

    def __call__(self, conversations: list[list[dict]], decoding: dict) -> Sequence[str | BodaError]:
        self.send((conversations, decoding))
        return self.receive()

    def peak(self) -> int:
        return self._peak

    def send(self, value: Any) -> None:
        try:
            pickle.dump(value, self.process.stdin)  # type: ignore[arg-type]
            self.process.stdin.flush()  # type: ignore[union-attr]
        except OSError:
            raise self._ended() from None

    def receive(self) -> Any:
        """What it answers. Raises BodaError: its own, or ModelGone where it ended."""
        try:
            value, self.precision, self._peak = pickle.load(self.process.stdout)  # type: ignore[arg-type]
        except (EOFError, OSError, pickle.UnpicklingError):
            raise self._ended() from None
        if isinstance(value, BodaError):
            raise value
        return value

    def _ended(self) -> ModelGone:
        with suppress(subprocess.TimeoutExpired):  # it may still be saying why
            self.process.wait(10)
        self.process.kill()
        code = self.process.wait()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        return ModelGone(f"process {self.number + 1} of {self.total} {how}; the last it said: {last_said(self._log)}")


def work() -> None:
    """What a process does: loads the model, answers what comes in, ends when nobody asks any more."""
    asked, told = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    import torch

    from boda.evaluate.local import open_local

    def tell(value: Any, *facts: Any) -> None:
        pickle.dump((value, *facts), told)
        told.flush()

    model, trust_remote_code, number, total = pickle.load(asked)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = torch.device("cuda", number % count) if count else None
    try:
        ask = open_local(model, trust_remote_code, True, device, -(-total // max(1, count)))
    except BodaError as error:
        tell(error, "", 0)
        return
    tell(None, ask.precision, ask.peak())
    while True:
        try:
            conversations, decoding = pickle.load(asked)
        except EOFError:
            return
        try:
            found: Any = ask(conversations, decoding)
        except BodaError as error:
            found = error
        tell(found, ask.precision, ask.peak())
