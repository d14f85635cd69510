"""Training: `boda.train(recipe, ...)` is this package called as a function (see `boda.train.stages.train`)."""

from __future__ import annotations

import sys
import types


class _Callable(types.ModuleType):
    def __call__(self, *args, **kwargs):
        from boda.train.stages import train

        return train(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
