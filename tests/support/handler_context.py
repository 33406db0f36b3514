"""Serve's context of a gRPC call, for handlers without Ray."""

from __future__ import annotations

from typing import Any

import grpc


class HandlerContext:
    """Names the caller's tenant; keeps the status that the handler sets."""

    def __init__(self, tenant: str) -> None:
        self.code, self.details = grpc.StatusCode.OK, ""
        self._metadata = [("x-cytosynth-tenant", tenant)]

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return self._metadata

    def trailing_metadata(self) -> list[tuple[str, str]]:
        return []

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, metadata: Any) -> None:
        pass
