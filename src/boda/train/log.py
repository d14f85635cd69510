"""Where the numbers of a run go. A logger has one method, `log(record)`; pass your own to `boda.train(..., loggers=[...])`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Protocol

import torch

from boda.files import append_line, read_lines, write_lines, writing


class Logger(Protocol):
    """Anything with `log`. A record has `stage`, `step` and numbers or texts by name."""

    def log(self, record: dict) -> None: ...


class JsonLines:
    """`log.jsonl`: a line a record, appended as they come."""

    def __init__(self, path: Path):
        self.path = path

    def log(self, record: dict) -> None:
        append_line(self.path, record)

    def rewind(self, stage: str, step: int) -> bool:
        """Drops this stage's records after `step`, which a resumed run will write again; whether `step` itself was validated."""
        kept = [each for each in read_lines(self.path) if each.get("stage") != stage or each.get("step", 0) <= step]
        if self.path.is_file():
            write_lines(self.path, kept)
        return any(each.get("stage") == stage and each.get("step") == step and "validation_loss" in each for each in kept)


class TensorBoard:
    """Event files under `OUT/tensorboard`, numbers as scalars and texts as text.

    Written here and now: SummaryWriter's thread would print a traceback of its own when the disk is full.
    """

    def __init__(self, folder: Path):
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.path = folder / f"events.out.tfevents.{time.time_ns()}.boda"
        with writing(self.path):
            folder.mkdir(parents=True, exist_ok=True)
            self.writer = RecordWriter(self.path.open("wb"))
            self.writer.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())

    def log(self, record: dict) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from torch.utils.tensorboard.summary import scalar, text

        stage, step = record.get("stage", ""), record.get("step", 0)
        with writing(self.path):
            for name, value in record.items():
                kind = scalar if isinstance(value, (int, float)) else text if isinstance(value, str) else None
                if kind and name not in ("stage", "step"):
                    event = Event(wall_time=time.time(), step=step, summary=kind(f"{stage}/{name}", value))
                    self.writer.write(event.SerializeToString())
            self.writer.flush()


def peak_memory(device) -> int:
    """Peak memory in MiB: the device's, or this process's on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> 20 if sys.platform == "darwin" else peak >> 10
