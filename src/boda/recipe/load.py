"""From a name, a file or a dict to a Recipe: base, inheritance between stages, overrides."""

from __future__ import annotations

import copy
import difflib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from boda.errors import WHY, BodaError, explaining
from boda.recipe.explain import explain, homes, stage_names
from boda.recipe.schema import MAKERS, Generation, ModelSpec, Recipe, Stage
from boda.recipe.text import map_texts, read_yaml, substitute
from boda.recipe.words import nearest, no_stage, shown

RECIPES = Path(__file__).parents[1] / "recipes"

# Knobs that say the same thing in two ways: saying one takes the other's place.
EXCLUSIVE = {"epochs": "max_steps", "max_steps": "epochs"}

Places = dict[tuple, str]


def recipe_names() -> list[str]:
    """The recipes Boda ships."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe_text(name: str) -> str:
    """A shipped recipe (or a recipe file) as it is written, comments included."""
    return _read(_find(name, Path()))


def load_recipe(source: str | Path | Mapping | Recipe, overrides: Iterable[str] | Mapping[str, Any] = ()) -> Recipe:
    """A recipe with its base, the inheritance between its stages and the overrides worked in.

    `source`: a shipped name, the path of a YAML file, the same as a dict, or a loaded Recipe. `overrides`: "key=value" texts, whose
    value is YAML, or a dict. Keys: `seed`, `model.connector`, `stages.NAME.max_steps`, `stages.*.batch_size`. An override changes
    what it names and nothing else: later stages do not inherit it.

    Raises BodaError: file, line and key, what is wrong and what would work; a line for each mistake.
    """
    places: Places = {}
    label, directory = "the recipe", None
    if isinstance(source, Recipe):
        tree, directory = source.model_dump(exclude={"base"}), source.directory
    elif isinstance(source, Mapping):
        tree, places = _with_base(map_texts(source, substitute), {}, Path.cwd(), ())
    else:
        path = _find(source, Path())
        tree, places = _load_file(path, ())
        label, directory = _label(path), path.parent
    origins = _inherit(tree)
    _override(tree, overrides, places, origins)
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        raise BodaError(explain(error, tree, places, origins, label)) from None
    recipe._directory = directory
    return recipe


def part_recipes(recipe: Recipe, above: Sequence[Path] = ()) -> dict[str, tuple[str, Recipe]]:
    """The recipes that make parts of a recipe's model, by part, each with the name of its folder.

    Raises BodaError where there is none, it makes no such part, or recipes need each other in a circle.
    """
    found = {}
    for part, name in recipe.model.recipes.items():
        key = f"model.{part}.recipe"
        try:
            path = _find(name, recipe.directory or Path())
        except BodaError as error:
            raise BodaError(f"{key}: {error}") from None
        _check_circle(path, above, key)
        made = load_recipe(name if path.parent == RECIPES else path)
        if made.model.kind != MAKERS[part]:
            raise BodaError(f"{key}: {name} makes a {made.model.kind}; a recipe of kind: {MAKERS[part]} is needed")
        part_recipes(made, (*above, path))
        found[part] = (path.stem, made)
    return found


def _check_circle(path: Path, chain: Sequence[Path], key: str) -> None:
    if path.resolve() in [seen.resolve() for seen in chain]:
        raise BodaError(f"{key} goes round in a circle: {' -> '.join(item.name for item in (*chain, path))}")


# ---------------------------------------------------------------- files and bases


def _find(source: str | Path, beside: Path) -> Path:
    """The file of a recipe: a shipped name, or a path from `beside`."""
    text = str(source)
    if isinstance(source, str) and text in recipe_names():
        return RECIPES / f"{text}.yaml"
    path = beside / text
    if path.is_dir():
        inside = path / "recipe.yaml"
        raise BodaError(f"{path} is a folder{f'; its recipe is {inside}' if inside.is_file() else ', not a recipe file'}")
    if path.exists():
        return path
    if isinstance(source, Path) or text.endswith((".yaml", ".yml")) or "/" in text or os.sep in text:
        shipped = f"; Boda ships '{path.stem}', written without .yaml" if path.stem in recipe_names() else ""
        raise BodaError(f"no recipe file at {path}{shipped}")
    raise BodaError(f"no recipe is called '{text}'; {nearest(text, recipe_names())}; or give the path of a .yaml file")


def _label(path: Path) -> str:
    return path.name if path.parent == RECIPES else str(path)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise BodaError(f"{path} is not UTF-8 text, so it is no recipe") from None
    except OSError as error:
        raise BodaError(f"cannot read the recipe {path}: {error.strerror}") from None


def _load_file(path: Path, chain: tuple[Path, ...]) -> tuple[dict, Places]:
    """A file with its bases worked in -> (tree, places with stages by name)."""
    _check_circle(path, chain, "base")
    tree, places = read_yaml(_read(path), _label(path))
    if not isinstance(tree, dict):
        what = "is empty" if tree is None else f"holds {shown(tree)}"
        raise BodaError(f"{_label(path)} {what}; a recipe is a mapping with at least model and stages")
    if names := stage_names(tree.get("stages")):
        for at in [at for at in places if at[:1] == ("stages",) and at[1:]]:
            places["stages", names[at[1]], *at[2:]] = places.pop(at)
    return _with_base(tree, places, path.parent, (*chain, path))


def _with_base(tree: dict, places: Places, folder: Path, chain: tuple[Path, ...]) -> tuple[dict, Places]:
    base = tree.pop("base", None)
    if base is None:
        return tree, places
    where = places.get(("base",), "base")
    if not isinstance(base, str):
        raise BodaError(f"{where}: base must be a recipe's name or path, not {shown(base)}")
    with explaining(f"{where}: base: {WHY}", BodaError):
        found = _find(base, folder)
    below, below_places = _load_file(found, chain)
    return _merge(below, tree), {**below_places, **places}


def _merge(below: Any, above: Any) -> Any:
    """Mappings are merged at every depth, stages by name; lists and all else are replaced."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return copy.deepcopy(above)
    was, becomes = ({key: part[key] for key in ("model_type", "recipe") if key in part} for part in (below, above))
    if was and becomes and was != becomes:
        return copy.deepcopy(above)  # keys of one architecture's config mean nothing in another's
    merged = dict(below)
    for key, value in above.items():
        both_stages = key == "stages" and stage_names(below.get(key)) and stage_names(value)
        merged[key] = _merge_stages(below[key], value) if both_stages else _merge(below.get(key), value)
    return merged


