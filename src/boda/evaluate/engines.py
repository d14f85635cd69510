"""vLLM, in an environment of its own: started for an evaluation, spoken to over HTTP, stopped at its end."""

from __future__ import annotations

import ctypes
import http.client
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from typing import IO

from boda.errors import BodaError, explaining

LONGEST_START = 3600.0  # seconds: a large model may have to be downloaded first
PR_SET_PDEATHSIG = 1  # of Linux: the signal that a process gets when the one that started it ends, however it ends
_LIBC = ctypes.CDLL(None)


class VLLM:
    """`vllm serve MODEL` on a free port of this machine, by the command in BODA_VLLM (`vllm` unless set)."""

    def __init__(self, model: str, trust_remote_code: bool = False):
        self.model, self.arguments = model, ["--trust-remote-code"] if trust_remote_code else []
        self.process: subprocess.Popen | None = None

    def start(self) -> str:
        """The address of the model, once it answers. Raises BodaError: no such command, or it ends or takes too long."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = shlex.split(os.environ.get("BODA_VLLM") or "vllm")
        command += ["serve", self.model, "--host", "127.0.0.1", "--port", str(port), *self.arguments]
        self.log = tempfile.TemporaryFile()
        advice = "install vLLM in an environment of its own and put the path of its command into BODA_VLLM"
        with explaining(f"no command '{command[0]}'; {advice}", OSError):
            # A session of its own: Ctrl-C comes to this process, which stops it and all that it started.
            process = self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=partial(_LIBC.prctl, PR_SET_PDEATHSIG, signal.SIGTERM) if sys.platform == "linux" else None,
            )
        until = time.monotonic() + LONGEST_START
        while not _answers(port):
            ended = process.poll() is not None
            if ended or time.monotonic() > until:
                why = f"ended with status {process.returncode}" if ended else f"did not answer in {LONGEST_START:.0f} seconds"
                self.stop()
                raise BodaError(f"vLLM {why}; the last it said: {last_said(self.log)}")
            time.sleep(0.2)
        return f"http://127.0.0.1:{port}/v1#{self.model}"

    def stop(self) -> None:
        """Ends it, what it started too; nothing where it does not run."""
        if self.process is None:
            return
        for number, patience in ((signal.SIGTERM, 20.0), (signal.SIGKILL, None)):
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
        self.process = None


def last_said(log: IO[bytes]) -> str:
    """The last lines of what a process wrote, as one."""
    log.seek(0)
    return " | ".join(log.read().decode("utf-8", "replace").strip().splitlines()[-5:]) or "nothing"


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
