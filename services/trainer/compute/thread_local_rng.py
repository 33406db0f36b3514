"""Random numbers of one thread, for code that knows torch's global generator only.

Initialisers of torch.nn and of libraries draw from the generator that all threads share, so what
they draw hangs on what other threads do meanwhile.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class RandomOfThread(TorchDispatchMode):
    """While it is entered, this thread's draws on the CPU come from a generator of its own.

    They are those that ``torch.manual_seed(seed)`` gives a process of one thread.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Called by torch for every operation of this thread."""
        kwargs = dict(kwargs or {})
        taken = {argument.name for argument in func._schema.arguments}
        if "generator" not in taken and "generator" in func.overloadpacket.overloads():
            func, taken = func.overloadpacket.generator, taken | {"generator"}
        if "generator" in taken and kwargs.get("generator") is None:
            kwargs["generator"] = self._generator
        return func(*args, **kwargs)
