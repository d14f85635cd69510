"""Translation jobs that are killed, interrupted, run by two processes, short of disk, or given broken shards."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from boda.data.translate.engines import open_engine
from boda.data.translate.job import Task, translate
from boda.errors import BodaError
from tests.translate_endpoint import ASKED, Endpoint, write_rows

ROWS, SHARDS = 400, 4


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> tuple[Path, int]:
    """(folder of shards, how many different sentences are in them)."""
    folder = tmp_path_factory.mktemp("rows")
    return folder, write_rows(folder, ROWS, SHARDS, 200)


def task(endpoint: Endpoint, **rest) -> Task:
    return Task(open_engine("openai", "stub", url=endpoint.url, concurrency=24, timeout=2.0, wait=0.1), **rest)


def start(rows: Path, out: Path, endpoint: Endpoint, limit: int | None = None, concurrency: int = 24) -> subprocess.Popen:
    """`boda data translate` in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "boda.cli",
        "data",
        "translate",
        rows,
        "--out",
        out,
        "--model",
        "stub",
        "--url",
        endpoint.url,
    ]
    command += ["--concurrency", str(concurrency), "--option", "timeout=2.0", "--option", "wait=0.1", "--quiet"]
    settings = os.environ | {"BODA_CACHE": str(out.parent / "cache")}
    before = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None
    return subprocess.Popen(list(map(str, command)), env=settings, stderr=subprocess.PIPE, text=True, preexec_fn=before)


def data(out: Path) -> dict[str, bytes]:
    """What a job has written of rows, kept and refused."""
    return {
        str(path.relative_to(out)): path.read_bytes() for name in ("data", "rejects") for path in sorted((out / name).iterdir())
    }


