"""Stands in for the `vllm` command: `serve MODEL --host H --port P` answers as its server does, after a while.

FAKE_VLLM_FILE is where it writes how it was called; FAKE_VLLM_DIES makes it end with words of its own.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.judge_server import JudgeServer

if __name__ == "__main__":
    arguments = sys.argv[1:]
    print("INFO loading", arguments[1], flush=True)
    Path(os.environ["FAKE_VLLM_FILE"]).write_text(json.dumps({"pid": os.getpid(), "arguments": arguments}), encoding="utf-8")
    if "FAKE_VLLM_DIES" in os.environ:
        sys.exit("torch.OutOfMemoryError: CUDA out of memory")
    time.sleep(0.5)
    named = arguments[1]
    with JudgeServer(
        port=int(arguments[arguments.index("--port") + 1]),
        say=lambda body: (
            f"{body['temperature']} {body.get('repetition_penalty')}" if body["model"] == named else (404, "no model")
        ),
    ):
        threading.Event().wait()
