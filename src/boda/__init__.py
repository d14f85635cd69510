"""Boda (보다, "to see"): build, prove and serve Korean vision-language models from parts."""

from __future__ import annotations

__version__ = "0.1.0"

_LAZY = {"load": "boda.models.checkpoints"}


def __getattr__(name: str):
    """`boda.load` and the parts of Boda are imported when they are first used."""
    import importlib

    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in ("data", "models", "train", "evaluate", "search", "serve", "recipe"):
        return importlib.import_module(f"boda.{name}")
    raise AttributeError(f"module 'boda' has no attribute '{name}'")