def _merge_stages(below: list[dict], above: list[dict]) -> list[dict]:
    changes = {stage["name"]: stage for stage in above}
    if len(changes) < len(above):
        return copy.deepcopy(above)  # two of one name, which validation refuses
    stages = []
    for stage in below:
        change = changes.pop(stage["name"], {})
        stages.append(_merge(_give_way(stage, change), change))
    return stages + copy.deepcopy(list(changes.values()))


def _give_way(below: dict, above: dict) -> dict:
    """`below` without the one of epochs and max_steps that `above` says in the other way."""
    gone = {EXCLUSIVE[key] for key in EXCLUSIVE if above.get(key) is not None and above.get(EXCLUSIVE[key]) is None}
    return {key: value for key, value in below.items() if key not in gone}


def _inherit(tree: dict) -> dict[tuple[str, str], str]:
    """Gives every stage what it does not say. Returns {(stage, inherited key): the stage that says it}."""
    origins: dict[tuple[str, str], str] = {}
    if not stage_names(tree.get("stages")):
        return origins
    for before, stage in zip(tree["stages"], tree["stages"][1:]):
        said = set(stage)
        for key, value in _give_way(before, stage).items():
            if key not in said and key in Stage.model_fields:
                stage[key] = copy.deepcopy(value)
                origins[stage["name"], key] = origins.get((before["name"], key), before["name"])
        # What belongs to a part goes no further than the stages that train it.
        trained = stage.get("train")
        if isinstance(trained, list):
            if "lora" not in said and not any(str(part).endswith(".lora") for part in trained):
                stage["lora"] = None
            if "learning_rates" not in said and isinstance(stage.get("learning_rates"), dict):
                stage["learning_rates"] = {part: rate for part, rate in stage["learning_rates"].items() if part in trained}
    return origins


