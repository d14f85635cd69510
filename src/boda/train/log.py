"""Where the numbers of a run go. A logger has one method, `log(record)`; pass your own to `boda.train(..., loggers=[...])`."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from boda.errors import BodaError


class Logger(Protocol):
    """Anything with `log`. A record has `stage`, `step` and numbers or texts by name."""

    def log(self, record: dict) -> None: ...


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """A full disk becomes one clear message."""
    try:
        yield
    except OSError as error:
        advice = "free some space and run the same command again to go on"
        raise BodaError(f"could not write {path}: {error.strerror}; {advice}") from error


class JsonLines:
    """`log.jsonl`: a line a record, appended as they come."""

    def __init__(self, path: Path):
        self.path = path

    def log(self, record: dict) -> None:
        with _writing(self.path), self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")

    def rewind(self, stage: str, step: int) -> bool:
        """Drops this stage's records after `step`, which a resumed run will write again; whether `step` itself was validated."""
        if not self.path.is_file():
            return False
        kept, is_validated = [], False
        for line, record in read_log(self.path):
            if record.get("stage") != stage or record.get("step", 0) <= step:
                kept.append(line)
                is_validated |= (record.get("stage"), record.get("step")) == (stage, step) and "validation_loss" in record
        partial = self.path.with_suffix(".partial")
        with _writing(self.path):
            partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
            partial.replace(self.path)
        return is_validated


def read_log(path: Path) -> Iterator[tuple[str, dict]]:
    """The lines of a `log.jsonl`, if it is there, with what each says."""
    for line in path.read_text(encoding="utf-8").split("\n") if path.is_file() else ():  # an answer may hold other line ends
        try:
            yield line, json.loads(line)
        except ValueError:
            continue  # the end, or the line a killed run was writing


class TensorBoard:
    """Event files under `OUT/tensorboard`, numbers as scalars and texts as text.

    Written here and now: SummaryWriter's thread would print a traceback of its own when the disk is full.
    """

    def __init__(self, folder: Path):
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.path = folder / f"events.out.tfevents.{time.time_ns()}.boda"
        with _writing(self.path):
            folder.mkdir(parents=True, exist_ok=True)
            self.writer = RecordWriter(self.path.open("wb"))
            self.writer.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())

    def log(self, record: dict) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from torch.utils.tensorboard.summary import scalar, text

        stage, step = record.get("stage", ""), record.get("step", 0)
        with _writing(self.path):
            for name, value in record.items():
                kind = scalar if isinstance(value, (int, float)) else text if isinstance(value, str) else None
                if kind and name not in ("stage", "step"):
                    event = Event(wall_time=time.time(), step=step, summary=kind(f"{stage}/{name}", value))
                    self.writer.write(event.SerializeToString())
            self.writer.flush()


class Progress:
    """Rate and time left: one line that renews itself on a terminal, a plain line every few seconds elsewhere."""

    def __init__(self, stage: str, total: int, start: int, quiet: bool):
        self.stage, self.total, self.first, self.quiet = stage, total, start, quiet
        self.on_terminal = sys.stderr.isatty()
        self.every = 0.2 if self.on_terminal else 10.0
        self.began = self.shown = time.monotonic()

    def update(self, step: int, record: dict) -> None:
        now = time.monotonic()
        if self.quiet or (now - self.shown < self.every and step < self.total):
            return
        self.shown = now
        left = (now - self.began) / max(1, step - self.first) * (self.total - step)
        line = (
            f"{self.stage} {step}/{self.total}  loss {record['loss']:.3f}  lr {record['learning_rate']:.2e}  "
            f"{record['tokens_per_second']:,.0f} tokens/s  {duration(left)} left"
        )
        end = "" if self.on_terminal and step < self.total else "\n"
        print(("\r\x1b[K" if self.on_terminal else "") + line, end=end, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds -> '1h 02m', '3m 20s' or '12s'."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


def peak_memory(device) -> int:
    """Peak memory in MiB: the device's, or this process's on a CPU."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) >> 20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> 20 if sys.platform == "darwin" else peak >> 10
