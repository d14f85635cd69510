"""The file every answer goes to as it comes, and whoever gives the answers."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from boda.errors import WHY, BodaError, explaining
from boda.evaluate.engines import VLLM
from boda.evaluate.processes import Worker, start, stop
from boda.evaluate.remote import RemoteModel, is_address
from boda.files import as_lines, write_lines, writing

SAMPLES_OF_A_LARGE_FILE, PIECE = 64, 1 << 12
ADVICE = "delete the folder or choose another --out"
ENGINES = ("transformers", "vllm")


@dataclass(frozen=True)
class Answerer:
    """A model as evaluation sees it; answers of two names or fingerprints never mix."""

    name: str
    fingerprint: str
    settings: dict  # the model's own generation settings, for the record
    # Gives an Ask, or several that are asked at the same time, or the Encoder of one that is measured.
    open: Callable[[], Any]
    is_remote: bool = False  # questions go one by one, as many at the same time as a batch has
    close: Callable[[], None] = lambda: None


def answerer(
    model: Any, trust_remote_code: bool = False, processes: int = 1, engine: str | None = None, exact: bool = True
) -> Answerer:
    """A model folder, hub id, address, (model, processor) pair or object with `answer`, as an Answerer.

    `exact`: so that an answer does not depend on its batch. Raises BodaError: none of these, or no model to put into several
    processes or into an engine.
    """
    if engine not in (*ENGINES, None):
        raise BodaError(f"no engine '{engine}'; there are {', '.join(ENGINES)}")
    if is_address(model):
        _alone("an address is asked as it is", processes, engine)
        remote = RemoteModel(model)
        return Answerer(remote.name, remote.name, {}, remote.open, is_remote=True)
    if isinstance(model, (str, Path)):
        return _of_name(str(model), trust_remote_code, processes, engine, exact)
    _alone("a model that is loaded already is asked where it is", processes, engine)
    if hasattr(model, "answer"):
        name = str(getattr(model, "name", type(model).__name__))
        return Answerer(name, "", {}, lambda: lambda conversations, decoding: model.answer(conversations))
    if isinstance(model, tuple) and len(model) == 2:
        from boda.evaluate.local import LocalModel

        name, local = str(model[0].config._name_or_path or type(model[0]).__name__), LocalModel(*model)
        return Answerer(name, "", local.saved, lambda: local)
    raise BodaError(
        f"{type(model).__name__} is no model to evaluate: give a folder, hub id or address, a (model, processor) pair, "
        "or an object with answer(conversations)"
    )


def _alone(why: str, processes: int, engine: str | None) -> None:
    if processes > 1 or engine not in (None, ENGINES[0]):
        raise BodaError(f"{why}; several processes and engines are for a folder or hub id")


def _of_name(model: str, trust_remote_code: bool, processes: int, engine: str | None, exact: bool) -> Answerer:
    from boda.models.checkpoints import locate, read_info

    settings = read_info(model).get("generation", {})
    who = partial(Answerer, model, _identity(model, trust_remote_code), settings)
    if engine == "vllm":
        _alone("vLLM shares its work out itself", processes, None)
        if (beams := settings.get("beams", 1)) > 1:
            raise BodaError(f"'{model}' answers with {beams} beams, which vLLM's server does not do; leave --engine vllm out")
        server = VLLM(locate(model), trust_remote_code)
        # Said, as vLLM would take them from generation_config.json otherwise, and transformers is told these, too.
        asked = {"temperature": 0.0, "top_p": 1.0, "repetition_penalty": 1.0, **settings}
        return who(cache(lambda: RemoteModel(server.start(), asked).open()), is_remote=True, close=server.stop)
    if processes > 1:
        workers: list[Worker] = []

        def start_all() -> list[Worker]:
            workers[:] = workers or start(model, processes, trust_remote_code)
            return workers

        return who(start_all, close=lambda: stop(workers))

    @cache
    def open() -> Any:
        from boda.evaluate.local import open_local

        return open_local(model, trust_remote_code, exact)

    return who(open)


def _identity(model: str, trust_remote_code: bool = False) -> str:
    """What tells a model from others of its name: what its files hold, or the revision of a hub id. Raises BodaError: there is none."""
    from boda.models.checkpoints import load_config, locate

    return fingerprint(Path(locate(model))) or getattr(load_config(model, trust_remote_code), "_commit_hash", None) or ""


def encoding(model: Any) -> Answerer:
    """A pair model (folder, hub id, (model, processor) or Encoder), which opens to an Encoder. Raises BodaError: none of these."""
    if isinstance(model, tuple):
        from boda.models.encoder import Encoder

        model = Encoder(model[0], model[1], type(model[0]).__name__)
    if hasattr(model, "texts") and hasattr(model, "images"):
        return Answerer(model.name, model.fingerprint, {}, lambda: model)
    if is_address(model) or not isinstance(model, (str, Path)):
        kind = "an address" if is_address(model) else type(model).__name__
        raise BodaError(f"{kind} gives no vectors; this task measures a pair model: a folder, hub id, pair or Encoder")
    from boda.models.encoder import Encoder

    return Answerer(str(model), _identity(str(model)), {}, cache(lambda: Encoder.load(str(model))))


def fingerprint(folder: Path) -> str:
    """What a folder's files (or a file) hold, in short: small files whole, pieces from all over large ones. Empty if there is none."""
    if not folder.exists():
        return ""
    digest = hashlib.sha256()
    for path in [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()} {size}\n".encode())
        with path.open("rb") as stream:
            if size <= 4 * SAMPLES_OF_A_LARGE_FILE * PIECE:
                digest.update(stream.read())
                continue
            for number in range(SAMPLES_OF_A_LARGE_FILE):
                stream.seek(number * (size - PIECE) // (SAMPLES_OF_A_LARGE_FILE - 1))
                digest.update(stream.read(PIECE))
    return digest.hexdigest()[:16]


class AnswersFile:
    """`answers.jsonl`: a line an answer, on disk before the next batch is asked; with other names for a record, other results.

    The line that a killed run was writing goes, and so do failures, which are asked again, unless they are kept.
    """

    def __init__(self, path: Path, names: tuple[str, ...] = ("task", "row"), keeps_failures: bool = False):
        self.path, self.names = path, names
        self.records: dict[tuple[str, ...], dict] = {}
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                key, failed = self._key(record), record["failed"]
            except (ValueError, KeyError, TypeError) as error:
                if number == len(lines):  # no line break after it: torn
                    break
                raise BodaError(
                    f"{path}, line {number} is no answer; mend or delete the line, or choose another --out"
                ) from error
            if keeps_failures or not failed:
                self.records[key] = record
        if lines:
            write_lines(path, self.records.values())

    def _key(self, record: dict) -> tuple[str, ...]:
        return tuple(record[name] for name in self.names)

    def add(self, records: Sequence[dict]) -> None:
        """Appends whole lines and waits for the disk. Raises BodaError if it is full."""
        again = "the same command goes on from the last answer"
        with writing(self.path, again), self.path.open("a", encoding="utf-8") as stream:
            stream.write(as_lines(records))
            stream.flush()
            os.fsync(stream.fileno())
        self.records |= {self._key(record): record for record in records}


def read_answers(path: str | Path) -> list[dict]:
    """The records of an `answers.jsonl` (or of the folder it lies in). Raises BodaError if there is none."""
    path = file_of(path, "answers", "answers.jsonl", "an evaluation writes answers.jsonl into its --out folder")
    with explaining(f"{path} has a line that is no JSON ({WHY}); run the evaluation again, it mends the file", ValueError):
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def file_of(path: str | Path, what: str, name: str, advice: str) -> Path:
    """A file, or the one of that name in a folder. Raises BodaError if there is none."""
    path = Path(path) / name if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise BodaError(f"no {what} at {path}: {advice}")
    return path
