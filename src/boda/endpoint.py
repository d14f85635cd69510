"""Asking a server over HTTP, often and from many threads: open connections are used again, what comes and goes is tried again, and
where nothing more can be had one sentence says so. Only the standard library is used.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import select
import ssl
import threading
from base64 import b64encode
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from boda.errors import BodaError, explaining

MOST_WAIT, MOST_ASKED_WAIT = 60.0, 600.0  # seconds between two tries: our own, and what a server may ask for
AGAIN = (408, 409, 425, 429)  # ... and 5xx: another time it may go well
MOST_SAID = 10_000  # bytes of a refusal that are read
SHORTEST_KEY = 8  # letters; shorter ones are words that servers without keys are given: EMPTY, none
_WRITTEN = re.compile(r"[!-~]+").fullmatch  # letters that an address is written in
Found = TypeVar("Found")


class Unanswered(BodaError):
    """This one request was refused or not answered; another may be."""


class Refused(Unanswered):
    """The server is there and does not want it."""


class _Unconnected(OSError):
    """There was no connection; the words are whole."""


def read_key(names: Sequence[str], name: str) -> str:
    """The key in the first of these environment variables that holds one, or "". Raises BodaError: it cannot be a key."""
    key = next((key for each in names if (key := os.environ.get(each, "").strip())), "")
    if not key.isascii() or len(key.split()) > 1:
        raise BodaError(f"the {name}'s key ({' or '.join(names)}) holds letters or spaces that no key has")
    return key


class Endpoint:
    """The API at `url`. A redirect is not followed, so that the key in `headers` goes to no other address.

    Args:
        name: what is there, for messages: "judge".
        gone: raised where nothing more can be had: nobody is there, a status of `refusals` or the word `exhausted` in a refusal.
        headers: sent with every request.
        secrets: what of it is neither shown nor written.
        refusals: status -> what it means, as the end of "the judge at host/v1 ...".
        advice: what to do where nobody is there.
        timeout: seconds without a byte.
        retries: after 408, 409, 425, 429, 5xx, timeouts, broken connections and unreadable replies, after `wait` seconds, twice that, ...
    """

    def __init__(
        self,
        url: str,
        name: str,
        gone: type[BodaError],
        *,
        headers: Mapping[str, str],
        secrets: Sequence[str] = (),
        refusals: Mapping[int, str],
        exhausted: str = "insufficient_quota",
        advice: str = "",
        timeout: float = 120.0,
        retries: int = 6,
        wait: float = 1.0,
    ):
        with explaining(f"'{url}' is no address of a {name}; it looks like https://host/v1", ValueError):
            parts = urlsplit(str(url))
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or not _WRITTEN(str(url)):
                raise ValueError
        if parts.username or parts.password:
            raise BodaError(
                f"the {name}'s address holds a password; a key belongs into the environment and not into the address"
            )
        if timeout <= 0 or retries < 0:
            raise BodaError(f"the {name} needs a positive timeout and no negative retries")
        self.name, self.gone, self.advice = name, gone, advice
        self.headers = {"Content-Type": "application/json", "User-Agent": "boda", **headers}
        self.secrets = [secret for secret in secrets if len(secret) >= SHORTEST_KEY]
        self.refusals, self.exhausted = refusals, exhausted
        self.timeout, self.retries, self.wait = timeout, retries, wait
        self.place = parts.netloc + parts.path  # for messages: without what stands behind a question mark
        self._parts = parts
        self._idle: deque[http.client.HTTPConnection] = deque()
        self._context = ssl.create_default_context() if parts.scheme == "https" else None
        local = parts.hostname in ("localhost", "127.0.0.1", "::1") or proxy_bypass(parts.hostname)
        proxy = "" if local else getproxies().get(parts.scheme, "")
        self._proxy = urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else None
        self._to_proxy: dict[str, str] = {}
        if self._proxy and self._proxy.username:
            known = unquote(f"{self._proxy.username}:{self._proxy.password or ''}")
            self._to_proxy = {"Proxy-Authorization": "Basic " + b64encode(known.encode()).decode()}
        self._start = parts.path.rstrip("/").removesuffix("/chat/completions")
        if self._proxy and not self._context:  # it is asked for the whole address; over https for a tunnel to the host
            self._start = f"http://{parts.netloc}{self._start}"
            self.headers |= self._to_proxy

    def ask(
        self,
        path: str,
        body: dict | None,
        read: Callable[[Any], Found],
        *,
        headers: Mapping[str, str] | None = None,
        stop: threading.Event | None = None,
        counts: Counter | None = None,
    ) -> Found:
        """What `read` makes of the JSON that comes back. `counts["requests"]` grows by every try; `stop` ends the waiting.

        Raises `gone`, or Unanswered where only this request failed.
        """
        stop = stop or threading.Event()
        for attempt in range(self.retries + 1):
            if counts is not None:
                counts["requests"] += 1
            # Half of it by chance, so that many that were turned away together do not come back together.
            pause = min(MOST_WAIT, self.wait * 2**attempt) * random.uniform(0.5, 1)
            gone = ""
            try:
                status, found, asked = self._send(path, body, self.timeout, headers or {})
                if status < 300:
                    return read(json.loads(found))
                self._refuse(status, said := self._said(found, status))
                why, pause = f"{status}: {said}", max(pause, asked_wait(asked))
            except BodaError:
                raise
            except _Unconnected as error:
                gone = str(error)
                if isinstance(error.__cause__, ssl.SSLCertVerificationError):
                    break
            except (OSError, http.client.HTTPException) as error:
                why = str(error) or type(error).__name__
            except (ValueError, LookupError, TypeError, AttributeError):
                why = f"a reply that is none of a {self.name}'s"
            if attempt < self.retries and stop.wait(pause):
                break
        if gone:
            raise self.gone(gone)
        raise Unanswered(f"the {self.name} did not answer in {attempt + 1} tries ({why})")

    def probe(self, path: str) -> None:
        """One look before work begins. Raises `gone`: nobody is there, or the key is not taken."""
        try:
            status, found, _ = self._send(path, None, min(self.timeout, 10.0), {})
            if status in (401, 403):
                self._refuse(status, self._said(found, status))
        except _Unconnected as error:
            raise self.gone(str(error)) from None
        except (OSError, http.client.HTTPException):
            pass  # somebody is there

    def clean(self, text: str) -> str:
        """Words of the server as they may be written: without the key, and without half characters that no file takes."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text.encode("utf-8", "replace").decode()

    def _send(self, path: str, body: dict | None, timeout: float, headers: Mapping[str, str]) -> tuple[int, bytes, str | None]:
        """One request -> status, what came back and its `Retry-After`."""
        connection = self._connection(timeout)
        target = f"{self._start}/{path}" + (f"?{self._parts.query}" if self._parts.query else "")
        data = None if body is None else json.dumps(body).encode()
        try:
            connection.request("GET" if body is None else "POST", target, data, {**self.headers, **headers})
            reply = connection.getresponse()
            found = reply.read() if reply.status < 300 else reply.read(MOST_SAID)
        except BaseException:
            connection.close()
            raise
        if reply.isclosed() and connection.sock:  # all of it was read, and the server keeps the line open
            self._idle.append(connection)
        else:
            connection.close()
        return reply.status, found, reply.headers.get("Retry-After")

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        """One that lay idle, or a new one. Raises _Unconnected."""
        while self._idle:
            with suppress(IndexError):  # another thread was quicker
                connection = self._idle.pop()
                if not _was_closed(connection):
                    connection.sock.settimeout(timeout)
                    return connection
                connection.close()
        host, port, proxy = str(self._parts.hostname), self._parts.port, self._proxy
        via = (str(proxy.hostname), proxy.port or 80) if proxy else (host, port)
        if self._context:
            connection = http.client.HTTPSConnection(*via, timeout=timeout, context=self._context)
        else:
            connection = http.client.HTTPConnection(*via, timeout=timeout)
        if self._context and proxy:
            connection.set_tunnel(host, port or 443, self._to_proxy)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            why = f"{error.strerror or error}"
            raise _Unconnected(f"no {self.name} at {self.place} ({why}){self.advice and f'; {self.advice}'}") from error
        return connection

    def _said(self, found: bytes, status: int) -> str:
        """What a refusal says, on one line; APIs differ in where they put it."""
        text = found.decode("utf-8", "replace")
        with suppress(ValueError, AttributeError):
            told = json.loads(text)
            told = told.get("error", told)
            code = told.get("code") or told.get("errorCode") or ""
            words = told.get("message") or told.get("errorMessage") or text
            text = f"{words}{f' ({code})' if code else ''}"
        return " ".join(self.clean(text).split())[:300] or http.client.responses.get(status, "no reason given")

    def _refuse(self, status: int, said: str) -> None:
        """Raises what a status means that another try does not change."""
        if status in self.refusals or self.exhausted in said:
            what = self.refusals.get(status, "takes no more requests from this account")
            raise self.gone(f"the {self.name} at {self.place} {what} ({status}: {said})")
        if status not in AGAIN and status < 500:
            raise Refused(f"the {self.name} refused the request ({status}: {said})")


