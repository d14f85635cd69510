"""What all verbs share: the global switches, how people and programs are spoken to, and common options."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

settings = {"quiet": False, "verbose": False, "json": False}

Pairs = Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="as the recipe's knob of that name; repeatable")]
Overrides = Annotated[list[str] | None, typer.Argument(help="knobs to change, e.g. seed=1 stages.align.max_steps=20")]
DataDir = Annotated[Path | None, typer.Option("--data", help="where relative data paths are looked up first")]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="run code that comes with the model")]
OutDir = Annotated[Path | None, typer.Option("--out", help="folder of the run; runs/<recipe> unless given")]


def pairs_of(words: list[str] | None) -> dict[str, str]:
    """KEY=VALUE words."""
    if wrong := [word for word in words or [] if "=" not in word]:
        raise typer.BadParameter(f"'{wrong[0]}' is no KEY=VALUE, such as answer=정답")
    return dict(word.split("=", 1) for word in words or [])


def run_name(model: str) -> str:
    """What a run is called unless it is told: after the run whose model it is, or as the model is."""
    place = Path(model).absolute()
    if place.is_dir():
        return place.parent.name if place.name == "model" else place.name
    return re.sub(r"\W+", "-", model.rpartition("://")[2]).strip("-")


def say(text: str) -> None:
    """For people: nothing with --quiet; on stderr with --json, which keeps stdout for the object."""
    if not settings["quiet"]:
        print(text, file=sys.stderr if settings["json"] else sys.stdout, flush=True)


def result(values: dict, text: str = "") -> None:
    """The outcome of a verb: `text`, if there is any to say, for people, `values` with --json."""
    if settings["json"]:
        print(json.dumps(values, ensure_ascii=False))
    elif text:
        print(text)
