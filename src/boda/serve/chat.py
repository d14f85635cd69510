"""A conversation with a model on the terminal, streamed."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

import boda
from boda.data.images import load_image
from boda.errors import BodaError
from boda.models.generate import is_vlm, resolve_settings, stream


class Conversation:
    """Turns with one model; pictures belong to the next question.

    Raises BodaError for a model, picture or setting that cannot be used, before anything is generated.
    """

    def __init__(
        self,
        model: str,
        images: list[Path],
        system: str | None = None,
        context: str | None = None,
        settings: list[str] | None = None,
        trust_remote_code: bool = False,
    ):
        self.pictures = [load_image(path) for path in images]
        self.settings = dict(self._setting(word) for word in settings or [])
        if system is not None:
            self.settings["system"] = system
        self.context = context
        self.model, self.processor = boda.load(model, trust_remote_code=trust_remote_code)
        if self.pictures and not is_vlm(self.processor):
            raise BodaError(f"'{model}' is a language model and sees no pictures; ask it without --image")
        resolve_settings(self.model, self.settings)
        self.messages: list[dict] = []

    @staticmethod
    def _setting(word: str) -> tuple[str, object]:
        name, _, value = word.partition("=")
        return name, yaml.safe_load(value)

    def ask(self, question: str, echo: bool = True) -> str:
        """The answer to one question; written to stdout as it comes where `echo` is on. The turn is remembered."""
        if self.context:
            question, self.context = f"{self.context}\n\n{question}", None
        content = [*({"type": "image", "image": picture} for picture in self.pictures), {"type": "text", "text": question}]
        self.pictures = []
        self.messages.append({"role": "user", "content": content})
        answer = ""
        for piece in stream(self.model, self.processor, self.messages, **self.settings):
            answer += piece
            if echo:
                print(piece, end="", flush=True)
        if echo:
            print(flush=True)
        self.messages.append({"role": "assistant", "content": answer})
        return answer

    def interactive(self) -> None:
        """Reads questions until the end of input. `/image FILE` adds a picture, `/new` begins again."""
        if sys.stdin.isatty():
            print("Ask in Korean. /image FILE adds a picture, /new begins again, Ctrl-D ends.", file=sys.stderr)
        while True:
            try:
                line = input("> " if sys.stdin.isatty() else "").strip()
            except EOFError:
                return
            if line == "/new":
                self.messages, self.pictures = [], []
            elif line.startswith("/image"):
                try:
                    self.pictures.append(load_image(Path(line.removeprefix("/image").strip())))
                except BodaError as error:
                    print(error, file=sys.stderr)
            elif line:
                self.ask(line)
