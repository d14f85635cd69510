"""A judge for tests: a chat endpoint on this machine that answers, errs, dawdles and hangs up by a script."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PROSE = "잘 쓴 답변입니다. 다만 조금 더 자세했으면 좋겠습니다."


def mark(prompt: str, low: int = 1, high: int = 10) -> int:
    """The mark that a prompt always gets."""
    return low + int(hashlib.sha256(prompt.encode()).hexdigest(), 16) % (high - low + 1)


def verdict(messages: list[dict]) -> str:
    """What a judge that keeps to the form says, in the form that the prompt asks for."""
    *before, user = (message["content"] for message in messages)
    system = "".join(before)
    if "최종 점수: 10점 만점에 X점" in user:
        return f"1. 색을 맞혔습니다.\n\n최종 점수: 10점 만점에 {mark(user, 0, 10)}점"
    if user.startswith("다음은 시각 질문 응답 데이터입니다."):
        return str(mark(user, 0, 1))
    if "어시스턴트2_점수" in user:
        return f"{mark(user)} {mark(user + ' ')}\n둘 다 질문에 답했습니다."
    if "매우 꼼꼼히 평가할 것이다" in system:
        return f"**평가**: 요구사항을 반영하였다.\n**점수**: {mark(user)}"
    if "Korean language expert" in system:
        criteria = ("Fluency", "Coherence", "Accuracy", "Completeness", "Overall Quality")
        return "\n".join(f"- {name} (1-5): {mark(user + name, 1, 5)}" for name in criteria)
    if "평가 기준" in system:
        ranges = {
            "이해 가능성": (0, 1),
            "자연스러움": (1, 3),
            "맥락 유지": (1, 3),
            "흥미롭기": (1, 3),
            "Instruction 사용": (0, 1),
        }
        ranges["전반적인 품질"] = (1, 5)
        return "\n".join(f"- {name} ({low} - {high}): {mark(user + name, low, high)}" for name, (low, high) in ranges.items())
    return f"설명입니다. 점수: [[{mark(user)}]]"


class JudgeServer(ThreadingHTTPServer):
    """`behave(number, attempt)` says how the `number`-th different prompt is met the `attempt`-th time, both from 0: `good`, `prose`,
    `slow` (good, after `delay` seconds), a function of the messages that gives the reply, a status such as 429, or `close` (hangs up).
    Seconds to wait may follow a status: (429, 2).
    `say`: what it answers to a request, in place of a verdict, or (status, words) of a refusal."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        behave: Callable[[int, int], object] = lambda number, attempt: "good",
        delay: float = 0.2,
        key: str = "",
        say: Callable[[dict], Any] = lambda body: verdict(body["messages"]),
        port: int = 0,
    ):
        super().__init__(("127.0.0.1", port), _Handler)
        self.behave, self.delay, self.key, self.say = behave, delay, key, say
        self.lock = threading.Lock()
        self.numbers: dict[str, int] = {}
        self.attempts: Counter[str] = Counter()
        self.bodies: list[dict] = []
        self.times: list[float] = []
        self.did: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0
        self.gone = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self) -> JudgeServer:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.gone = True
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address) -> None:
        """A client that went away is no trouble here."""


class _Handler(BaseHTTPRequestHandler):
    server: JudgeServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        if self._allowed():
            self._send(200, {"object": "list", "data": [{"id": "judge"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server, prompt = self.server, str(body["messages"][-1]["content"])
        if not self._allowed():
            return
        with server.lock:
            number = server.numbers.setdefault(prompt, len(server.numbers))
            attempt = server.attempts[prompt]
            server.attempts[prompt] += 1
            server.bodies.append(body)
            server.times.append(time.monotonic())
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            act = server.behave(number, attempt)
            server.did["said" if callable(act) else str(act[0] if isinstance(act, tuple) else act)] += 1
        if act == "slow":
            time.sleep(server.delay)
        with server.lock:  # before the answer goes out, after which the next may be asked
            server.at_once -= 1
        self._act(act, body)
        self.close_connection |= server.gone  # a server that goes away takes its open connections with it

    def _act(self, act, body: dict) -> None:
        if act == "close":
            self.close_connection = True
            return
        if callable(act) or act in ("good", "slow", "prose"):
            text = PROSE if act == "prose" else act(body["messages"]) if callable(act) else self.server.say(body)
            if isinstance(text, tuple):
                self._send(text[0], {"error": {"message": text[1]}})
                return
            usage = {
                "prompt_tokens": sum(len(message["content"]) for message in body["messages"]),
                "completion_tokens": len(str(text)),
            }
            self._send(200, {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage})
            return
        status, *wait = act if isinstance(act, tuple) else (act,)
        self._send(status, {"error": {"message": f"scripted {status}"}}, {"Retry-After": str(wait[0])} if wait else {})

    def _allowed(self) -> bool:
        given = self.headers.get("Authorization", "")
        if self.server.key and given != f"Bearer {self.server.key}":
            # As some servers do, it says which key it was given.
            self._send(401, {"error": {"message": f"Incorrect API key provided: {given.removeprefix('Bearer ')}"}})
            return False
        return True

    def _send(self, status: int, value: dict, headers: dict | None = None) -> None:
        data = json.dumps(value, ensure_ascii=False).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)
