"""What engines share that ask a server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from boda.data.translate.engines import Engine, EngineGone
from boda.endpoint import Endpoint, Refused, Unanswered, read_key

Found = TypeVar("Found")


@dataclass
class Service(Engine):
    """`timeout` is in seconds without a byte; a busy or broken server is tried `retries` times again, after `wait` seconds, twice
    that, ... Keys come from the environment and are neither shown nor written.
    """

    url: str = ""
    timeout: float = 120.0
    retries: int = 6
    wait: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        self._answered = 0.0  # when the server last did
        self._mine = threading.local()

    @cached_property
    def endpoint(self) -> Endpoint:
        """The server; raises EngineGone where there is no key for it."""
        raise NotImplementedError

    def _endpoint(
        self, url: str, name: str, headers: Mapping[str, str], secrets: Sequence[str], refusals: Mapping[int, str], **rest: Any
    ) -> Endpoint:
        limits = {"timeout": self.timeout, "retries": self.retries, "wait": self.wait, **rest}
        return Endpoint(url, name, EngineGone, headers=headers, secrets=secrets, refusals=refusals, **limits)

    def _key(self, *names: str) -> str:
        """The key in one of these variables. Raises EngineGone: there is none."""
        if found := read_key(names, f"{self.name} engine"):
            return found
        raise EngineGone(f"the engine {self.name} needs a key; put it into {' or '.join(names)}")

    def ask(
        self, path: str, body: dict | None, read: Callable[[Any], Found], headers: Mapping[str, str] | None = None
    ) -> Found:
        """As Endpoint.ask. A server that answers nothing at all is gone: what it has not answered is not the text's fault."""
        began = time.monotonic()
        try:
            found = self.endpoint.ask(path, body, read, headers=headers, stop=self.stop)
        except Unanswered as error:
            if self.stop.is_set():
                raise EngineGone("the translation was stopped") from None
            if not isinstance(error, Refused) and self._answered < began and not self._answers():
                raise EngineGone(f"{error}, nor anything else since; what is done is kept, so try again later") from None
            raise
        self._answered = time.monotonic()
        return found

    def _answers(self) -> bool:
        """Whether the server answers a harmless text: then what it does not answer is that text's fault."""
        if getattr(self._mine, "is_testing", False):
            return False
        self._mine.is_testing = True
        try:
            return not self.translate(["Hello."])[0].error
        except EngineGone:
            return False
        finally:
            self._mine.is_testing = False
