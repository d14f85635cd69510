"""Papago's text translation of the NAVER Cloud Platform: api.ncloud-docs.com, a text a request."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from boda.data.translate.engines import Reply, checked
from boda.data.translate.engines.service import Service
from boda.endpoint import Endpoint, Unanswered
from boda.errors import BodaError

KEYS = ("PAPAGO_CLIENT_ID", "PAPAGO_CLIENT_SECRET")
MOST_CHARACTERS = 5_000


@dataclass
class Translator(Service):
    """The client's id and secret are those of an application of the platform with Papago Translation chosen in it."""

    name: ClassVar[str] = "papago"
    characters_a_request: ClassVar[int] = MOST_CHARACTERS

    url: str = "https://papago.apigw.ntruss.com/nmt/v1"

    def __post_init__(self):
        super().__post_init__()
        if self.model:
            raise BodaError(f"the engine papago has no model '{self.model}' to choose; leave the model out")

    @cached_property
    def endpoint(self) -> Endpoint:
        client, secret = (self._key(key) for key in KEYS)
        headers = {"X-NCP-APIGW-API-KEY-ID": client, "X-NCP-APIGW-API-KEY": secret}
        refused = f"does not take the id and secret; put the right ones into {' and '.join(KEYS)}"
        # 429 is a pace that was too fast, which passes, or a quota that is used up, which does not.
        return self._endpoint(
            self.url, "Papago API", headers, [secret, client], {401: refused, 403: refused}, exhausted="Quota Exceed"
        )

    def check(self) -> None:
        self.endpoint  # noqa: B018  raises where a key is missing; anything asked would cost

    def translate(self, texts: list[str]) -> list[Reply]:
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> Reply:
        if len(text) > MOST_CHARACTERS:
            return Reply(error=f"the text has {len(text):,} characters, and Papago takes {MOST_CHARACTERS:,}")
        source = {"zh": "zh-CN"}.get(self.source_language, self.source_language)
        body = {"source": source, "target": "ko", "text": text.strip()}
        try:
            return self.ask("translation", body, lambda found: self._read(text, found))
        except Unanswered as error:
            return Reply(error=str(error))

    def _read(self, text: str, found: Any) -> Reply:
        return checked(text, self.endpoint.clean(found["message"]["result"]["translatedText"]), len(text.strip()))
