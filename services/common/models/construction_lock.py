"""Serializes model construction: diffusers patches torch.nn process-wide while loading.

A generator replica loads a base in one thread while another puts an adapter of another base on a
text encoder. Meanwhile ``torch.nn.Module.register_parameter`` makes parameters without memory
(accelerate's ``init_empty_weights``), so layers that another thread builds would have no weights.
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
    """Decorates a function that builds layers: one call runs at a time."""

    @wraps(function)
    def alone(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with _lock:
            return function(*args, **kwargs)

    return alone
