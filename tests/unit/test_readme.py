"""What the READMEs show is true: recipes load, commands and linked files exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
import yaml

from boda.cli import app
from boda.recipe import load_recipe, recipe_names

ROOT = Path(__file__).parents[2]
READMES = [ROOT / "README.md", ROOT / "README.ko.md"]


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.name)
def test_the_recipe_shown_loads(path: Path):
    blocks = re.findall(r"```yaml\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        recipe = load_recipe(yaml.safe_load(block.replace("1e-3", "1.0e-3").replace("2e-5", "2.0e-5")))
        assert [stage.name for stage in recipe.stages] == ["align", "instruct"]
        assert recipe.stages[1].batch_size == 256  # inherited


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.name)
def test_commands_and_recipes_shown_exist(path: Path):
    text = path.read_text(encoding="utf-8")
    commands = set(typer.main.get_command(app).commands)
    shown = set(re.findall(r"^boda ([a-z]+)", text, re.MULTILINE))
    assert shown and shown <= commands
    named = set(re.findall(r"boda (?:train|inspect)\s+([a-z0-9.-]*[a-z0-9])", text))
    assert named and named <= set(recipe_names())


@pytest.mark.parametrize("path", [*READMES, *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path):
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not missing


def test_both_languages_show_the_same_commands():
    code = [re.findall(r"^```\w*\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE) for path in READMES]
    without_comments = [[re.sub(r"\s+#.*", "", block) for block in blocks] for blocks in code]
    assert without_comments[0] == without_comments[1]
