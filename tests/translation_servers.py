"""Translation services for tests: servers on this machine that speak as OpenAI, DeepL and Papago do, and misbehave by a script."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def korean(text: str) -> str:
    """What these services make of a text: all of it is there still, so that tests see what came through."""
    return f"옮김 {text}"


def openai(path: str, body: Any) -> Any:
    if body is None:
        return {"object": "list", "data": []}
    choice = {"message": {"role": "assistant", "content": korean(body["messages"][-1]["content"])}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"total_tokens": 7}}


def deepl(path: str, body: Any) -> Any:
    if path.endswith("/usage"):
        return {"character_count": 499_900, "character_limit": 500_000}
    return {"translations": [{"detected_source_language": "EN", "text": korean(text)} for text in body["text"]]}


def papago(path: str, body: Any) -> Any:
    return {"message": {"result": {"srcLangType": "en", "tarLangType": "ko", "translatedText": korean(body["text"])}}}


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    size: int
    body: Any


class TranslationServer(ThreadingHTTPServer):
    """`behave(request, number)` says how a request is met, the first being 0: `good`, `slow` (good, after `delay` seconds), `close` (hangs
    up), `half` (of a good reply), `leaves` (good, and hangs up without a word), a status, (status, seconds to wait), (status, JSON) or
    JSON of a reply that is none of `answer`'s."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        answer: Callable[[str, Any], Any],
        behave: Callable[[Request, int], Any] = lambda request, number: "good",
        delay: float = 0.3,
        key: str = "",
    ):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.behave, self.delay, self.key = answer, behave, delay, key
        self.lock, self.requests, self.connections = threading.Lock(), list[Request](), 0

    @property
    def port(self) -> int:
        return self.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> TranslationServer:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address) -> None:
        """A client that went away is no trouble here."""


class _Handler(BaseHTTPRequestHandler):
    server: TranslationServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body leave together

    def setup(self) -> None:
        super().setup()
        with self.server.lock:
            self.server.connections += 1

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        self._meet()

    def do_POST(self) -> None:
        self._meet()

    def do_CONNECT(self) -> None:
        self._meet()

    def _meet(self) -> None:
        server, data = self.server, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, len(data), json.loads(data) if data else None)
        with server.lock:
            server.requests.append(request)
            act = server.behave(request, len(server.requests) - 1)
        given = " ".join(value for name, value in headers.items() if name == "authorization" or name.startswith("x-ncp"))
        if server.key and server.key not in given:
            # As some servers do, it says which key it was given.
            return self._send(403 if "DeepL" in given else 401, {"error": {"message": f"this is no key: {given}"}})
        if act == "close":
            self.close_connection = True
            return None
        if act == "slow":
            time.sleep(server.delay)
        if act in ("good", "slow", "half", "leaves"):
            return self._send(200, server.answer(self.path, request.body), act=act)
        if isinstance(act, dict):
            return self._send(200, act)
        status, more = act if isinstance(act, tuple) else (act, None)
        wait = {"Retry-After": str(more)} if isinstance(more, int) else {}
        return self._send(status, more if isinstance(more, dict) else {"error": {"message": f"scripted {status}"}}, wait)

    def _send(self, status: int, value: Any, headers: dict | None = None, act: str = "") -> None:
        data = json.dumps(value, ensure_ascii=False).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if act == "half" else data)
        self.close_connection |= act in ("half", "leaves")
