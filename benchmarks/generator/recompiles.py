"""Counts what ``torch.compile`` compiles again, and makes too many recompiles an error."""

from __future__ import annotations

from types import TracebackType

import torch._dynamo.config
from torch._dynamo.callback import CallbackArgs, CallbackTrigger, callback_handler


class RecompileCounter:
    """Context that counts recompiles on all threads.

    Beyond ``recompile_limit`` torch would run the function uncompiled, at another speed and without
    another word.  The context makes torch raise ``FailOnRecompileLimitHit`` instead.

    Attributes:
        count: How often a function was compiled again.
    """

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> RecompileCounter:
        callback_handler.register_start_callback(self._compile_starts)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        callback_handler.remove_start_callback(self._compile_starts)

    def _compile_starts(self, args: CallbackArgs) -> None:
        # Called on the thread that compiles, before it looks at the limit.  After torch 2.11
        # settings hold for one thread only, and most is compiled on the engine's.
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        # The id is "function/compile", both from 0.
        first = args.compile_id.endswith("/0")
        if args.callback_trigger is CallbackTrigger.DYNAMO and not first:
            self.count += 1
