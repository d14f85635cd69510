"""The recipe: one YAML file that says what a model is made of, what it learns from, and how, stage by stage.

    recipe = load_recipe("small-korean-vlm", ["stages.align.max_steps=20", "model.connector=linear"])

Every knob is a typed field in `schema.py` with its meaning under it; the tables of docs/recipes.md are made from them by
`python -m boda.recipe docs/recipes.md`. What is unknown, of the wrong type or contradictory is refused with the file, the line,
what is wrong and what would work.
"""

from __future__ import annotations

from boda.recipe.load import load_recipe, part_recipes, recipe_names, recipe_text
from boda.recipe.reference import knobs, recipe_difference
from boda.recipe.schema import (
    ALL_PARTS,
    PARTS,
    Data,
    Generation,
    Lora,
    ModelSpec,
    Recipe,
    Stage,
    TokenizerSpec,
    reads_input,
    template_names,
    template_text,
)

__all__ = [
    "ALL_PARTS", "PARTS", "Data", "Generation", "Lora", "ModelSpec", "Recipe", "Stage", "TokenizerSpec", "knobs", "load_recipe",
    "part_recipes", "reads_input", "recipe_difference", "recipe_names", "recipe_text", "template_names", "template_text",
]  # fmt: skip
