"""A conversation with a model on the terminal, streamed."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

import boda
from boda.data.images import load_image
from boda.errors import BodaError
from boda.models.generate import SETTINGS, is_vlm, resolve_settings, stream
from boda.recipe import Generation, reads_input
from boda.recipe.text import read_yaml
from boda.recipe.words import nearest
from boda.terminal import harmless

EXAMPLES = {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.2, "beams": 4, "max_new_tokens": 256}


def split_words(words: list[str]) -> tuple[list[str], list[str]]:
    """Words of the command line -> (settings, the rest). `name=value` is a setting if the name is one or it has no spaces."""
    is_setting = [bool(re.fullmatch(r"[a-z_]+=\S*", word)) or word.partition("=")[0] in SETTINGS for word in words]
    return [w for w, yes in zip(words, is_setting) if yes], [w for w, yes in zip(words, is_setting) if not yes]


def read_setting(word: str) -> tuple[str, object]:
    """`temperature=0.7` -> its name and value. Raises BodaError for a name or value that is none."""
    name, _, text = word.partition("=")
    if name not in SETTINGS:
        raise BodaError(f"'{word}': no generation setting is called '{name}'; {nearest(name, SETTINGS)}")
    value = text if name == "system" else read_yaml(text, word)[0]
    if name == "seed":
        if type(value) is not int or value < 0:
            raise BodaError(f"'{word}': seed is a whole number from 0")
        return name, value
    if name == "stop":
        value = [str(each) for each in value] if isinstance(value, list) else [text]
    try:
        return name, getattr(Generation.model_validate({name: value}), name)
    except ValidationError as error:
        why = error.errors()[0]["msg"]
        raise BodaError(f"'{word}': {why[0].lower()}{why[1:]}, e.g. {name}={EXAMPLES[name]}") from None


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
        settings: Sequence[str] = (),
        trust_remote_code: bool = False,
    ):
        self.settings = dict(map(read_setting, settings)) | ({} if system is None else {"system": system})
        self.pictures, self.context, self.name = [load_image(path) for path in images], context, model
        self.model, self.processor = boda.load(model, trust_remote_code=trust_remote_code)
        if hasattr(self.model, "get_text_features"):
            raise BodaError(
                f"'{model}' compares pictures with texts and answers nothing; ask it by boda classify or boda search"
            )
        self._check_pictures()
        if not self.processor.chat_template:
            raise BodaError(f"'{model}' has no chat template, so it continues texts and answers no questions")
        resolve_settings(self.model, self.settings)
        self.messages: list[dict] = []

    def _check_pictures(self) -> None:
        if self.pictures and not is_vlm(self.processor):
            self.pictures = []
            raise BodaError(f"'{self.name}' is a language model and sees no pictures; ask it without any")

    def ask(self, question: str, echo: bool = True) -> str:
        """The answer to one question, written to stdout as it comes. The turn is remembered unless an error or Ctrl-C breaks it off."""
        if not question.strip():
            raise BodaError("the question is empty")
        texts = [question]
        if self.context and reads_input(self.processor.chat_template):
            texts = [question, f"\n\n{self.context}"]  # its template has a place of its own for what a question is about
        elif self.context:
            texts = [f"{self.context}\n\n{question}"]
        pictures = ({"type": "image", "image": picture} for picture in self.pictures)
        turn = {"role": "user", "content": [*pictures, *({"type": "text", "text": text} for text in texts)]}
        answer = ""
        with contextlib.closing(stream(self.model, self.processor, [*self.messages, turn], **self.settings)) as pieces:
            for piece in pieces:
                answer += piece
                if echo:
                    print(harmless(piece), end="", flush=True)
        if echo:
            print(flush=True)
        self.context, self.pictures = None, []
        self.messages += [turn, {"role": "assistant", "content": answer}]
        return answer

    def interactive(self) -> None:
        """Reads questions until the end of input. `/image FILE` adds a picture, `/new` begins again, Ctrl-C ends an answer."""
        is_terminal = sys.stdin.isatty()
        if is_terminal:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  (gives input() its line editing)
            print("Ask in Korean. /image FILE adds a picture, /new begins again, Ctrl-D ends.", file=sys.stderr)
        while True:
            try:
                line = input("> " if is_terminal else "").strip()
            except EOFError:
                return
            try:
                self._answer(line)
            except BodaError as error:
                print(f"boda: {error}", file=sys.stderr)
            except KeyboardInterrupt:
                if not is_terminal:
                    raise
                print("\n(broken off)", file=sys.stderr)

    def _answer(self, line: str) -> None:
        command, _, rest = line.partition(" ")
        if command == "/new":
            self.messages, self.pictures = [], []
        elif command == "/image":
            self.pictures.append(load_image(Path(rest.strip().strip("'\""))))
            self._check_pictures()
        elif command.startswith("/"):
            raise BodaError(f"no command {command}; there are /image FILE and /new")
        elif line:
            self.ask(line)
