"""The frame: what is declared is pinned and complete, make documents itself, benchmark figures are what they claim."""

from __future__ import annotations

import ast
import fnmatch
import importlib.metadata
import importlib.util
import json
import os
import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import boda

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def load(path: str):
    """A benchmark file as a module (benchmarks/ is no package)."""
    name = "frame_" + Path(path).stem
    if name not in sys.modules:
        specification = importlib.util.spec_from_file_location(name, ROOT / path)
        module = importlib.util.module_from_spec(specification)
        sys.modules[name] = module
        specification.loader.exec_module(module)
    return sys.modules[name]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


# ---- packaging --------------------------------------------------------------------------------------------------------------


def test_every_direct_dependency_is_pinned_within_its_range():
    pinned = {canonicalize_name(name): version for name, version in pins().items()}
    extras = PROJECT["project"]["optional-dependencies"]
    declared = PROJECT["project"]["dependencies"] + [line for lines in extras.values() for line in lines]
    for requirement in map(Requirement, declared):
        if requirement.name == "boda":
            continue
        version = pinned.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is missing in constraints.txt"
        assert requirement.specifier.contains(version), f"{requirement} excludes the pinned {version}"


def test_every_imported_library_is_declared():
    distributions = importlib.metadata.packages_distributions()
    extras = PROJECT["project"]["optional-dependencies"]
    lines = PROJECT["project"]["dependencies"] + [line for name in extras if name != "dev" for line in extras[name]]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    for path in (ROOT / "src" / "boda").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for top in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names):
                owners = {canonicalize_name(owner) for owner in distributions.get(top, [top])}
                assert owners & declared, f"{path.name} imports {top}, which no dependency or extra declares"


def test_pins_name_no_build_and_no_address():
    for name, version in pins().items():
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version), f"{name}=={version}"


def test_all_is_every_extra_but_the_developers():
    extras = PROJECT["project"]["optional-dependencies"]
    (everything,) = map(Requirement, extras["all"])
    assert everything.extras == set(extras) - {"all", "dev"}


def test_version_is_said_once():
    assert PROJECT["project"]["version"] == boda.__version__


def test_every_file_of_the_package_is_installed():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["boda"]
    package = ROOT / "src" / "boda"
    for path in package.rglob("*"):
        name = path.relative_to(package).as_posix()
        if path.is_dir() or "__pycache__" in name or name.endswith(".py"):
            continue
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), (
            f"{name} would be missing from the installed package"
        )


def test_every_folder_with_code_is_a_package():
    package = ROOT / "src" / "boda"
    for path in package.rglob("*.py"):
        if path.relative_to(package).parts[0] != "weights":  # remote code of shipped models, installed as their other files are
            assert (path.parent / "__init__.py").exists(), f"{path.parent.name} would be missing from the installed package"


# ---- make and CI ------------------------------------------------------------------------------------------------------------


def test_help_lists_every_command():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    result = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(re.findall(r"^  make ([a-z-]+) +\S", result.stdout, re.MULTILINE)) == targets
    assert {"setup", "demo", "test", "test-long", "check", "bench", "bench-peers"} <= targets


