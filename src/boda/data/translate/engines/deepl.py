"""DeepL's API, free or pro: developers.deepl.com, texts as XML with what is protected as empty elements."""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar
from xml.sax.saxutils import escape

from boda.data.translate.engines import Reply, checked
from boda.data.translate.engines.service import Service
from boda.endpoint import Endpoint, Unanswered

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
        used_up = "has no characters left for this account; more come with the next month or plan"
        refusals = {401: refused, 403: refused, 456: used_up}
        return self._endpoint(url, "DeepL API", {"Authorization": f"DeepL-Auth-Key {key}"}, [key], refusals)

    def check(self) -> None:
        self.left()

    def left(self) -> int | None:
        def read(found: Any) -> int | None:
            limit = found.get("character_limit")
            return None if limit is None else max(0, int(limit) - int(found["character_count"]))

        return self.ask("usage", None, read)

    def translate(self, texts: list[str]) -> list[Reply]:
        is_fitting = len(texts) <= MOST_TEXTS and len(json.dumps(self._body(texts))) <= MOST_BYTES
        if not is_fitting and len(texts) == 1:
            return [Reply(error=f"the text is longer than the {MOST_BYTES // 1024} KiB that DeepL takes")]
        if is_fitting:
            try:
                return self.ask("translate", self._body(texts), lambda found: _replies(texts, found, self.endpoint))
            except Unanswered as error:
                if len(texts) == 1:
                    return [Reply(error=str(error))]
        some = min(MOST_TEXTS, len(texts) // 2)  # a text that is at fault takes no others with it
        return self.translate(texts[:some]) + self.translate(texts[some:])

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


def _replies(texts: list[str], found: Any, endpoint: Endpoint) -> list[Reply]:
    replies = []
    for text, answer in zip(texts, found["translations"], strict=True):
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
