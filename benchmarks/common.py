"""What every benchmark shares: machine and its limits, sides run side by side in processes of their own, and the report.

A benchmark is a file `benchmarks/NAME.py` with `main(run: Run)`. It runs its sides with `run_side` or `alternate`, adds tables
to `run`, and `benchmarks/run.py` writes `NAME.md` and `NAME.json` beside it.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate", "open_clip_torch", "tokenizers", "numpy", "pillow")


class BenchmarkError(RuntimeError):
    """A side that failed, with what it said."""


# ---- figures ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """Several measurements of one figure."""

    median: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if self.n == 1:
            return number(self.median)
        return f"{number(self.median)} ({number(self.low)}–{number(self.high)})"


def spread(values: Sequence[float]) -> Spread:
    """Median and extremes of repeated measurements."""
    if not values:
        raise BenchmarkError("no measurement to summarise")
    return Spread(statistics.median(values), min(values), max(values), len(values))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Ours over theirs, pair by pair: pairs were measured next to each other, so what slows the machine slows both."""
    if len(ours) != len(theirs):
        raise BenchmarkError(f"{len(ours)} measurements of one side and {len(theirs)} of the other; a ratio needs pairs")
    return spread([a / b for a, b in zip(ours, theirs)])


def number(value: Any) -> str:
    """A figure as people read it: three significant digits, thousands separated."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}"


# ---- memory -----------------------------------------------------------------------------------------------------------------


def peak_rss_mb(pid: int | str = "self") -> float:
    """A process's own high-water mark. (`getrusage` starts from the mark of the process that started it, so it can lie.)"""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        match = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        return int(match[1]) / 1024 if match else 0.0
    if pid != "self":
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def _descendants(pid: int) -> list[int]:
    found, waiting = [], [pid]
    while waiting:
        current = waiting.pop()
        found.append(current)
        try:
            for task in Path(f"/proc/{current}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


def _proportional_mb(pid: int) -> float:
    """Resident memory with shared pages divided among their users, so that forked workers are not counted twice."""
    try:
        match = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        return int(match[1]) / 1024 if match else 0.0
    except OSError:
        return 0.0


class _MemoryWatch(threading.Thread):
    """Follows a process and its children until it ends."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.pid = pid
        self.process_mb = self.tree_mb = 0.0
        self.done = threading.Event()

    def run(self) -> None:
        looks = 0
        while True:
            pids = _descendants(self.pid)
            for pid in pids:
                try:
                    self.process_mb = max(self.process_mb, peak_rss_mb(pid))
                except OSError:
                    continue  # it ended between the two looks
            if len(pids) > 1 and looks % 8 == 0:  # walking every page of a large process costs it time, so seldom
                self.tree_mb = max(self.tree_mb, sum(_proportional_mb(pid) for pid in pids))
            looks += 1
            if self.done.wait(0.25 if looks > 8 else 0.02):
                return


# ---- sides ------------------------------------------------------------------------------------------------------------------


def run_side(
    arguments: Sequence[str | os.PathLike],
    *,
    python: str | os.PathLike = sys.executable,
    environment: Mapping[str, str] | None = None,
    timeout: float = 3600,
) -> dict[str, Any]:
    """Run `python arguments...` in a process of its own and return the JSON object on its last line of output.

    Added to it: `wall_seconds`; `peak_rss_mb`, the high-water mark of the side's largest process; `peak_tree_mb`, the sum over
    its processes with shared pages divided among them, sampled every two seconds while it has more than one.

    Raises:
        BenchmarkError: it failed, took too long, or printed no JSON; with the end of what it said.
    """
    command = [str(python), *map(str, arguments)]
    merged = {**os.environ, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", **(environment or {})}
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=merged, cwd=ROOT)
    watch = _MemoryWatch(process.pid)
    watch.start()
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"{_shown(command)} did not end in {timeout:.0f} seconds") from None
    finally:
        watch.done.set()
        if process.poll() is None:
            process.kill()
            process.communicate()
    lines = out.strip().splitlines()
    if process.returncode != 0:
        raise BenchmarkError(f"{_shown(command)} failed ({process.returncode}):\n{_tail(err or out)}")
    try:
        result = json.loads(lines[-1])
        assert isinstance(result, dict)
    except (IndexError, ValueError, AssertionError):
        raise BenchmarkError(
            f"{_shown(command)} printed no JSON object on its last line:\n{_tail(out)}\n{_tail(err)}"
        ) from None
    result["wall_seconds"] = time.perf_counter() - began
    result["peak_rss_mb"] = max(watch.process_mb, result.get("peak_rss_mb", 0.0))
    result["peak_tree_mb"] = max(watch.tree_mb, result["peak_rss_mb"])
    return result


def alternate(
    sides: Mapping[str, Callable[[], dict]], repetitions: int, say: Callable[[str], None] = print
) -> dict[str, list[dict]]:
    """Every side `repetitions` times, in turn and the turn reversed each round (A B, B A, ...), so that a drifting machine
    favours none."""
    results: dict[str, list[dict]] = {name: [] for name in sides}
    names = list(sides)
    for repetition in range(repetitions):
        for name in names if repetition % 2 == 0 else reversed(names):
            began = time.perf_counter()
            results[name].append(sides[name]())
            say(f"{name}: {repetition + 1} of {repetitions}, {time.perf_counter() - began:.0f} s")
    return results


def _shown(command: Sequence[str]) -> str:
    return relative(" ".join(command[:6]) + (" ..." if len(command) > 6 else ""))


def _tail(text: str, lines: int = 15) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])


# ---- the machine and its limits ---------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    processor, flags = platform.processor() or platform.machine(), ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        text = cpuinfo.read_text()
        fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
        flags = fields.get("flags", "")
        processor = fields.get("model name", processor)
        if "cpu family" in fields:
            processor += f" (family {fields['cpu family']}, model {fields['model']})"
    system = platform.platform()
    release = Path("/etc/os-release")
    if release.exists():
        match = re.search(r'^PRETTY_NAME="?([^"\n]*)', release.read_text(), re.MULTILINE)
        system = f"{match[1]}, " if match else ""
        system += f"{platform.system()} {platform.release()}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    wanted = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16")
    facts = {
        "processor": processor,
        "cores": cores,
        "instructions": " ".join(flag for flag in wanted if flag in flags.split()) or platform.machine(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": system,
        "load_at_start": round(os.getloadavg()[0], 1),
    }
    return {**facts, **_gpu()}


def _gpu() -> dict[str, Any]:
    import torch

    if not torch.cuda.is_available():
        return {}
    properties = torch.cuda.get_device_properties(0)
    facts = {
        "gpu": properties.name,
        "gpus": torch.cuda.device_count(),
        "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
    }
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        facts["driver"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        facts["driver"] = "unknown"
    return {**facts, "cuda": torch.version.cuda}


def versions(python: str | os.PathLike | None = None) -> dict[str, str]:
    """Python and the libraries a side runs with; `python` names another environment's interpreter."""
    if python is None or Path(python) == Path(sys.executable):
        found = {"python": platform.python_version()}
        for name in LIBRARIES:
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        return found
    code = (
        "import importlib.metadata as m, json, platform\nfound = {'python': platform.python_version()}\n"
        f"for name in {LIBRARIES!r}:\n    try: found[name] = m.version(name)\n    except m.PackageNotFoundError: pass\n"
        "print(json.dumps(found))"
    )
    result = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def commit() -> str:
    """The commit measured, with `+changes` if the library's or the benchmark's files differ from it."""

    def git(*arguments: str) -> str:
        result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
        return result.stdout.strip() if result.returncode == 0 else ""

    head = git("rev-parse", "--short=12", "HEAD")
    changed = git("status", "--porcelain", "--", "src", "benchmarks/*.py", "benchmarks/peers")
    return (head or "no repository") + ("+changes" if changed else "")


def _best(seconds: float, work: Callable[..., Any], *arguments: Any) -> float:
    """The shortest of the runs that fit into `seconds` (at least two): a limit is what the machine can do undisturbed."""
    best, began = float("inf"), time.perf_counter()
    runs = 0
    while runs < 2 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        work(*arguments)
        best = min(best, time.perf_counter() - start)
        runs += 1
        if best > 5 * seconds:
            break
    return best


def limits(seconds: float = 1.0) -> dict[str, float]:
    """What the machine can do at most: matrix products and copying, with one thread and with all."""
    import torch

    found: dict[str, float] = {}
    threads = torch.get_num_threads()
    size = 2048
    try:
        for count in sorted({1, threads}):
            torch.set_num_threads(count)
            for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
                a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
                found[f"{name} product 2048³, {_threads(count)}, GFLOP/s"] = (
                    2 * size**3 / _best(seconds, torch.matmul, a, b) / 1e9
                )
            source = torch.ones(64 * 2**20)
            target = torch.empty_like(source)
            moved = 2 * source.numel() * 4  # read once, written once
            found[f"copy 256 MiB, {_threads(count)}, GB/s"] = moved / _best(seconds, target.copy_, source) / 1e9
    finally:
        torch.set_num_threads(threads)
    if torch.cuda.is_available():
        found.update(_gpu_limits(seconds))
    return found


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _gpu_limits(seconds: float) -> dict[str, float]:
    import torch

    def timed(work: Callable[[], Any]) -> float:
        def run() -> None:
            work()
            torch.cuda.synchronize()

        run()
        return _best(seconds, run)

    size = 8192
    a = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    product = 2 * size**3 / timed(lambda: a @ b) / 1e12
    source = torch.ones(2**30, device="cuda", dtype=torch.uint8)
    target = torch.empty_like(source)
    copy = 2 * source.numel() / timed(lambda: target.copy_(source)) / 1e9
    return {"GPU bf16 product 8192³, TFLOP/s": product, "GPU copy 1 GiB device to device, GB/s": copy}


# ---- the report -------------------------------------------------------------------------------------------------------------


def relative(value: Any) -> Any:
    """The value with this machine's paths taken out of every string in it."""
    if isinstance(value, str):
        text = value.replace(str(ROOT) + "/", "").replace(str(ROOT), ".").replace(sys.prefix, "$VENV")
        text = re.sub(re.escape(tempfile.gettempdir()) + r"/[^\s'\"|,]*", "$TMP", text)
        return text.replace(str(Path.home()), "~")
    if isinstance(value, Mapping):
        return {relative(key): relative(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [relative(item) for item in value]
    if isinstance(value, Spread):
        return {"median": value.median, "low": value.low, "high": value.high, "n": value.n}
    if isinstance(value, Path):
        return relative(str(value))
    return value


@dataclass
class Run:
    """One run of a benchmark: its options, and everything that goes into its report."""

    name: str
    seconds: float = 60.0
    repetitions: int = 3
    options: dict[str, str] = field(default_factory=dict)
    out: Path = ROOT / "benchmarks"
    peers_python: Path = PEERS_PYTHON
    sections: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def begin(self) -> None:
        """Collect machine, versions and limits before the sides run."""
        self.facts = {
            "benchmark": self.name,
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "commit": commit(),
            "command": "python benchmarks/run.py " + " ".join([self.name, *(f"{k}={v}" for k, v in self.options.items())]),
            "machine": machine(),
            "versions": {"ours": versions()},
            "limits": {"before": limits()},
        }

    def end(self) -> None:
        """Measure the limits again: figures from a machine that drifted are to be read with care."""
        self.facts["limits"]["after"] = limits()

    def option(self, name: str, default: Any) -> Any:
        """A `name=value` of the command line, turned into the type of the default."""
        if name not in self.options:
            return default
        text = self.options[name]
        if isinstance(default, bool):
            return text.lower() in ("1", "true", "yes")
        return text if default is None else type(default)(text)

    def peer(self, arguments: Sequence[str | os.PathLike], **rest: Any) -> dict[str, Any]:
        """`run_side` in the peers' environment."""
        if not self.peers_python.exists():
            raise BenchmarkError("the peers' environment is missing; `make bench-peers` creates it")
        self.facts.get("versions", {}).setdefault("peers", versions(self.peers_python))
        return run_side(arguments, python=self.peers_python, **rest)

    def say(self, text: str) -> None:
        """Progress, on stderr."""
        print(f"[{self.name}] {relative(text)}", file=sys.stderr, flush=True)

    def table(self, title: str, rows: Sequence[Mapping[str, Any]], note: str = "") -> None:
        """Add a table: one mapping a row, columns in the order of the first row."""
        self.sections.append({"title": title, "rows": [dict(row) for row in rows], "note": note})

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self.sections.append({"text": text})

    def raw(self, name: str, value: Any) -> None:
        """Add measurements that only the JSON file shows."""
        self.facts.setdefault("raw", {})[name] = value

    def markdown(self) -> str:
        """The report."""
        facts = self.facts
        lines = [f"# {self.name}", "", f"{facts['date']}, commit `{facts['commit']}`, `{facts['command']}`", ""]
        for section in self.sections:
            if "text" in section:
                lines += [section["text"], ""]
                continue
            lines += [f"## {section['title']}", "", *_markdown_table(section["rows"]), ""]
            if section["note"]:
                lines += [section["note"], ""]
        lines += ["## Machine and its limits in this run", ""]
        lines += _markdown_table([{"": key.replace("_", " "), "value": value} for key, value in facts["machine"].items()])
        lines += ["", *_markdown_table(self._limit_rows()), "", "## Versions", ""]
        lines += _markdown_table([{"side": side, **found} for side, found in facts["versions"].items()])
        return relative("\n".join(lines)) + "\n"

    def _limit_rows(self) -> list[dict[str, Any]]:
        before, after = self.facts["limits"]["before"], self.facts["limits"].get("after", {})
        return [{"limit": name, "before": value, "after": after.get(name, "")} for name, value in before.items()]

    def write(self) -> list[Path]:
        """Write `NAME.md` and `NAME.json`; returns both paths."""
        self.out.mkdir(parents=True, exist_ok=True)
        paths = [self.out / f"{self.name}.md", self.out / f"{self.name}.json"]
        paths[0].write_text(self.markdown(), encoding="utf-8")
        content = relative({**self.facts, "sections": self.sections})
        paths[1].write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        return paths


def _markdown_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for row in rows:
        cells = [number(row.get(column, "")).replace("|", "\\|") for column in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return lines