class ChatEndpoint(Endpoint):
    """A server that speaks as OpenAI's chat API does and has a `model`; its key is in the first of `keys` that holds one, if any."""

    def __init__(self, url: str, name: str, gone: type[BodaError], model: str, keys: Sequence[str], **rest: Any):
        key, named = read_key(keys, name), " or ".join(keys)
        refusals = {
            401: f"does not take the key; put the right one into {named}",
            402: "takes no more requests from this account",
            403: f"does not allow this key to use '{model}'; see {named}, and the model's name",
            404: f"has no model '{model}', or the address is not that of its API (often it ends in /v1)",
            **dict.fromkeys((301, 302, 303, 307, 308), "sends elsewhere; give the address that it sends to"),
        }
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        super().__init__(url, name, gone, headers=headers, secrets=[key], refusals=refusals, **rest)

    def text(self, choice: dict) -> str:
        """What a choice of a reply says; some servers say it in parts."""
        said = choice["message"].get("content") or ""
        return self.clean("".join(part["text"] for part in said if part["type"] == "text") if isinstance(said, list) else said)


def _was_closed(connection: http.client.HTTPConnection) -> bool:
    """Whether the server hung up while the connection lay idle: then its end is there to be read."""
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))


def asked_wait(header: str | None) -> float:
    """Seconds that a `Retry-After` asks for: a number or a date; at most ten minutes, 0 where it says nothing."""
    seconds = 0.0
    try:
        seconds = float(header or 0)
    except ValueError:
        with suppress(ValueError, TypeError):
            seconds = (parsedate_to_datetime(str(header)) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), MOST_ASKED_WAIT)
