"""`python -m boda.recipe docs/recipes.md`: makes the tables of knobs in that page anew."""

from __future__ import annotations

import sys
from pathlib import Path

from boda.recipe.reference import update_reference

if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(update_reference(page.read_text(encoding="utf-8")), encoding="utf-8")
