"""What is wrong with a recipe, in words: pydantic's errors with file and line, the keys as written, and what would work."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ValidationError

from boda.recipe.schema import At, Data, Generation, Knobs, Lora, ModelSpec, Recipe, Stage, TokenizerSpec
from boda.recipe.words import nearest, shown

_WANTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "a text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}


def explain(
    error: ValidationError,
    tree: dict,
    places: dict[tuple, str],
    origins: dict[tuple, str],
    label: str,
    block_of: Callable[[tuple], type[BaseModel]] | None = None,
) -> str:
    """What pydantic found in the recipe as plain values, every mistake on a line of its own.

    `places`: path of keys, stages by name -> where it was said (`label` where that is not known); `origins`: (stage, key) -> the
    stage it was inherited from; `block_of`: the class of the block at a path, where the tree is no recipe.
    """
    found: dict[tuple, list[Any]] = {}
    for item in error.errors(include_url=False):
        path = _path(item, tree)
        if path[:1] == ("stages",) and path[1:3] in origins:
            path = ("stages", origins[path[1:3]], *path[2:])
        found.setdefault(path, []).append(item)
    lines = []
    for path, items in found.items():
        # A value that may have one of several types fails once for each; only what fits the type it has is worth saying.
        exact = [item for item in items if item["type"] not in (*_WANTED, "literal_error")]
        deeper = any(len(other) > len(path) and other[: len(path)] == path for other in found)
        if exact or not deeper:
            where = next((places[path[:end]] for end in range(len(path), 0, -1) if path[:end] in places), label)
            lines.append(f"{where}: {'.'.join(map(str, path))}: {_complaint(path, exact or items, tree, block_of)}")
    return lines[0] if len(lines) == 1 else f"{len(lines)} mistakes in {label}:\n  " + "\n  ".join(lines)


def stage_names(stages: Any) -> list[str] | None:
    """Names of well-formed stages; None where they are not, which validation says better."""
    try:
        names = [stage["name"] for stage in stages]
    except (TypeError, KeyError):
        return None
    return names if all(isinstance(name, str) for name in names) else None


def homes(knob: str, names: list[str]) -> list[str]:
    """Where a knob can be set: `model.connector`, or `stages.NAME.batch_size` for every stage."""
    blocks = (("model", ModelSpec), ("generation", Generation))
    found = [f"{block}.{knob}" for block, kind in blocks if knob in kind.model_fields]
    return found + ([f"stages.{name}.{knob}" for name in [*names, "*"]] if knob in Stage.model_fields else [])


def _path(item: Any, tree: dict) -> tuple:
    """pydantic's place -> the keys as written, stages by name; names of alternative types are left out."""
    path: list[Any] = []
    node: Any = tree
    for index, key in enumerate(item["loc"]):
        if isinstance(node, dict) and key in node:
            node = node[key]
        elif isinstance(node, list) and isinstance(key, int):
            node = node[key]
            if path == ["stages"] and isinstance(node, dict) and isinstance(node.get("name"), str):
                key = node["name"]
        elif not (item["type"] == "missing" and index == len(item["loc"]) - 1):
            continue
        path.append(key)
    problem = item.get("ctx", {}).get("error")
    return (*path, *problem.path) if isinstance(problem, At) else tuple(path)


def _complaint(path: tuple, items: list[Any], tree: dict, block_of: Callable | None) -> str:
    first = items[0]
    kind, value = first["type"], first["input"]
    if kind == "extra_forbidden":
        known = list((block_of or _block)(path[:-1]).model_fields)
        elsewhere = [] if block_of else homes(path[-1], stage_names(tree.get("stages")) or ["NAME"])
        if elsewhere and not difflib.get_close_matches(path[-1], known, n=1):
            return f"is not set here but as {' or '.join(elsewhere)}"
        return f"unknown key; {nearest(path[-1], known)}"
    if kind == "missing":
        meaning = (block_of or _block)(path[:-1]).model_fields[path[-1]].description or ""
        return f"is missing ({' '.join(meaning.split()).split('. ')[0].rstrip('.')})"
    if kind == "value_error":
        return str(first["ctx"]["error"])
    if all(item["type"] == "literal_error" for item in items):
        valid = re.findall(r"'([^']*)'", first["ctx"]["expected"])
        return f"{shown(value)} is not known; {nearest(str(value), valid)}"
    if kind == "string_pattern_mismatch":
        return f"{shown(value)} may hold only letters, digits, - and _"
    if kind == "too_short":
        return "must not be empty"
    types = [item["type"] for item in items]
    if all(item in _WANTED or item == "literal_error" for item in types):
        wanted = " or ".join(dict.fromkeys(_WANTED.get(item["type"]) or item["ctx"]["expected"] for item in items))
        quotes = "; put it in quotes" if "string_type" in types and isinstance(value, bool | int | float) else ""
        return f"must be {wanted}, not {shown(value)}{quotes}"
    return f"{first['msg'].replace('Input should', 'must')}, not {shown(value)}"


def _block(path: tuple) -> type[Knobs]:
    """The class of the block at a path."""
    for key, kind in (("tokenizer", TokenizerSpec), ("lora", Lora), ("data", Data), ("validation", Data)):
        if key in path[1:]:
            return kind
    blocks: dict[str, type[Knobs]] = {"model": ModelSpec, "generation": Generation, "stages": Stage}
    return blocks[path[0]] if path else Recipe
