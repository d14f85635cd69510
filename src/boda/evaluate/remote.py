"""A model behind an address that speaks as OpenAI's API does: `https://host/v1#name`."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from boda.endpoint import ChatEndpoint, Refused
from boda.errors import BodaError
from boda.evaluate.asking import ModelGone, Reply, parts_of, with_system

KEYS = ("BODA_API_KEY", "OPENAI_API_KEY")
SENT = ("temperature", "top_p", "stop", "seed", "repetition_penalty")  # what is sent as it is called here
KINDS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}  # every server reads these


def is_address(model: Any) -> bool:
    return isinstance(model, str) and model.startswith(("http://", "https://"))


class RemoteModel:
    """A model that a server has, as an Ask from many threads. Raises BodaError: no address, or no name in it.

    The key is in BODA_API_KEY or OPENAI_API_KEY; it is sent and neither shown nor written. `settings`: a model's own, where the
    server is known to have that model.
    """

    def __init__(self, url: str, settings: dict | None = None):
        place, _, self.model = url.partition("#")
        self.settings = settings or {}
        advice = "start it, or give another address"
        self.endpoint = ChatEndpoint(place, "model", ModelGone, self.model, KEYS, advice=advice)
        if not self.model:
            raise BodaError(f"which model at {self.endpoint.place}? name it as the server calls it: https://host/v1#NAME")
        # Without what stands behind a question mark.
        self.name = f"{urlsplit(place).scheme}://{self.endpoint.place}#{self.model}"
        self._limit = "max_tokens"

    def open(self) -> RemoteModel:
        """Looks once whether somebody is there. Raises ModelGone."""
        self.endpoint.probe("models")
        return self

    def __call__(self, conversations: list[list[dict]], decoding: dict) -> Sequence[str | BodaError]:
        """One after another. Raises ModelGone, or Unanswered where only these cannot be had."""
        stop = [*(self.settings.get("stop") or ()), *(decoding.get("stop") or ())] or None  # a task's come to the model's own
        return [self._answer(messages, {**self.settings, **decoding, "stop": stop}) for messages in conversations]

    def _answer(self, messages: list[dict], decoding: dict) -> Reply:
        messages = with_system(messages, decoding.get("system"))
        body = {"model": self.model, "messages": [_sent(message) for message in messages]}
        body |= {name: decoding[name] for name in SENT if decoding.get(name) is not None}
        limit = self._limit
        try:
            return self._ask(body | {limit: decoding["max_new_tokens"]})
        except Refused as error:
            if decoding.get("within_context") and "context length" in str(error):
                return self._ask(body)  # without a limit servers give what is left of the context
            # OpenAI's newer models call it so, and take no other name.
            if limit != "max_tokens" or "max_completion_tokens" not in str(error):
                raise
        self._limit = "max_completion_tokens"
        return self._ask(body | {self._limit: decoding["max_new_tokens"]})

    def _ask(self, body: dict) -> Reply:
        def read(found: dict) -> Reply:
            usage = found.get("usage") or {}
            text = self.endpoint.text(found["choices"][0])
            return Reply(text, usage.get("completion_tokens"), usage.get("prompt_tokens"))

        return self.endpoint.ask("chat/completions", body, read)


def _sent(message: dict) -> dict:
    """A message as the API takes it: text alone as a string, pictures as `data:` addresses."""
    parts = parts_of(message)
    if all(part["type"] == "text" for part in parts):
        return {"role": message["role"], "content": "".join(part["text"] for part in parts)}
    sent = [
        {"type": "image_url", "image_url": {"url": data_url(part["image"])}}
        if part["type"] == "image"
        else {"type": "text", "text": part["text"]}
        for part in parts
    ]
    return {"role": message["role"], "content": sent}


def data_url(image: Any) -> str:
    """A picture as a `data:` address. Raises BodaError where it cannot be read.

    Its own bytes where every server sees in them what models here see: PNG, JPEG, WebP and GIF, upright, without transparency, of
    one frame; else the upright RGB picture as PNG.
    """
    from PIL import Image

    from boda.data.images import load_image
    from boda.data.sample import ImageRef

    rgb = load_image(image)
    if not isinstance(image, Image.Image | bytes) and not str(image).startswith("data:"):
        data = (image if isinstance(image, ImageRef) else ImageRef(str(image))).read()
        with Image.open(io.BytesIO(data)) as found:
            is_plain = found.mode in ("L", "P", "RGB") and "transparency" not in found.info
            if found.format in KINDS and is_plain and getattr(found, "n_frames", 1) == 1 and found.getexif().get(274, 1) == 1:
                return f"data:{KINDS[found.format]};base64,{base64.b64encode(data).decode()}"
    written = io.BytesIO()
    rgb.save(written, "PNG")
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"
