"""Recipe text <-> plain values: YAML 1.2 with the line of everything, and `${NAME:-default}`.

PyYAML speaks YAML 1.1, where 1e-3 is a text, `no` is false, 12:30 is a number and a key said twice wins silently. Here only its
scanner is used; scalars are read by the rules of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from boda.errors import WHY, BodaError, explaining
from boda.recipe.words import shown

_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
# kind, pattern, first characters it may have ("" = the empty text)
_SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
)


@cache
def _loader_and_dumper() -> tuple[type, type]:
    """PyYAML's loader and dumper with the scalars above. PyYAML is imported when a recipe is first read, to start fast."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    class Dumper(yaml.SafeDumper):
        pass

    def short_list(dumper: yaml.SafeDumper, values: list) -> yaml.Node:
        flow = not any(isinstance(value, dict | list) for value in values)
        return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=flow)

    def safe_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
        # PyYAML writes these line breaks as they are, and reads them as spaces.
        style = '"' if set(text) & set("\x85\u2028\u2029") else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    Dumper.add_representer(list, short_list)
    Dumper.add_representer(str, safe_text)
    Loader.yaml_implicit_resolvers = {}
    # The dumper keeps YAML 1.1's rules too: a text that either version would take for something else gets quotes.
    Dumper.yaml_implicit_resolvers = {first: list(rules) for first, rules in yaml.SafeDumper.yaml_implicit_resolvers.items()}
    for kind, pattern, letters in reversed(_SCALARS):  # the first rule that fits decides, and every whole number fits float
        rule = (f"tag:yaml.org,2002:{kind}", re.compile(rf"(?:{pattern})\Z"))
        for letter in letters:
            for resolvers in (Loader.yaml_implicit_resolvers, Dumper.yaml_implicit_resolvers):
                resolvers.setdefault(letter, []).insert(0, rule)
    return Loader, Dumper


def write_yaml(tree: dict) -> str:
    """Plain values -> YAML that `read_yaml` turns back."""
    import yaml

    escaped = map_texts(tree, lambda text: text.replace("${", "$${"))
    style: dict[str, Any] = {"allow_unicode": True, "sort_keys": False, "default_flow_style": False, "width": 120}
    return yaml.dump(escaped, Dumper=_loader_and_dumper()[1], **style)


def read_yaml(text: str, label: str) -> tuple[Any, dict[tuple, str]]:
    """A YAML document -> its plain values, and for the path of keys of each one the place it was said: `(("model", "kind"), "x.yaml,
    line 3")`, where `label` is "x.yaml"."""
    import yaml

    places: dict[tuple, str] = {}
    try:
        loader = _loader_and_dumper()[0](text)
        root = loader.get_single_node()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{label}, line {mark.line + 1}, column {mark.column + 1}" if mark else label
        why = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        hint = "; indent with spaces" if r"'\t'" in why else ""
        lines = text.splitlines()
        if mark and mark.line < len(lines) and "${" in lines[mark.line]:
            hint = "; a text with ${NAME} needs quotes inside { } and [ ]"
        raise BodaError(f"{where}: not valid YAML: {why}{hint}") from None

    def build(node: Any, path: tuple, above: tuple) -> Any:
        where = f"{label}, line {node.start_mark.line + 1}"
        places.setdefault(path, where)
        if node in above:
            raise BodaError(f"{where}: an alias refers to the block it stands in")
        if isinstance(node, yaml.MappingNode):
            mapping: dict[str, Any] = {}
            for key, value in node.value:
                line = f"{label}, line {key.start_mark.line + 1}"
                if not isinstance(key, yaml.ScalarNode):
                    raise BodaError(f"{line}: a key must be a word, not a mapping or a list")
                inner = (*path, key.value)
                if key.value in mapping:
                    raise BodaError(f"{line}: {'.'.join(map(str, inner))} is said twice")
                places[inner] = line
                mapping[key.value] = build(value, inner, (*above, node))
            return mapping
        if isinstance(node, yaml.SequenceNode):
            return [build(item, (*path, index), (*above, node)) for index, item in enumerate(node.value)]
        with explaining(f"{where}: {WHY}", BodaError):
            said = substitute(node.value)
        # Without quotes, a variable's value is read as if it stood in the file: a number is a number.
        tag = node.tag if said == node.value or node.style else loader.resolve(yaml.ScalarNode, said, (True, False))
        return _scalar(tag.rpartition(":")[2], said, where)

    return (None if root is None else build(root, (), ())), places


def _scalar(kind: str, said: str, where: str) -> Any:
    if kind in ("str", "null"):
        return said if kind == "str" else None
    if kind == "bool":
        return said.lower() == "true"
    if kind == "int":
        return int(said, {"0o": 8, "0x": 16}.get(said[:2], 10))
    if kind == "float":
        return float(re.sub(r"\.(?=[a-zA-Z])", "", said))  # .inf and .nan
    raise BodaError(f"{where}: recipes use no tags, and {shown(said)} has !{kind}")


def substitute(text: str) -> str:
    """`${NAME:-default}` -> the environment's value, or the default if it is unset or empty; `$${` stands for a plain `${`."""

    def one(match: re.Match) -> str:
        if match[0] == "$${":
            return "${"
        inside = re.fullmatch(r"([A-Za-z_]\w*)(:-(.*))?", match[1] or "", re.DOTALL)
        if not inside:
            raise BodaError(f"'{match[0]}' is not ${{NAME}} or ${{NAME:-default}}; a plain ${{ is written $${{")
        found = os.environ.get(inside[1]) or inside[3]
        if found is None:
            raise BodaError(f"the environment variable {inside[1]} is not set; set it, or write ${{{inside[1]}:-default}}")
        return found

    return re.sub(r"\$\$\{|\$\{(?:([^}]*)\})?", one, text)


def map_texts(tree: Any, change: Callable[[str], str]) -> Any:
    """A copy with every text (keys aside) changed; tuples become lists, paths texts."""
    if isinstance(tree, Mapping):
        return {key: map_texts(value, change) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [map_texts(value, change) for value in tree]
    if isinstance(tree, os.PathLike):
        tree = os.fspath(tree)
    return change(tree) if isinstance(tree, str) else tree
