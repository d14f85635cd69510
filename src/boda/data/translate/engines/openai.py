"""A language model behind any endpoint that speaks as OpenAI's does: a text a request, asked for by a prompt."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from boda.data.translate.engines import EngineGone, Reply, checked
from boda.data.translate.engines.prompt import Prompt
from boda.data.translate.engines.service import Service
from boda.endpoint import ChatEndpoint, Unanswered, read_key
from boda.errors import BodaError

KEYS = ("BODA_TRANSLATE_KEY", "OPENAI_API_KEY")
OPENAI = "https://api.openai.com/v1"
REMEMBERED = 1000  # requests; a job asks again at once


@dataclass
class Translator(Service):
    """`model` as the server calls it; `prompt` is a file. A server of one's own needs no key. `temperature` None: the server's own."""

    name: ClassVar[str] = "openai"

    url: str = OPENAI
    prompt: str | Path = ""
    temperature: float | None = 0.0

    def __post_init__(self):
        super().__post_init__()
        if not self.model:
            raise BodaError("the engine openai needs a model, as the server calls it")
        self._prompt = Prompt(self.prompt)
        self._limit = "max_tokens"
        self._asked: deque[str] = deque(maxlen=REMEMBERED)

    def settings(self) -> dict[str, Any]:
        return {"prompt": self._prompt.text, "temperature": self.temperature}

    @cached_property
    def endpoint(self) -> ChatEndpoint:
        name, limits = "translation server", {"timeout": self.timeout, "retries": self.retries, "wait": self.wait}
        if self.url == OPENAI and not read_key(KEYS, name):
            raise EngineGone(
                f"the engine openai needs a key; put it into {' or '.join(KEYS)}, or give the url of another server"
            )
        advice = "start it, or give another url"
        return ChatEndpoint(self.url, name, EngineGone, self.model, KEYS, advice=advice, **limits)

    def check(self) -> None:
        self.endpoint.probe("models")

    def translate(self, texts: list[str]) -> list[Reply]:
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> Reply:
        limit, size = self._limit, 256 + 4 * len(text)
        messages = self._prompt.messages(text.strip(), self.source_language, self.glossary)
        body: dict[str, Any] = {"model": self.model, "messages": messages, limit: size}
        if self.temperature is not None:
            body["temperature"] = self.temperature
        # A server that knows this header bills a request once that is sent again after it has got lost. What was answered and is asked
        # again is a request of its own: the answer was of no use.
        key = hashlib.sha256(json.dumps(body).encode()).hexdigest()
        again = "-again" if key in self._asked else ""
        try:
            found, why, tokens = self.ask("chat/completions", body, self._read, {"Idempotency-Key": key + again})
        except Unanswered as error:
            if limit == "max_tokens" and "max_completion_tokens" in str(error):
                self._limit = "max_completion_tokens"  # what newer models of OpenAI's call it
                return self._one(text)
            return Reply(error=str(error))
        self._asked.append(key)
        cut = f"the translation was cut off after {size} tokens" if why == "length" else f"the model gave up: {why}"
        if why not in (None, "stop"):
            return Reply(error=cut, characters=len(text.strip()), tokens=tokens)
        return checked(text, found, len(text.strip()), tokens)

    def _read(self, found: Any) -> tuple[str, str | None, int]:
        """A reply -> its text, why it ended, and what it has cost."""
        choice = found["choices"][0]
        tokens = (found.get("usage") or {}).get("total_tokens")
        return self.endpoint.text(choice), choice.get("finish_reason"), int(tokens or 0)
