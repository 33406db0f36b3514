"""Models are built by one thread at a time.

While diffusers or transformers load a model, ``torch.nn.Module.register_parameter`` is another
function for the whole process, one that makes parameters without memory (accelerate's
``init_empty_weights``), and functions of ``torch.nn.init`` do nothing. A layer that another thread
makes meanwhile suffers both.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_lock = threading.RLock()


def builds_models(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Decorates what makes layers, so that it waits for whoever makes some."""

    @wraps(function)
    def alone(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with _lock:
            return function(*args, **kwargs)

    return alone
