"""What reports and model cards say, in Korean and English: `words.json`."""

from __future__ import annotations

import json
from importlib.resources import files

from boda.errors import BodaError

LANGUAGES = ("ko", "en")


def words(place: str, language: str) -> dict[str, str]:
    """All that a `page` or a `card` says in a language, and its `lang`. Raises BodaError: a language that is not there."""
    if language not in LANGUAGES:
        raise BodaError(f"no language '{language}' for a report; there are {', '.join(LANGUAGES)}")
    told = json.loads((files("boda.evaluate") / "words.json").read_text(encoding="utf-8"))[place]
    return {"lang": language, **{name: said[language] for name, said in told.items()}}
