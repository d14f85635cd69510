"""DeepL's API, free or pro: developers.deepl.com, texts as XML with what is protected as empty elements."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar
from xml.sax.saxutils import escape

from boda.data.translate.engines import Reply, checked
from boda.data.translate.engines.service import Service
from boda.endpoint import Endpoint, Refused, Unanswered

KEY = "DEEPL_API_KEY"
MOST_TEXTS, MOST_BYTES = 50, 128 * 1024  # of a request, all of its body counted
_MARK = re.compile(r'<x id="(\d+)"/>')
_ANY_MARK = re.compile(r'<x\s+id\s*=\s*"(\d+)"\s*(?:/>|>\s*</x>)')  # XML has several ways to write it


@dataclass
class Translator(Service):
    """A key that ends in `:fx` is of the free API, which has a host of its own. `model` is DeepL's `model_type`, if any."""

    name: ClassVar[str] = "deepl"
    texts_a_request: ClassVar[int] = MOST_TEXTS
    characters_a_request: ClassVar[int] = 20_000  # six bytes each, and they fit

    @property
    def placeholder(self) -> str:
        return '<x id="{}"/>'

    def settings(self) -> dict[str, Any]:
        return {"tag_handling": "v2"}

    @cached_property
    def endpoint(self) -> Endpoint:
        key = self._key(KEY)
        url = self.url or f"https://api{'-free' if key.endswith(':fx') else ''}.deepl.com/v2"
        refused = f"does not take the key; put the right one into {KEY}"
        refusals = {
            401: refused,
            403: refused,
            456: "has no characters left for this account; more come with the next month or plan",
        }
        return self._endpoint(url, "DeepL API", {"Authorization": f"DeepL-Auth-Key {key}"}, [key], refusals)

    def check(self) -> None:
        self.left()

    def left(self) -> int | None:
        def read(found: Any) -> int | None:
            limit = found.get("character_limit")
            return None if limit is None else max(0, int(limit) - int(found["character_count"]))

        return self.ask("usage", None, read)

    def translate(self, texts: list[str]) -> list[Reply]:
        return [reply for part in self._requests(texts) for reply in self._some(part)]

    def _body(self, texts: list[str]) -> dict[str, Any]:
        body = {
            "text": [_as_xml(text.strip()) for text in texts],
            "target_lang": "KO",
            "tag_handling": "xml",
            "tag_handling_version": "v2",
            "ignore_tags": ["x"],
            "show_billed_characters": True,
        }
        if self.source_language != "auto":
            body["source_lang"] = self.source_language.upper()
        return body | ({"model_type": self.model} if self.model else {})

    def _requests(self, texts: list[str]) -> Iterator[list[str]]:
        """The texts in groups that a request may hold; one that is too long stands alone."""
        part: list[str] = []
        for text in texts:
            if part and (len(part) == MOST_TEXTS or self._size([*part, text]) > MOST_BYTES):
                yield part
                part = []
            part = [*part, text]
        if part:
            yield part

    def _size(self, texts: list[str]) -> int:
        return len(json.dumps(self._body(texts)))

    def _some(self, texts: list[str]) -> list[Reply]:
        if self._size(texts) > MOST_BYTES:
            return [Reply(error=f"the text is longer than the {MOST_BYTES // 1024} KiB that DeepL takes")]
        try:
            found = self.ask("translate", self._body(texts), lambda found: _replies(texts, found, self.endpoint))
        except Refused as error:
            if len(texts) == 1:
                return [Reply(error=str(error))]
            half = len(texts) // 2  # one of them is at fault, and the others shall not go with it
            return self._some(texts[:half]) + self._some(texts[half:])
        except Unanswered as error:
            return [Reply(error=str(error)) for _ in texts]
        return found


def _replies(texts: list[str], found: Any, endpoint: Endpoint) -> list[Reply]:
    answers = found["translations"]
    if len(answers) != len(texts):
        raise ValueError("as many translations as texts are expected")
    replies = []
    for text, answer in zip(texts, answers):
        billed = answer.get("billed_characters")
        characters = len(_MARK.sub("", text.strip())) if billed is None else int(billed)
        replies.append(checked(text, endpoint.clean(_from_xml(answer["text"])), characters))
    return replies


def _as_xml(text: str) -> str:
    """Signs of XML escaped, but for those of placeholders, and what XML has no way to say left out."""
    pieces = _MARK.split(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]", "", text))
    return "".join(f'<x id="{piece}"/>' if place % 2 else escape(piece) for place, piece in enumerate(pieces))


def _from_xml(text: str) -> str:
    pieces = _ANY_MARK.split(text)
    return "".join(f'<x id="{piece}"/>' if place % 2 else html.unescape(piece) for place, piece in enumerate(pieces))
