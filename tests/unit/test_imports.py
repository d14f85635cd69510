"""The house: imports run one way, the model files travel alone, modules stay short, the command line starts light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "boda"
# Shipped models carry copies of models/vlm.py and models/connectors.py as their remote code.
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "weights")

# Who may import whom: a module reads only lower layers and its own package. Equal rank = siblings that do not know each other.
RANK = {
    "errors": 0,
    "files": 0.5,  # below everything that writes
    "terminal": 0.5,  # ... or shows how far it is
    "endpoint": 0.5,  # ... or asks a server
    "recipe": 1,
    "data": 2,
    "models": 2,
    "train": 3,
    "search": 3,
    "evaluate": 3,
    "serve": 4,
    "cli": 5,
    "__main__": 6,
}
# They are copied into saved folders as remote code, so they know nothing of Boda but each other.
TRAVELLING = ("vlm", "flamingo", "dual_encoder", "connectors", "attention")


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source: str, module: str, is_package: bool = False) -> list[tuple[int, str, bool]]:
    """(line, absolute dotted name, was relative) of every import in the source, those inside functions included.

    `from a import b` gives `a.b`: b may be a module.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, False) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                parents = module.split(".")
                kept = parents[: len(parents) - node.level + is_package]
                start = ".".join([*kept, node.module] if node.module else kept)
            found += [(node.lineno, f"{start}.{alias.name}", node.level > 0) for alias in node.names]
    return found


def wrong_imports(source: str, module: str, is_package: bool = False) -> list[str]:
    """What a module imports and may not, as 'line: name'."""
    own = module.split(".")[1] if "." in module else ""
    if not own:  # boda/__init__.py names things lazily and imports nothing
        return [f"{line}: {name}" for line, name, _ in imports_of(source, module, is_package) if name.startswith("boda")]
    wrong = []
    for line, name, _ in imports_of(source, module, is_package):
        parts = name.split(".")
        if parts[0] != "boda" or len(parts) < 2 or parts[1] in (own, "__version__"):
            continue
        # A name that is no layer (boda.load) resolves to one that is, so it is taken for the highest.
        if RANK.get(parts[1], 99) >= RANK[own]:
            wrong.append(f"{line}: {name}")
    return wrong


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_down(path: Path):
    module = name_of(path)
    layer = [*module.split("."), ""][1]
    assert layer == "" or layer in RANK, f"{module} belongs to no layer: give '{layer}' its rank in this test and in the design"
    wrong = wrong_imports(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
    assert not wrong, f"{module} imports what lies beside or above it: {'; '.join(wrong)}"


@pytest.mark.parametrize(
    "module, line, allowed",
    [
        ("boda.data.plan", "import boda.errors", True),
        ("boda.data.plan", "from ..recipe import Data", True),
        ("boda.data.plan", "from .sample import Sample", True),
        ("boda.data.plan", "from boda.models import vlm", False),
        ("boda.data.plan", "from .. import models", False),
        ("boda.models.vlm", "def f():\n    from boda.data import render", False),
        ("boda.train.loop", "from boda.evaluate.choice import read_choice", False),
        ("boda.train.loop", "from boda import load", False),
        ("boda.recipe", "from boda import errors, __version__", True),
        ("boda.cli", "from boda.serve import api", True),
        ("boda.errors", "import boda.recipe", False),
    ],
)
def test_the_rule_itself(module: str, line: str, allowed: bool):
    assert (not wrong_imports(line, module)) is allowed


@pytest.mark.parametrize("stem", TRAVELLING)
def test_travelling_files_need_only_torch_and_transformers(stem: str):
    path = PACKAGE / "models" / f"{stem}.py"
    if not path.exists():
        pytest.skip(f"models/{stem}.py is not written yet")
    for line, name, relative in imports_of(path.read_text(encoding="utf-8"), f"boda.models.{stem}"):
        top = name.split(".")[0]
        if top == "boda":
            assert relative, f"line {line}: {name} must be imported relatively, or it is not found beside a saved model"
            assert name.split(".")[2] in TRAVELLING, f"line {line}: {name} does not travel with a saved model"
        else:
            assert top in {"torch", "transformers", *sys.stdlib_module_names}, f"line {line}: {name} may be missing elsewhere"


def test_files_stay_short():
    lengths = {name_of(path): path.read_text(encoding="utf-8").count("\n") for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > 700} == {}, "split these"
    # 14,000 held pictures, pairs and language models; documents, translation and their tools came to these.
    assert sum(code_lines(path.read_text(encoding="utf-8")) for path in MODULES) < 23_250


def code_lines(source: str) -> int:
    """Lines that hold code or a comment: docstrings are asked for, and blank lines are the formatter's."""
    documented: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            documented.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return sum(bool(line.strip()) and number not in documented for number, line in enumerate(source.splitlines(), 1))


def test_code_lines_leave_out_what_is_not_code():
    assert code_lines('"""One.\n\nTwo."""\n\nX = 1  # why\n# so\n"a word of its own"\ny = """\ntext"""\n') == 4


def test_torchvision_is_never_imported():
    for path in MODULES:
        names = {name.split(".")[0] for _, name, _ in imports_of(path.read_text(encoding="utf-8"), name_of(path))}
        assert "torchvision" not in names, path


@pytest.mark.parametrize("module", ["boda", "boda.errors", "boda.recipe", "boda.data.sample", "boda.data.sources", "boda.cli"])
def test_starting_loads_nothing_heavy(module: str):
    """`boda --help` must answer at once, so what it needs reads torch and the like only when work begins."""
    parts = module.split(".")[1:]
    if parts and not (
        PACKAGE.joinpath(*parts).with_suffix(".py").exists() or (PACKAGE.joinpath(*parts) / "__init__.py").exists()
    ):
        pytest.skip(f"{module} is not written yet")
    code = (
        f"import sys, {module}; "
        "heavy = {'torch', 'transformers', 'peft', 'matplotlib', 'pyarrow'} & set(sys.modules); "
        "print(*sorted(heavy)); sys.exit(bool(heavy))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, f"importing {module} loads: {result.stdout}{result.stderr}"
