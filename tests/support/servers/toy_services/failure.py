"""How toy services refuse: as the real ones do."""

from __future__ import annotations

import grpc
from grpc_status import rpc_status

from services.common.rpc.handlers import to_status


def fail(context: grpc.ServicerContext, error: BaseException) -> None:
    """End the call as the real services do."""
    context.abort_with_status(rpc_status.to_status(to_status(error, "request-7")))
