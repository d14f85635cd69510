"""Makes `import torchvision` work beside a CPU build of torch; import this first.

The wheel's compiled operators want the CUDA libraries. Without them its Python part still registers what these operators do on
tensors without data or under autograd, and torch refuses to register anything for an operator that is not there. These
registrations are left out; transforms and layers, which use no such operator, are whole.
"""

from __future__ import annotations

from collections.abc import Callable

import torch


def _is_absent(name: object) -> bool:
    namespace, _, operator = str(name).partition("::")
    return namespace == "torchvision" and not hasattr(torch.ops.torchvision, operator)


def _lenient(register: Callable) -> Callable:
    def lenient(operator, *arguments, **rest):
        if not _is_absent(operator):
            return register(operator, *arguments, **rest)
        return None if arguments and callable(arguments[0]) else lambda function: function

    return lenient


torch.library.register_fake = _lenient(torch.library.register_fake)
torch.library.register_autograd = _lenient(torch.library.register_autograd)