@pytest.fixture(scope="module")
def whole(rows, tmp_path_factory) -> dict[str, bytes]:
    """What the job writes that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole")
    with Endpoint(latency=0.002, rate=5000.0) as endpoint:
        done = translate([rows[0]], folder / "job", task(endpoint, memory=folder / "memory"))
        counts = endpoint.counts()
    assert done["kept"] == ROWS and counts["delivered"] == rows[1] and counts["doubled"] == 0
    assert all(counts["did"][name] for name in ("good", "500", "429", "silent", "mangled")), "the endpoint failed at nothing"
    return data(folder / "job")


@pytest.fixture(scope="module")
def quick():
    with Endpoint(latency=0.0, rate=1e6, errors=0.0, silent=0.0, mangled=0.0) as endpoint:
        yield endpoint


def test_killed_at_any_moment(rows, whole, tmp_path):
    # A server may have given an answer that the killed process had no time to keep: at most what was under way.
    at_once = 2 * 24  # what was under way, and what had come and was not kept yet
    with Endpoint(latency=0.02, rate=300.0) as endpoint:
        process = start(rows[0], tmp_path / "job", endpoint)
        while endpoint.counts()["delivered"] < random.randint(40, 120):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not (tmp_path / "job/manifest.json").read_text().count("finished")
        again = start(rows[0], tmp_path / "job", endpoint)
        assert again.wait(60) == 0, again.communicate()[1]
        counts = endpoint.counts()
    assert data(tmp_path / "job") == whole
    assert counts["delivered"] == rows[1] and counts["doubled"] <= at_once
    spent = json.loads((tmp_path / "job/manifest.json").read_text())["spent"]
    assert sum(map(len, whole.values())) and spent["requests"] <= sum(counts["did"].values())


def test_two_processes_on_one_job(rows, whole, tmp_path):
    def claims() -> set[str]:
        return {path.name for path in (tmp_path / "job/claims").glob("*")}

    with Endpoint(latency=0.02, rate=800.0) as endpoint:
        first = start(rows[0], tmp_path / "job", endpoint, concurrency=8)
        while not claims():
            time.sleep(0.001)
        first.send_signal(signal.SIGSTOP)  # so that it cannot take all of this little job
        taken = claims()
        second = start(rows[0], tmp_path / "job", endpoint, concurrency=8)
        while not claims() - taken:
            assert second.poll() is None, second.communicate()[1]
            time.sleep(0.001)
        first.send_signal(signal.SIGCONT)
        assert [process.wait(60) for process in (first, second)] == [0, 0], [each.communicate()[1] for each in (first, second)]
        counts = endpoint.counts()
    assert data(tmp_path / "job") == whole
    assert (
        counts["delivered"] == rows[1] and counts["doubled"] <= 8
    )  # those that waited too long for the process that was stopped
    assert json.loads((tmp_path / "job/manifest.json").read_text())["rows"] == ROWS
    assert len(list((tmp_path / "job/spent").iterdir())) == 2, "one process did it all"


def test_interrupted(rows, whole, tmp_path):
    with Endpoint(latency=0.02, rate=300.0, silent=0.0) as endpoint:
        process = start(rows[0], tmp_path / "job", endpoint)
        while endpoint.counts()["delivered"] < 50:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)[1]
        assert process.returncode == 1 and said == (
            f"boda: stopped; what is translated is kept, and the same command goes on with {tmp_path / 'job'}\n"
        )
        assert not [path for path in (tmp_path / "job").rglob("*") if path.is_file() and path.parent.name in ("data", "claims")]
        again = start(rows[0], tmp_path / "job", endpoint)
        assert again.wait(60) == 0
        counts = endpoint.counts()
    assert data(tmp_path / "job") == whole
    assert counts["doubled"] == 0  # what was under way was waited for


@pytest.mark.parametrize("size", [12 << 10, 64 << 10], ids=["output", "memory"])
def test_disk_full(rows, whole, tmp_path, size):
    with Endpoint(latency=0.002, rate=5000.0, silent=0.0) as endpoint:
        process = start(rows[0], tmp_path / "job", endpoint, size)
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 1 and said.startswith("boda: ") and said.count("\n") == 1, said
        assert "free some space and run the same command again to go on" in said
        again = start(rows[0], tmp_path / "job", endpoint)
        assert again.wait(60) == 0
        counts = endpoint.counts()
    assert data(tmp_path / "job") == whole
    assert counts["doubled"] <= 2 * 24  # what was under way, and had come and could not be kept


def test_disk_full_of_output(tmp_path, quick):
    """What is written does not fit, and the memory does: nothing is asked for again."""
    path, before = tmp_path / "rows.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    path.write_text("".join(json.dumps({"text": asked, "id": "x" * 900}) + "\n" for asked in ASKED) * 100, encoding="utf-8")
    asked = quick.counts()["did"].get("good", 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200 << 10, before[1]))
    try:
        with pytest.raises(BodaError, match=r"could not write .*/job/data/rows.jsonl: File too large; free some space and run"):
            translate([path], tmp_path / "job", task(quick, memory=tmp_path / "memory"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "job/data").iterdir())
    done = translate([path], tmp_path / "job", task(quick, memory=tmp_path / "memory"))
    assert done["kept"] == 500 and quick.counts()["did"]["good"] == asked + len(ASKED)


# ---------------------------------------------------------------- broken shards


def tar(*members: tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


WHAT, SEEN = next(iter(ASKED.items()))
GOOD = [("0.jpg", b"j" * 900), ("0.txt", WHAT.encode()), ("1.jpg", b"k" * 900), ("1.txt", WHAT.encode())]
BROKEN = {
    "cut.tar": (tar(*GOOD)[:3500], None, {"row": 1}),
    "cut-between.tar": (tar(*GOOD)[:4096], None, {"row": 1}),
    "json.tar": (tar(*GOOD, ("2.json", b'{"caption": '), ("2.jpg", b"l")), None, {"row": 1}),
    "parts.tar": (tar(*GOOD, ("2.jpg", b"l"), ("0.txt", WHAT.encode())), None, {}),
    "no.tar": (b"this is no tar at all" * 100, "no.tar is no tar that can be read", {}),
    "no.json": (b"<html>", "no.json holds neither a JSON list of rows nor", {}),
    "cut.json": (b'[{"text": "' + WHAT.encode() + b'"}, {"text": "', "cut.json: row 1 is no JSON .* or the file is cut off", {}),
    "no.jsonl": (b'{"text": "' + WHAT.encode() + b'"}\n{"text"\n', None, {"row": 1}),
    "no.parquet": (b"PAR1 but no more", "no.parquet is no Parquet file that can be read", {}),
    "korean.csv": ("질문,text\n이것은,무엇\n".encode("cp949"), "is in CP949", {}),
    "cells.csv": (f"text,id\n{WHAT},1\n{WHAT}\n".encode(), None, {"row": 1}),
    "zero.jsonl": (b"\x00\x01\x02" * 50, "is no text", {}),
    "cut.jsonl.gz": (gzip.compress(WHAT.encode() * 999)[:-40], "gz is cut off or damaged", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_shards(tmp_path, quick, name):
    content, message, rejected = BROKEN[name]
    path = tmp_path / name
    path.write_bytes(content)
    asked = task(quick, memory=tmp_path / "memory")
    if message:
        with pytest.raises(BodaError, match=message):
            translate([path], tmp_path / "job", asked)
        assert not [
            each for each in (tmp_path / "job").rglob("*") if each.is_file() and each.parent.name in ("data", "done", "claims")
        ]
        return
    done = translate([path], tmp_path / "job", asked)
    assert done["finished"] and done["rejected"] == rejected
    written = (tmp_path / "job/data" / name).read_bytes()
    assert SEEN.encode() in written and WHAT.encode() not in written
    if name.endswith(".tar"):
        with tarfile.open(tmp_path / "job/data" / name) as archive:
            assert archive.getnames()[:2] == ["0.jpg", "0.txt"]


def test_nobody_there(rows, tmp_path):
    with Endpoint() as endpoint:
        gone = task(endpoint, memory=tmp_path / "memory")
    with pytest.raises(BodaError, match="no translation server at"):
        translate([rows[0]], tmp_path / "job", gone)
