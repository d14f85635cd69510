"""One uninterrupted run that the others are compared with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.runs import start, write_recipe


@pytest.fixture(scope="session")
def baseline(tmp_path_factory) -> tuple[Path, Path]:
    """(recipe, folder of its uninterrupted run)."""
    folder = tmp_path_factory.mktemp("baseline")
    recipe = write_recipe(folder)
    run = start(["train", str(recipe), "--out", str(folder / "run")], folder)
    assert run.wait() == 0, run.stderr
    assert f"model: {folder / 'run' / 'model'}" in run.stdout
    return recipe, folder / "run"
