"""Word by word from a list, for tests and to try a job out: other words stay as they are."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from boda.data.translate.engines import Engine, Reply
from boda.data.translate.glossary import Glossary
from boda.errors import BodaError

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


@dataclass
class Translator(Engine):
    """`model` is a file as of a glossary (source,target), or `words` says it all."""

    name: ClassVar[str] = "dictionary"
    texts_a_request: ClassVar[int] = 100

    words: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self):
        super().__post_init__()
        found = Glossary.read(self.model).pairs if self.model else {}
        self._words = found | {word.casefold(): said for word, said in self.words.items()}
        if not self._words:
            raise BodaError(
                "the engine dictionary needs a file of words as its model: csv, tsv or jsonl with source and target"
            )

    def settings(self) -> dict[str, Any]:
        said = json.dumps(self._words, sort_keys=True, ensure_ascii=False)
        return {"words": hashlib.sha256(said.encode()).hexdigest()}

    def translate(self, texts: list[str]) -> list[Reply]:
        return [
            Reply(_WORD.sub(lambda word: self._words.get(word[0].casefold(), word[0]), text), "", len(text)) for text in texts
        ]