def test_setup_without_a_python_says_what_to_do(tmp_path: Path):
    """With only an old Python on the path, setup names the need and the way out, and leaves nothing behind."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "make", "basename"):
        found = next(Path(folder, name) for folder in os.environ["PATH"].split(":") if Path(folder, name).exists())
        (tools / name).symlink_to(found)
    old = tools / "python3"
    old.write_text("#!/bin/bash\nexit 1\n")  # a Python older than 3.11 fails the version check
    old.chmod(0o755)
    environment = {"PATH": str(tools), "HOME": str(tmp_path)}
    result = subprocess.run(["make", "setup"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode != 0
    assert "Python 3.11 or newer" in result.stderr and "make setup PYTHON=" in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_ci_is_a_program_that_checks_and_tests():
    path = ROOT / ".ci" / "run"
    assert path.stat().st_mode & stat.S_IXUSR
    subprocess.run(["bash", "-n", str(path)], check=True)
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    assert lines[-2:] == ["make check", "make test"], "the tests come last, so that the last line is pytest's"


# ---- benchmarks -------------------------------------------------------------------------------------------------------------


def test_spread_and_ratio():
    common = load("benchmarks/common.py")
    found = common.spread([3.0, 1.0, 2.0])
    assert (found.median, found.low, found.high, found.n) == (2.0, 1.0, 3.0, 3)
    # The machine was three times slower in the second round: the ratio of pairs does not see it.
    found = common.ratio([30.0, 10.0], [10.0, 10.0 / 3])
    assert found.low == pytest.approx(3.0) and found.high == pytest.approx(3.0)
    with pytest.raises(common.BenchmarkError, match="pairs"):
        common.ratio([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    "value, text",
    [(0.1234, "0.123"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12,346"), (7, "7"), ("a", "a")],
)
def test_numbers_as_people_read_them(value, text):
    assert load("benchmarks/common.py").number(value) == text


def test_a_side_is_measured_in_its_own_process(tmp_path: Path):
    common = load("benchmarks/common.py")
    script = tmp_path / "side.py"
    script.write_text(
        "import json, sys, time\nblock = b'x' * (int(sys.argv[1]) * 2**20)\ntime.sleep(0.3)\n"
        "print('said before')\nprint(json.dumps({'rate': 5}))\n"
    )
    large, small = common.run_side([script, 150]), common.run_side([script, 1])
    assert large["rate"] == 5
    assert 120 < large["peak_rss_mb"] - small["peak_rss_mb"] < 180
    assert small["peak_rss_mb"] < 40, "a side's memory must not start from the memory of the process that starts it"


@pytest.mark.parametrize(
    "code, said", [("raise SystemExit('the reason')", "the reason"), ("print('no figures')", "no JSON"), ("", "no JSON")]
)
def test_a_side_that_fails_says_why(tmp_path: Path, code: str, said: str):
    common = load("benchmarks/common.py")
    (tmp_path / "side.py").write_text(code)
    with pytest.raises(common.BenchmarkError, match=said):
        common.run_side([tmp_path / "side.py"])


def test_sides_alternate():
    common = load("benchmarks/common.py")
    order: list[str] = []
    sides = {name: (lambda name=name: order.append(name) or {"n": len(order)}) for name in "AB"}
    results = common.alternate(sides, 3, say=lambda text: None)
    assert "".join(order) == "ABBAAB"
    assert [row["n"] for row in results["A"]] == [1, 4, 5]


def test_report_names_the_machine_but_none_of_its_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    common = load("benchmarks/common.py")
    monkeypatch.setattr(common, "limits", lambda: {"copy, GB/s": 12.5})
    run = common.Run("sample", options={"data": str(tmp_path / "set")}, out=tmp_path)
    run.begin()
    run.table(
        "Speed", [{"side": "ours", "rate": common.spread([1.0, 3.0])}, {"side": "theirs", "rate": 1}], note=f"see {ROOT}/src/x"
    )
    run.raw("command", [str(ROOT / "benchmarks" / "run.py"), sys.executable])
    run.end()
    markdown, data = (path.read_text(encoding="utf-8") for path in run.write())
    assert "| ours | 2.00 (1.00–3.00) |" in markdown and "| copy, GB/s | 12.5 | 12.5 |" in markdown
    assert boda.__version__ and re.search(r"commit `([0-9a-f]{12}(\+changes)?|no repository)`", markdown)
    facts = json.loads(data)
    assert facts["machine"]["cores"] >= 1 and facts["machine"]["memory_gib"] > 0
    assert facts["versions"]["ours"]["torch"]
    for text in (markdown, data):
        assert str(ROOT) not in text and str(Path.home()) not in text and str(tmp_path) not in text


def test_runner_names_the_benchmarks_for_an_unknown_one():
    result = subprocess.run([sys.executable, str(ROOT / "benchmarks" / "run.py"), "nothing"], capture_output=True, text=True)
    assert result.returncode == 2 and "no benchmark 'nothing'" in result.stderr


# ---- inputs of the training benchmark ---------------------------------------------------------------------------------------


def test_instruction_set_has_the_promised_mix(tmp_path: Path):
    from PIL import Image

    data = load("benchmarks/train_vlm_data.py")
    rows = data.read_rows(data.write_instruction_set(tmp_path, 60, seed=1))
    count = data.token_counter()
    answers = [sum(count(m["content"]) for m in row["messages"] if m["role"] == "assistant") for row in rows]
    assert len(rows) == 60 and sum(not row["images"] for row in rows) == 15
    assert {len(row["messages"]) // 2 for row in rows} == {1, 2, 3, 4, 5}
    assert min(answers) >= 10 and 300 < max(answers) <= 420 and 80 < sorted(answers)[30] < 160
    for row in rows:
        assert "".join(message["content"] for message in row["messages"]).count("<image>") == len(row["images"])
        for name in row["images"]:
            with Image.open(tmp_path / name) as picture:
                assert picture.format == "PNG" and min(picture.size) >= 336
    again = data.write_instruction_set(tmp_path / "again", 60, seed=1)
    assert again.read_bytes() == (tmp_path / "instruction.jsonl").read_bytes()


def test_question_set_asks_eight_of_each_picture(tmp_path: Path):
    data = load("benchmarks/train_vlm_data.py")
    rows = data.read_rows(data.write_question_set(tmp_path, 5))
    assert len(rows) == 40
    for start in range(0, 40, 8):
        names = {name for row in rows[start : start + 8] for name in row["images"]}
        assert len(names) == 1 and (tmp_path / names.pop()).exists()
        assert len({row["messages"][0]["content"] for row in rows[start : start + 8]}) == 8
    assert rows[0]["images"] != rows[8]["images"]


def test_benchmark_model_is_a_llava_that_answers(tmp_path: Path):
    import torch
    from PIL import Image
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    data = load("benchmarks/train_vlm_data.py")
    sizes = {"image_size": 28, "vision_hidden": 64, "vision_layers": 2, "language_hidden": 128, "language_layers": 1}
    folder = data.write_model(tmp_path, **sizes)
    model, processor = LlavaForConditionalGeneration.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert model.lm_head.weight.shape[0] >= 32_000
    picture = Image.new("RGB", (40, 30), "red")
    messages = [
        {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "무슨 색인가요?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "빨간색입니다."}]},
    ]
    inputs = processor.apply_chat_template(
        [messages], tokenize=True, return_dict=True, return_tensors="pt", return_assistant_tokens_mask=True
    )
    mask = torch.as_tensor(inputs.pop("assistant_masks")).bool()
    assert processor.tokenizer.decode(inputs["input_ids"][mask]) == "빨간색입니다.<|im_end|>"
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == 4
    with torch.no_grad():
        assert torch.isfinite(model(**inputs).logits).all()
