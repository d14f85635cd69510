"""What recipes can say and how two of them differ: the list of knobs, the tables of docs/recipes.md, differences."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, count
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from boda.recipe.schema import Data, Generation, Knobs, Lora, ModelSpec, Recipe, Stage, TokenizerSpec

BLOCKS: dict[str, type[Knobs]] = {
    "": Recipe,
    "model": ModelSpec,
    "model.tokenizer": TokenizerSpec,
    "stages": Stage,
    "stages.data": Data,
    "stages.lora": Lora,
    "generation": Generation,
}
MARKS = ("<!-- knobs: made by `python -m boda.recipe docs/recipes.md` -->\n", "<!-- end of knobs -->\n")


def recipe_difference(a: Recipe, b: Recipe) -> list[str]:
    """What differs, a line each: `stages.align.learning_rate: 0.001 -> 0.002`."""
    return list(_differences(a.model_dump(exclude={"base"}), b.model_dump(exclude={"base"}), ""))


def _differences(before: Any, after: Any, path: str) -> Iterator[str]:
    was, becomes = _entries(before), _entries(after)
    if was and becomes:
        kept_before, kept_after = [name for name in was if name in becomes], [name for name in becomes if name in was]
        if kept_before != kept_after:
            yield f"{path}: {_said(kept_before)} -> {_said(kept_after)}"
        for name in dict.fromkeys([*was, *becomes]):
            if name in was and name in becomes:
                yield from _differences(was[name], becomes[name], f"{path}.{name}")
            else:
                yield f"{path}: {name} -> (unset)" if name in was else f"{path}: (unset) -> {name}"
    elif isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            yield from _differences(before.get(key), after.get(key), f"{path}.{key}" if path else key)
    elif before != after:
        yield f"{path}: {_said(before)} -> {_said(after)}"


def _entries(value: Any) -> dict[str, Any]:
    """A list of blocks as {name: block}: stages by name, data sets by path (`path`, `path #2`), so that one more does not shift
    the rest. Empty for all else."""
    entries: dict[str, Any] = {}
    if not (isinstance(value, list) and all(isinstance(item, dict) and {"name", "path"} & item.keys() for item in value)):
        return entries
    for item in value:
        alone = str(item.get("name") or item.get("path"))
        names = chain([alone], (f"{alone} #{number}" for number in count(2)))
        entries[next(name for name in names if name not in entries)] = item
    return entries


def _said(value: Any) -> str:
    if value is None:
        return "(unset)"
    if isinstance(value, list):
        return f"[{', '.join(map(_said, _entries(value) or value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_said(inner)}' for key, inner in value.items() if inner is not None)}}}"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if value != "" else '""'


def knobs() -> list[str]:
    """The distinct names of all that can be set, sorted; blocks that only hold others are not counted."""
    names = set()
    for block in BLOCKS.values():
        for name, field in block.model_fields.items():
            if not all(_is_block(kind) or kind is NoneType for kind in _alternatives(field.annotation)):
                names.add(name)
    return sorted(names)


def recipe_reference() -> str:
    """The tables of docs/recipes.md: every knob with its type, its default and its meaning."""
    lines = []
    for path, block in BLOCKS.items():
        lines += [f"### {f'`{path}`' if path else 'The recipe'}", "", (block.__doc__ or "").strip(), ""]
        lines += ["| knob | type | default | meaning |", "| --- | --- | --- | --- |"]
        for name, field in block.model_fields.items():
            meaning = " ".join((field.description or "").split())
            lines.append(f"| `{name}` | {_type_words(field.annotation)} | {_default(field)} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def update_reference(page: str) -> str:
    """A page with what stands between its two marks made anew."""
    before, mark, rest = page.partition(MARKS[0])
    assert mark, f"the page lacks the line {MARKS[0]}"
    return f"{before}{mark}\n{recipe_reference()}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}"


def _alternatives(annotation: Any) -> list[Any]:
    """The types a knob may have, limits left out."""
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _alternatives(part)]
    return [annotation]


def _is_block(kind: Any) -> bool:
    inner = get_args(kind)[0] if get_origin(kind) is list else kind
    return isinstance(inner, type) and issubclass(inner, Knobs)


def _type_words(annotation: Any) -> str:
    plain = {str: "text", int: "whole number", float: "number", bool: "`true`, `false`"}
    words = []
    for kind in _alternatives(annotation):
        origin, inner = get_origin(kind), get_args(kind)
        if _is_block(kind):
            words.append("list of blocks" if origin is list else "block")
        elif origin is Literal:
            words.append(", ".join(f"`{value}`" for value in inner))
        elif origin is list:
            words.append(f"list of {_type_words(inner[0])}s")
        elif origin is dict:
            words.append("mapping" if inner[1] is Any else f"mapping to {_type_words(inner[1])}")
        elif kind is not NoneType:
            words.append(plain[kind])
    return " or ".join(words)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is not None or field.default in (None, "", [], {}):
        return ""
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"
