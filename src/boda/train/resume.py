"""Checkpoints of a stage in progress: written whole, checked when read, and enough to go on as if nothing had happened.

A checkpoint holds the trained tensors, the optimizer's state and the position (epoch and step of the last batch trained on).
Nothing else is needed: the order of samples and every random draw are functions of the seed and the position.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from boda.errors import BodaError
from boda.files import read_json, whole_folder, write_json

KEPT = 2


@dataclass
class State:
    """What a checkpoint gives back."""

    step: int
    epoch: int
    step_in_epoch: int
    tensors: dict[str, torch.Tensor]
    optimizer: dict


def save(folder: Path, state: State) -> Path:
    """Writes `folder/step-N` under a temporary name, with sizes and hashes, then renames it; older ones beyond the last two go.

    Raises BodaError if the disk is full; earlier checkpoints are untouched.
    """
    final = folder / f"step-{state.step}"
    with whole_folder(final, f"the checkpoint of step {state.step} to {folder}", lambda: _what_is_left(folder)) as partial:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
        save_file(tensors, partial / "trained.safetensors")
        torch.save(state.optimizer, partial / "optimizer.pt")
        position = {"step": state.step, "epoch": state.epoch, "step_in_epoch": state.step_in_epoch}
        write_json(partial / "position.json", position)
        files = {path.name: {"size": path.stat().st_size, "sha256": digest(path)} for path in sorted(partial.iterdir())}
        write_json(partial / "files.json", files)
        for path in partial.iterdir():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    for _, path in sorted(found(folder))[:-KEPT]:
        shutil.rmtree(path, ignore_errors=True)
    return final


def _what_is_left(folder: Path) -> str:
    whole = [number for number, path in found(folder) if problem(path) is None]
    kept = f"the checkpoint of step {max(whole)} is whole" if whole else "there is no earlier checkpoint of this stage"
    return f"{kept}. Free some space and run the same command again to go on"


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def found(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every checkpoint there, whole or not."""
    return [(int(path.name[5:]), path) for path in folder.glob("step-*") if path.name[5:].isdigit()]


def problem(path: Path) -> str | None:
    """Why a checkpoint cannot be used, None if it can."""
    try:
        files = read_json(path / "files.json")
    except BodaError:
        files = {}
    for name, facts in files.items():
        part = path / name
        if not part.is_file() or part.stat().st_size != facts["size"]:
            return f"{name} is missing or cut short"
        if digest(part) != facts["sha256"]:
            return f"{name} is damaged"
    return None if files else "it has no list of its files"


def latest(folder: Path) -> State | None:
    """The newest whole checkpoint, None if there is none. A torn one is passed over with a warning."""
    for leftover in folder.glob(".step-*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)
    for _, path in sorted(found(folder), reverse=True):
        why = problem(path)
        if why:
            warnings.warn(f"checkpoint {path} is passed over: {why}", stacklevel=2)
            continue
        position = read_json(path / "position.json")
        optimizer = torch.load(path / "optimizer.pt", weights_only=True, map_location="cpu")
        return State(tensors=load_file(path / "trained.safetensors"), optimizer=optimizer, **position)
    return None