# ---------------------------------------------------------------- overrides


def _override(tree: dict, overrides: Iterable[str] | Mapping[str, Any], places: Places, origins: dict) -> None:
    """Sets what the overrides name, in place."""
    if isinstance(overrides, Mapping):
        items = [(key, value, f"override '{key}'") for key, value in overrides.items()]
    else:
        items = [_split(text) for text in ([overrides] if isinstance(overrides, str) else overrides)]
    targets = [(path, value, label) for key, value, label in items for path in _targets(key, tree, label)]
    named = {path for path, _, _ in targets}
    for path, value, label in targets:
        _set(tree, path, map_texts(value, str), label)
        places[tuple(int(key) if key.isdecimal() and path[0] == "stages" else key for key in path)] = label
        if path[0] == "stages":
            origins.pop(path[1:3], None)
            other = (*path[:2], EXCLUSIVE.get(path[2]))
            if other[2] and value is not None and other not in named:
                _set(tree, other, None, label)


def _split(text: str) -> tuple[str, Any, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise BodaError(f"override '{text}' is not key=value, e.g. seed=1 or stages.NAME.max_steps=20")
    return key.strip(), read_yaml(value, f"override '{text}'")[0], f"override '{text}'"


def _targets(key: str, tree: dict, label: str) -> Iterator[tuple]:
    """The paths an override's key names, stages by name."""
    top, *rest = key.split(".")
    names = stage_names(tree.get("stages")) or []
    if top == "stages":
        if len(rest) < 2:
            stages = f"stages are {', '.join(names)}, and * for all"
            raise BodaError(f"{label} must name a stage and a knob, stages.NAME.KNOB=VALUE; {stages}")
        if rest[0] != "*" and rest[0] not in names:
            raise BodaError(f"{label}: {no_stage(rest[0], names)}, and * for all")
        knob = rest[1:]
        if knob[0] == "learning_rates" and len(knob) > 1:
            knob = [knob[0], ".".join(knob[1:])]  # names of parts hold dots themselves
        for name in names if rest[0] == "*" else rest[:1]:
            yield ("stages", name, *knob)
    elif top == "base":
        raise BodaError(f"{label}: base cannot be overridden; start from that recipe instead")
    elif top in Recipe.model_fields:
        yield (top, *rest)
    elif top in names:
        raise BodaError(f"{label}: write stages.{key}")
    elif places := homes(top, names):
        raise BodaError(f"{label}: which {top}? Write {' or '.join(place + key[len(top) :] for place in places)}")
    else:
        known = [*Recipe.model_fields, *ModelSpec.model_fields, *Generation.model_fields, *Stage.model_fields]
        near = difflib.get_close_matches(top, known, n=1)
        hint = f"did you mean {' or '.join(homes(near[0], names) or near)}?" if near else nearest(top, Recipe.model_fields)
        raise BodaError(f"{label}: nothing is called '{top}'; {hint}")


def _set(tree: dict, path: tuple, value: Any, label: str) -> None:
    node: Any = tree
    for depth, key in enumerate(path):
        here = ".".join(map(str, path[:depth]))
        if isinstance(node, list) and depth == 1:
            key = (stage_names(node) or []).index(key)
        elif isinstance(node, list):
            if not (key.isdecimal() and int(key) < len(node)):
                raise BodaError(f"{label}: {here} has entries 0 to {len(node) - 1}, no '{key}'")
            key = int(key)
        elif not isinstance(node, dict):
            raise BodaError(f"{label}: {here} is {shown(node)} and has nothing inside to set")
        if depth == len(path) - 1:
            node[key] = value
        elif isinstance(node, dict) and node.get(key) is None:
            node[key] = {}
        node = node[key]
