"""What recipes can say and how two of them differ: the list of knobs, the tables of docs/recipes.md, differences."""

from __future__ import annotations

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
    lines: list[str] = []
    _compare(_named(a.model_dump(exclude={"base"})), _named(b.model_dump(exclude={"base"})), "", lines)
    return lines


class _Entries(dict):
    """A list of blocks as {name: block}."""


def _named(node: Any) -> Any:
    """A copy whose stages go by name and data sets by path (`path`, `path #2`), so that one more does not shift the rest."""
    if isinstance(node, dict):
        return {key: _named(value) for key, value in node.items()}
    if not (isinstance(node, list) and node and all(isinstance(item, dict) for item in node)):
        return node
    entries = _Entries()
    for item in node:
        name = alone = item.get("name") or item["path"]
        number = 1
        while name in entries:
            number += 1
            name = f"{alone} #{number}"
        entries[name] = _named(item)
    return entries


def _compare(before: Any, after: Any, path: str, lines: list[str]) -> None:
    if isinstance(before, dict) and isinstance(after, dict):
        if isinstance(before, _Entries):
            kept_before = [name for name in before if name in after]
            kept_after = [name for name in after if name in before]
            if kept_before != kept_after:
                lines.append(f"{path}: {_said(kept_before)} -> {_said(kept_after)}")
        for key in dict.fromkeys([*before, *after]):
            if isinstance(before, _Entries) and (key not in before or key not in after):
                lines.append(f"{path}: {_said(key if key in before else None)} -> {_said(key if key in after else None)}")
            else:
                _compare(before.get(key), after.get(key), f"{path}.{key}" if path else key, lines)
    elif before != after:
        lines.append(f"{path}: {_said(before)} -> {_said(after)}")


def _said(value: Any) -> str:
    if value is None:
        return "(unset)"
    if isinstance(value, _Entries):
        value = list(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_said, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_said(inner)}' for key, inner in value.items())}}}"
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
