"""The folder of a translation job: what it was asked, who works on which shard, what is done, what it has cost.

manifest.json        the settings and inputs; once all is done, counts, hashes and costs, too
data/NAME            an output shard for every input shard, under its name
rejects/NAME.jsonl   rows that were left out, with the reasons
done/NAME.json       counts and hashes of a finished shard: with it the shard is done
claims/, spent/      who is at work, and what each process has had billed
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from boda.data.translate.memory import LEASE, is_running
from boda.errors import BodaError
from boda.files import read_json, whole_file, writing

_BEAT = 5.0  # seconds between two signs of life
COSTS = ("characters", "tokens", "requests")


class JobFolder:
    """Opened, or made, for one process. Raises BodaError: it is another job's, and how they differ."""

    def __init__(self, path: str | Path, settings: dict[str, Any], inputs: Mapping[str, Path], about: Mapping[str, Any]):
        self.path, self.inputs = Path(path), inputs
        self.settings = settings | {"inputs": {name: place.stat().st_size for name, place in inputs.items()}}
        self.spent, self._written, self._beaten = Counter[str](), time.monotonic(), 0.0
        self._claims: dict[str, Path] = {}
        self._costs = self.path / "spent" / f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}.json"
        there = read_json(self.path / "manifest.json")
        if "settings" in there:
            if differences := list(_differences("", there["settings"], self.settings)):
                said = "; ".join(differences[:4])
                raise BodaError(f"{self.path} is a job with other settings: {said}. Give those, or choose another --out")
        elif self.path.is_dir() and any(not each.name.startswith(".manifest") for each in self.path.iterdir()):
            raise BodaError(f"{self.path} holds something else than a translation job; choose another --out")
        else:
            self._write("manifest.json", {**about, "began": _now(), "settings": self.settings})
        # A failed sentence is not asked for again by the same job, and by another one is.
        self.id = hashlib.sha256(json.dumps([str(self.path.absolute()), self.settings]).encode()).hexdigest()[:16]
        self._others = self._spent_by_others()

    def done(self, name: str) -> dict | None:
        """What is known of a finished shard."""
        return read_json(self.path / "done" / f"{name}.json") or None

    def claim(self, name: str) -> bool:
        """Whether the shard is now ours: it is not done, and nobody who lives has it."""
        path = self.path / "claims" / f"{name}.json"
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            for _ in range(2):
                with suppress(FileExistsError), path.open("x", encoding="utf-8") as stream:
                    self._claims[name] = path
                    stream.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
                if name in self._claims or self._is_held(path):
                    break
                path.unlink(missing_ok=True)  # if two come here at once both do the shard, to the same bytes
        if name in self._claims and self.done(name):
            self.release(name)
        return name in self._claims

    def _is_held(self, path: Path) -> bool:
        with suppress(OSError, ValueError, KeyError):
            if time.time() - path.stat().st_mtime > LEASE:
                return False
            there = json.loads(path.read_text(encoding="utf-8"))
            return is_running(there["host"], there["pid"])
        return path.exists()  # it is being written

    def release(self, name: str) -> None:
        self._claims.pop(name).unlink(missing_ok=True)

    def beat(self) -> None:
        """A sign of life to other processes, and what has been billed so far; to be called often."""
        now = time.monotonic()
        if now - self._written > 1.0:
            self._write_costs()
        if now - self._beaten > _BEAT:
            self._beaten, self._others = now, self._spent_by_others()
            for path in self._claims.values():
                with suppress(OSError):
                    os.utime(path)

    def total_spent(self) -> Counter[str]:
        """Characters, tokens and requests of the job up to now; of other processes as they were a few seconds ago."""
        return self._others + self.spent

    def finish(self, name: str, facts: dict) -> None:
        """The shard is done."""
        self._write_costs()  # before anybody can find that all is done
        self._write(f"done/{name}.json", facts)
        self.release(name)

    def close(self, price: float) -> bool:
        """Lets go of what is ours; whether all shards are done, which whoever is last writes into the manifest."""
        self._write_costs()
        for name in list(self._claims):
            self.release(name)
        shards = {name: self.done(name) for name in self.inputs}
        if not all(shards.values()):
            return False
        there = read_json(self.path / "manifest.json")
        if "finished" not in there:
            costs: dict[str, float] = dict(self._spent_by_others() + self.spent)
            costs |= {"dollars": round(costs.get("characters", 0) * price / 1e6, 4)} if price else {}
            self._write("manifest.json", {**there, "finished": _now(), **totals(shards), "spent": costs, "shards": shards})
            shutil.rmtree(self.path / "claims", ignore_errors=True)
            for leftover in [*self.path.glob("data/.*"), *self.path.glob("rejects/.*")]:  # of killed processes
                leftover.unlink(missing_ok=True)
        return True

    def _write_costs(self) -> None:
        self._written = time.monotonic()
        if self.spent:
            self._write(f"spent/{self._costs.name}", dict(self.spent))

    def _spent_by_others(self) -> Counter[str]:
        found = Counter[str]()
        for path in self._costs.parent.glob("*.json") if self._costs.parent.is_dir() else ():
            if path != self._costs:
                with suppress(OSError, ValueError):
                    found.update(json.loads(path.read_text(encoding="utf-8")))
        return found

    def _write(self, name: str, value: Any) -> None:
        path = self.path / name
        with writing(path), whole_file(path, is_shared=True) as partial:
            partial.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def totals(shards: Mapping[str, dict | None]) -> dict[str, Any]:
    """Rows, kept rows, units and rejects by filter, of all shards that are done."""
    done, rejected = [facts for facts in shards.values() if facts], Counter[str]()
    for facts in done:
        rejected.update(facts["rejected"])
    found = {name: sum(facts[name] for facts in done) for name in ("rows", "kept", "units")}
    return {**found, "rejected": dict(sorted(rejected.items()))}


def _differences(name: str, there: Any, now: Any):
    """What to say of two settings that are not the same, one for each value in them."""
    if isinstance(there, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*there, *now]):
            yield from _differences(f"{name}.{key}" if name else key, there.get(key), now.get(key))
    elif there != now:
        yield f"{name} is {json.dumps(there, ensure_ascii=False)} there and {json.dumps(now, ensure_ascii=False)} now"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
