"""Who translates into Korean. A new engine is a module here with a class `Translator`, and its name in ENGINES."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from boda.data.translate.glossary import Glossary
from boda.errors import BodaError

ENGINES = {name: f"{__name__}.{name}" for name in ("openai", "deepl", "papago", "local", "dictionary")}


class EngineGone(BodaError):
    """Nothing more can be had: no key or a refused one, a quota used up, nobody there. What was translated is kept."""


@dataclass(frozen=True)
class Reply:
    """A translation, or `error`, why there is none; and what was billed for it."""

    text: str = ""
    error: str = ""
    characters: int = 0
    tokens: int = 0


@dataclass
class Engine:
    """Translates lines of text. Keys and models are looked for when they are first needed, not before.

    `source_language` is a code such as `en`, or `auto`; `price` is in US dollars a million characters, 0 where none is known.
    """

    name: ClassVar[str]
    texts_a_request: ClassVar[int] = 1
    characters_a_request: ClassVar[int] = 100_000  # so many that no sentence is longer: the engine tells what it cannot take

    model: str = ""
    source_language: str = "auto"
    glossary: Glossary | None = None
    price: float = 0.0
    concurrency: int = 8

    def __post_init__(self):
        self.model = str(self.model)
        if self.concurrency < 1 or self.price < 0:
            raise BodaError("an engine needs a concurrency of at least 1 and a price that is not below 0")
        self.stop = threading.Event()  # set: whoever waits for the engine's server gives up

    @property
    def placeholder(self) -> str:
        """How a protected span is written for this engine, {} being its number."""
        return "⟦{}⟧"

    @property
    def identity(self) -> str:
        """The same for engines that give the same translations."""
        glossary = self.glossary.identity if self.glossary else ""
        said = [self.name, self.model, self.source_language, self.placeholder, glossary, self.settings()]
        return hashlib.sha256(json.dumps(said, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]

    def settings(self) -> dict[str, Any]:
        """What else changes a translation: prompt, decoding."""
        return {}

    def price_of(self, characters: int) -> float:
        """US dollars."""
        return characters * self.price / 1e6

    def check(self) -> None:
        """One look before a job. Raises EngineGone: no key, nobody there."""

    def left(self) -> int | None:
        """Characters that the account may still have translated; None where the engine does not say."""
        return None

    def translate(self, texts: list[str]) -> list[Reply]:
        """A reply for each text, a line of its own, in the same order. Threads may call it at the same time. Raises EngineGone."""
        raise NotImplementedError


def open_engine(name: str, /, model: str = "", **options: Any) -> Engine:
    """The engine of this name; a `glossary` may be a file. Raises BodaError: no such engine, or an option that it does not have."""
    if name not in ENGINES:
        raise BodaError(f"no translation engine '{name}'; there are {', '.join(ENGINES)}")
    kind: type[Engine] = import_module(ENGINES[name]).Translator
    known = {field.name: field.type for field in fields(kind) if field.name != "model"}
    for option, value in options.items():
        if option not in known:
            raise BodaError(f"the engine {name} has no setting '{option}'; it has {', '.join(known)}")
        kind_of: Any = {"int": int, "float": (int, float)}.get(str(known[option]), object)
        if not isinstance(value, kind_of):
            raise BodaError(f"the engine {name}: {option} is a{' whole' * (kind_of is int)} number, not '{value}'")
    if isinstance(path := options.get("glossary"), (str, Path)):
        options["glossary"] = Glossary.read(path) if str(path) else None
    return kind(model, **options)


def checked(source: str, text: str, characters: int, tokens: int = 0) -> Reply:
    """What an engine wrote for a line, between the spaces of the line; nothing, or more than a line, is an error."""
    found, said = text.strip(), source.strip()
    error = "" if found else "the engine gave an empty translation"
    if len(lines := re.split(r"\r\n?|\n", found)) > 1 and "\n" not in said:
        error = f"the engine gave {len(lines)} lines for one"
    begin, _, end = source.partition(said) if said else (source, "", "")
    return Reply("" if error else begin + found + end, error, characters, tokens)
