"""Several processes as one: started by Boda (`--processes N`) or by torchrun, gradients summed after each step.

Gradients are summed by one flat all-reduce over the trained tensors, after the last micro-batch and for every one of them whether
or not this process's rows touched it. A process that sees only text therefore never leaves the others waiting, and N processes
take the step that one would.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta

import torch
import torch.distributed as dist

from boda.errors import BodaError


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


@torch.no_grad()
def sum_gradients(parameters: list[torch.nn.Parameter], extra: list[float]) -> list[float]:
    """Adds up gradients over all processes, in place; `extra` numbers are added up too and returned."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    if world_size() == 1:
        return extra
    if parameters:
        flat = torch.cat([parameter.grad.reshape(-1) for parameter in parameters])
        dist.all_reduce(flat)
        for parameter, summed in zip(parameters, flat.split([parameter.numel() for parameter in parameters])):
            parameter.grad.copy_(summed.view_as(parameter))
    return _summed(extra)


def _summed(numbers: list[float]) -> list[float]:
    total = torch.tensor(numbers, dtype=torch.float64, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(total)
    return total.tolist()


def any_process(flag: bool) -> bool:
    """Whether the flag is up in any process: what one decides all must follow."""
    return flag if world_size() == 1 else _summed([float(flag)])[0] > 0


@torch.no_grad()
def gather_rows(rows: torch.Tensor) -> list[torch.Tensor]:
    """What every process holds, by process: (n, ...) each, with an n of its own."""
    if world_size() == 1:
        return [rows]
    counts = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    most = max(int(count) for count in counts)
    filled = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
    every = [torch.empty_like(filled) for _ in counts]
    dist.all_gather(every, filled)
    return [part[: int(count)] for part, count in zip(every, counts)]


def by_main(work: Callable, *arguments):
    """What the main process gets from the work, in every process. Its BodaError is every process's."""
    if not dist.is_initialized():
        return work(*arguments)
    box: list = [None, None]
    if is_main():
        try:
            box[0] = work(*arguments)
        except BodaError as error:
            box[1] = str(error)
    dist.broadcast_object_list(box, src=0)
    if box[1] is not None:
        raise BodaError(box[1])
    return box[0]


def start_group(number: int, total: int) -> None:
    """Joins this process to the group, if it has not yet."""
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", number)))
    if not dist.is_initialized():
        dist.init_process_group(backend, rank=number, world_size=total, timeout=timedelta(hours=2))


def _worker(number: int, total: int, port: int, errors, work: Callable, arguments: tuple) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(number)}
    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(total)}
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // total))
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # the terminal's Ctrl-C goes to the parent, which passes it on once
    try:
        start_group(number, total)
        work(*arguments)
    except (BodaError, KeyboardInterrupt) as error:
        errors.put(str(error) or "stopped; run the same command again to go on")
        raise SystemExit(1) from None
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@contextlib.contextmanager
def _on_interrupt(handler: Callable) -> Iterator[None]:
    """What Ctrl-C does meanwhile; outside the main thread the caller handles it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def ignore_interrupt(worker: int) -> None:
    """Ctrl-C reaches every process of the terminal; the training process alone decides what follows."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def polite_interrupt() -> Iterator[dict]:
    """Ctrl-C raises a flag that the loop reads between micro-batches; a second one stops at once."""
    flag = {"up": False}

    def handler(signum, frame):
        if flag["up"]:
            raise KeyboardInterrupt
        flag["up"] = True

    with _on_interrupt(handler):
        yield flag


def run_processes(total: int, work: Callable, arguments: tuple) -> None:
    """Runs `work(*arguments)` in `total` new processes (spawn) and waits. Raises BodaError with the first one's reason."""
    import torch.multiprocessing as multiprocessing

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # That it ends the other processes when one stops is no news.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    context = multiprocessing.get_context("spawn")
    errors = context.SimpleQueue()
    everyone = multiprocessing.start_processes(
        _worker, (total, port, errors, work, arguments), nprocs=total, join=False, start_method="spawn"
    )

    def pass_on(signum, frame):  # the workers save their state and say how to go on
        for process in everyone.processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGINT)

    try:
        with _on_interrupt(pass_on):
            while not everyone.join():
                pass
    except (multiprocessing.ProcessExitedException, multiprocessing.ProcessRaisedException) as error:
        if not errors.empty():
            raise BodaError(errors.get()) from None
        raise BodaError(f"a training process stopped: {error}") from error
