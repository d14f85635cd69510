"""The page on Flamingos: what it shows runs and is as it says, on drawn data and, for what is published, on tiny stand-ins."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from boda.cli import app
from boda.recipe.schema import FLAMINGO, PARTS
from tests import tiny
from tests.flamingo_layouts import Flamingo
from tests.small_recipes import shrunk

PAGE = (Path(__file__).parents[2] / "docs" / "flamingo.md").read_text(encoding="utf-8")
FEW = ["stages.documents.max_steps=2", "stages.documents.data.0.limit=40"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def boda(words: list[str]):
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, (words, done.output, done.exception)
    return done


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BODA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BODA_DATA", "")
    return tmp_path


def test_the_flamingo_with_nothing_to_download(folder, capsys):
    """Recipe, commands and Python code, in their order, with two steps and a few rows."""
    (recipe,), (commands,), (code,) = blocks("yaml"), blocks("bash"), blocks("python")
    Path("my-flamingo.yaml").write_text(recipe, encoding="utf-8")
    for command in commands.splitlines():
        program, *words = shlex.split(command)
        assert program == "boda"
        more = {"inspect": FEW, "train": FEW, "eval": ["--limit", "4", "--json"]}.get(words[0], [])
        done = boda([*words, *more])
        if words[0] == "eval":
            assert all(found["n"] == 4 for found in json.loads(done.stdout.splitlines()[-1])["tasks"].values()), command
    exec(code, {})
    shown = re.search(r"^# (<image>.*)$", code, re.MULTILINE)
    assert shown and capsys.readouterr().out.splitlines()[0] == shown[1]


def test_what_is_published_on_stand_ins(folder):
    """The recipe's commands with tiny backbones and two steps, an import of a tiny checkpoint, a translation that is only counted."""
    flamingo = Flamingo()
    tiny.random_picture(0).save("photo.jpg")
    flamingo.write(Path("checkpoint_71.pt"))
    changes = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in shrunk("openflaminko", folder).items()]
    parts = {"EleutherAI/polyglot-ko-1.3b": flamingo.language_folder, "openai/clip-vit-large-patch14": flamingo.vision_folder}
    Path("laion").mkdir()
    shutil.copy(next(folder.glob("captions/**/*.tar")), "laion")
    ran = set()
    for command in "".join(blocks("sh")).splitlines():
        _, *words = (str(parts.get(word, word)) for word in shlex.split(command.replace("DIR", ".")))
        boda([*words, *(changes if words[0] in ("inspect", "train") else [])])
        ran.add(words[0])
    assert ran == {"inspect", "train", "chat", "data", "import"}
    assert json.loads(Path("models/openflaminko/boda.json").read_text(encoding="utf-8"))["imported"]["layout"] == "OpenFlamingo"


def test_every_setting_and_part_is_named():
    """With the defaults that the recipe fills in."""
    table = dict(re.findall(r"^\| (`[^|]*`) \| ([^|]*) \|", PAGE, re.MULTILINE))
    told: dict = {}
    for names, values in table.items():
        for name, value in zip(names.split(", "), values.split(", ")):
            told[name.strip("`")] = value
    assert {name: told.get(name) for name in FLAMINGO} == {
        name: json.dumps(value) if not isinstance(value, list) else "[]" for name, value in FLAMINGO.items()
    }
    assert all(f"`{part}`" in PAGE for part in PARTS["flamingo"])
