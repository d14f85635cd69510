"""Run a benchmark and write its report: `python benchmarks/run.py NAME [--seconds S] [--repetitions N] [key=value ...]`."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))

from common import PEERS_PYTHON, BenchmarkError, Run, relative  # noqa: E402


def names() -> list[str]:
    """The benchmarks there are: files beside this one that define `main(run)`."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if "\ndef main(run" in path.read_text(encoding="utf-8"))


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 a side failed, 2 wrong use."""
    parser = argparse.ArgumentParser(prog="benchmarks/run.py", description=f"Benchmarks: {', '.join(names()) or 'none yet'}")
    parser.add_argument("name", nargs="?", help="the benchmark")
    parser.add_argument("options", nargs="*", metavar="key=value", help="what this benchmark lets one choose")
    parser.add_argument("--seconds", type=float, default=60.0, help="measured seconds a side and repetition aim at (60)")
    parser.add_argument("--repetitions", type=int, default=3, help="runs of each side, alternating (3)")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where the report goes (benchmarks/)")
    parser.add_argument("--peers", type=Path, default=PEERS_PYTHON, help="Python of the peers' environment (.venv-peers)")
    chosen = parser.parse_intermixed_args(arguments)
    if chosen.name not in names():
        said = f"no benchmark '{chosen.name}'; " if chosen.name else ""
        print(f"{said}there {'are' if names() else 'is none'}: {', '.join(names())}", file=sys.stderr)
        return 2
    wrong = [option for option in chosen.options if "=" not in option]
    if wrong:
        print(f"'{wrong[0]}' is no key=value", file=sys.stderr)
        return 2
    options = dict(option.split("=", 1) for option in chosen.options)
    run = Run(chosen.name, chosen.seconds, chosen.repetitions, options, chosen.out, chosen.peers)
    specification = importlib.util.spec_from_file_location(f"benchmark_{chosen.name}", FOLDER / f"{chosen.name}.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    try:
        run.begin()
        module.main(run)
        run.end()
    except BenchmarkError as error:
        print(relative(str(error)), file=sys.stderr)
        return 1
    for path in run.write():
        print(os.path.relpath(path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
