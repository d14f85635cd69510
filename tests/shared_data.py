"""Real data for tests: `$BODA_DATA`, else ../shared/data beside the repository; tests skip, saying so, where it is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("BODA_DATA") or Path(__file__).parents[2] / "shared" / "data")


def shared_data(name: str) -> Path:
    """The file or folder `name` of the real data; skips the test if it is not there."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"no {name} in {FOLDER}; BODA_DATA names the folder that holds it")
    return path
