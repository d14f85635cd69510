"""A translation job against an endpoint that errs: rows a second beside what the endpoint allows; killed; by two processes.

    python benchmarks/run.py translate [rows=20000] [shards=10] [sentences=10000] [rate=250] [concurrency=40] [seed=0]

The endpoint (tests/translate_endpoint.py) is a process of its own on the same machine. It answers after 30 ms and serves `rate` requests
a second. Of these 5 % get 500 or 429; 2 % of all requests are never answered (the client gives up after 1.5 s; they take nothing of the
rate); 1 % of the answers lack a placeholder. Which, depends on the text and on how often it was asked for, so runs meet the same faults.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from common import ROOT, BenchmarkError, Run, run_side

sys.path.insert(0, str(ROOT))

from tests.translate_endpoint import Endpoint, write_rows

LATENCY, ERRORS, SILENT, MANGLED = 0.03, 0.05, 0.02, 0.01
TIMEOUT, CONCURRENCY = 1.5, 40
BARE = 3000  # sentences that the bare client asks for
KILLS, LEAST_DONE = 3, 0.05  # and so much of a job's time lies between two kills at least


class Job:
    """One job folder with a memory of its own and an endpoint that has been asked nothing yet."""

    def __init__(self, run: Run, folder: Path, name: str, rows: Path, endpoint: Endpoint):
        self.out, self.endpoint = folder / name, endpoint
        self.environment = {"BODA_CACHE": str(folder / f"{name}-cache"), "OMP_NUM_THREADS": "1"}
        self.arguments = ["-m", "boda.cli", "data", "translate", str(rows), "--out", str(self.out), "--model", "stub"]
        self.arguments += [
            "--url",
            endpoint.url,
            "--source-language",
            "en",
            "--concurrency",
            str(run.option("concurrency", CONCURRENCY)),
        ]
        self.arguments += ["--option", f"timeout={TIMEOUT}", "--option", "wait=0.5", "--json", "--quiet"]

    def whole(self) -> dict:
        """Run to its end; what it printed."""
        return run_side(self.arguments, environment=self.environment)

    def start(self) -> subprocess.Popen:
        command, settings = [sys.executable, *self.arguments], os.environ | self.environment
        return subprocess.Popen(command, env=settings, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def digest(self) -> str:
        """Of all rows, kept and refused, and the names of their files."""
        found = hashlib.sha256()
        for path in sorted([*self.out.glob("data/*"), *self.out.glob("rejects/*")]):
            found.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
        return found.hexdigest()

    def manifest(self) -> dict:
        return json.loads((self.out / "manifest.json").read_text(encoding="utf-8"))


def bare_client(run: Run, rows: Path, faults: dict) -> list[dict]:
    """A line of the table: the endpoint, asked by a process that does nothing else."""
    with Endpoint(**faults) as endpoint:
        found = run_side([__file__, "bare", endpoint.url, str(rows), str(run.option("concurrency", CONCURRENCY))])
        counts = endpoint.counts()
    served = sum(count for act, count in counts["did"].items() if act != "silent")
    least = served / faults["rate"]
    run.say(f"bare client: {found['seconds']:.1f} s, {least / found['seconds']:.1%} of the limit")
    values = {"seconds": found["seconds"], "endpoint's least seconds": least, "of its limit": f"{least / found['seconds']:.1%}"}
    return [{"run": "bare client", **values, "requests": sum(counts["did"].values()), "sentences": counts["delivered"]}]


async def ask_bare(url: str, texts: list[str], concurrency: int) -> None:
    """All texts until each has a good answer, over so many connections."""
    parts, left = urlsplit(url), list(reversed(texts))

    async def one() -> None:
        reader = writer = None
        while left:
            text = left.pop()
            body = json.dumps({"messages": [{"role": "user", "content": text}]}).encode()
            if reader is None or writer is None:
                reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            try:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), TIMEOUT)
                length = int(head.lower().split(b"content-length: ")[1].split()[0])
                found = json.loads(await reader.readexactly(length))
                good = "choices" in found and ("⟦0⟧" in found["choices"][0]["message"]["content"]) == ("⟦0⟧" in text)
            except TimeoutError:
                writer.close()
                reader, good = None, False
            if not good:
                left.insert(0, text)
        if writer:
            writer.close()

    await asyncio.gather(*(one() for _ in range(concurrency)))


def bare(url: str, rows: str, concurrency: str) -> None:
    """What the process of the bare client does."""
    texts: dict[str, None] = {}
    for path in sorted(Path(rows).iterdir()):
        for line in path.read_text(encoding="utf-8").splitlines():
            lines = json.loads(line)["conversations"][1]["value"].split("\n")
            texts.update(dict.fromkeys(re.sub(r"\d+", "⟦0⟧", text) for text in lines))
    began = time.perf_counter()
    asyncio.run(ask_bare(url, list(texts)[:BARE], int(concurrency)))
    print(json.dumps({"seconds": time.perf_counter() - began}))


def ended(processes: list[subprocess.Popen]) -> list[dict]:
    """What processes printed that ran to their end."""
    said = [process.communicate(timeout=3600) for process in processes]
    for process, (_, problem) in zip(processes, said):
        if process.returncode:
            raise BenchmarkError(f"a process failed ({process.returncode}): {problem[-1000:]}")
    return [json.loads(out.splitlines()[-1]) for out, _ in said]


def main(run: Run) -> None:
    """The job undisturbed, killed, by two processes; then without faults and without an endpoint to wait for."""
    rate, seed = run.option("rate", 250.0), run.option("seed", 0)
    number, shards = run.option("rows", 20_000), run.option("shards", 10)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        distinct = write_rows(folder / "rows", number, shards, run.option("sentences", 10_000), seed)
        faults = {"latency": LATENCY, "rate": rate, "errors": ERRORS, "silent": SILENT, "mangled": MANGLED}
        table, checks = [], []

        def line(what: str, job: Job, seconds: float, digest: str, memory: float | str = "") -> None:
            counts, done = job.endpoint.counts(), job.manifest()
            served = sum(count for act, count in counts["did"].items() if act != "silent")
            least = served / rate
            table.append(
                {
                    "run": what,
                    "seconds": seconds,
                    "rows a second": number / seconds,
                    "endpoint's least seconds": least,
                    "of its limit": f"{least / seconds:.1%}",
                    "requests": sum(counts["did"].values()),
                    "sentences": counts["delivered"],
                    "delivered twice": counts["doubled"],
                    "billed twice": counts["billed_twice"],
                    "rows kept": done["kept"],
                    "peak MB": memory,
                    "same bytes": "" if digest == "" else "yes" if job.digest() == digest else "NO",
                }
            )
            run.raw(what, {**counts, "seconds": seconds, "spent": done["spent"], "digest": job.digest()})
            checks.append(counts["delivered"] == distinct and (digest in ("", job.digest())))
            run.say(f"{what}: {seconds:.1f} s, {least / seconds:.1%} of the limit, {counts}")

        bare = bare_client(run, folder / "rows", faults)
        with Endpoint(**faults) as endpoint:
            job = Job(run, folder, "whole", folder / "rows", endpoint)
            found = job.whole()
            line("undisturbed", job, found["seconds"], "", round(found["peak_rss_mb"]))
            digest = job.digest()

        bare += bare_client(run, folder / "rows", faults)
        table[:0] = bare
        chance, killed = random.Random(seed), 0
        with Endpoint(**faults) as endpoint:
            job = Job(run, folder, "killed", folder / "rows", endpoint)
            moments = sorted(chance.uniform(LEAST_DONE, 0.95) for _ in range(KILLS))
            began = time.perf_counter()
            for moment in moments:
                process = job.start()
                while process.poll() is None and endpoint.counts()["delivered"] < moment * distinct:
                    time.sleep(0.02)
                process.kill()
                process.wait()
                killed += process.returncode == -9
            ended([job.start()])
            line(
                f"killed {killed} times, at {', '.join(f'{m:.0%}' for m in moments)}", job, time.perf_counter() - began, digest
            )

        with Endpoint(**faults) as endpoint:
            job = Job(run, folder, "two", folder / "rows", endpoint)
            began = time.perf_counter()
            ended([job.start(), job.start()])
            line("two processes", job, time.perf_counter() - began, digest)

        with Endpoint(latency=0.0, rate=1e6, errors=0.0, silent=0.0, mangled=0.0) as endpoint:
            job = Job(run, folder, "free", folder / "rows", endpoint)
            free = job.whole()
            checks.append(job.digest() == digest)
            again = Job(run, folder, "again", folder / "rows", endpoint)
            again.environment = job.environment
            known = again.whole()
            checks.append(again.digest() == digest and known["requests"] == 0)
    run.text(
        f"{number:,} conversations in {shards} shards, {distinct:,} different sentences in them. The endpoint answers after "
        f"{LATENCY * 1000:.0f} ms and serves {rate:g} requests a second; {ERRORS:.0%} get 500 or 429, {SILENT:.0%} are never answered "
        f"(the client gives up after {TIMEOUT} s; they take nothing of the rate), {MANGLED:.0%} of the answers lack a placeholder and are "
        "asked for again. The least time is that in which the endpoint could have served what it did serve, errors included. The bare "
        f"client does nothing but send {BARE:,} of the sentences until each has a good answer; in so short a run the "
        "last, slow ones weigh more."
    )
    run.table("A job of one process and of two, undisturbed and killed", table)
    run.text(
        "Seconds of the undisturbed run are the job's own; those of the others include the starts of the processes (about a second "
        "each) and what was done again. *Delivered twice*: good answers that the endpoint gave beyond one a sentence; after a kill "
        "these were under way or had come and were not yet on disk, at most about as many as --concurrency. *Billed twice*: those of "
        "them that a server bills which knows a request again by its Idempotency-Key. *Same bytes*: rows, refused rows and their "
        "reasons as in the undisturbed run."
    )
    rates = [
        {
            "run": "an endpoint that answers at once and never errs",
            "rows a second": free["rows_a_second"],
            "seconds": free["seconds"],
        },
        {"run": "everything is in the memory", "rows a second": known["rows_a_second"], "seconds": known["seconds"]},
    ]
    run.table("What the job itself takes", rates, "Client and endpoint share the machine's cores.")
    reached = next(each["of its limit"] for each in table if each["run"] == "undisturbed")
    run.text(
        f"Undisturbed: {reached} of the endpoint's limit (goal: 90 %). All sentences delivered, all outputs equal: "
        f"**{'yes' if all(checks) else 'NO'}**."
    )


if __name__ == "__main__" and sys.argv[1:2] == ["bare"]:
    bare(*sys.argv[2:])
