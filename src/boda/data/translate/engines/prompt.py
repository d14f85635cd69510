"""How a language model is asked for a translation: a template with {text}, {source_language} and {glossary}."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from boda.data.translate.glossary import Glossary
from boda.errors import WHY, BodaError, explaining

# What a code is called in a prompt; other codes, and names, are written as they are.
_NAMES = (
    "ar=Arabic de=German en=English es=Spanish fr=French id=Indonesian it=Italian ja=Japanese pt=Portuguese ru=Russian th=Thai "
    "vi=Vietnamese zh=Chinese"
)
LANGUAGES = {"auto": "the language it is written in", **dict(pair.split("=") for pair in _NAMES.split())}


class Prompt:
    """A template, from a file or as shipped. What stands above a line `---` is the system message, below it the user's; a line that
    names {glossary} goes where no word of the glossary is in the text.
    """

    def __init__(self, path: str | Path = ""):
        place = Path(path) if path else files("boda.data.translate") / "prompts" / "translate.txt"
        with explaining(f"the prompt {path} cannot be read: {WHY}", OSError, UnicodeDecodeError):
            self.text = place.read_text(encoding="utf-8").strip()
        if "{text}" not in self.text:
            raise BodaError(f"the prompt {path} does not say where the text goes; write {{text}} there")

    def messages(self, text: str, source_language: str, glossary: Glossary | None) -> list[dict[str, str]]:
        """The conversation whose answer is the translation."""
        said = text.casefold()
        words = [f"{source} → {target}" for source, target in (glossary.pairs if glossary else {}).items() if source in said]
        lines = [line for line in self.text.split("\n") if words or "{glossary}" not in line]
        filled = "\n".join(lines).replace("{source_language}", LANGUAGES.get(source_language, source_language))
        filled = filled.replace("{glossary}", "; ".join(words))
        system, _, user = filled.rpartition("\n---\n")
        roles = [("system", system.strip()), ("user", user.strip())]
        return [{"role": role, "content": words.replace("{text}", text)} for role, words in roles if words]
