"""Logs as one JSON object a line, with the request's id."""

from __future__ import annotations

import contextvars
import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from cytosynth.traces import request_id_var, trace_id

__all__ = ["JsonFormatter", "configure_logging", "request_id_var", "tenant_var"]

tenant_var: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="")


class JsonFormatter(logging.Formatter):
    """Formats a record as JSON; ``extra={"fields": {...}}`` adds fields of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON; a traceback becomes its ``exception`` field."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := request_id_var.get():
            line["request_id"] = request_id
        if trace := trace_id():
            line["trace_id"] = trace
        if tenant := tenant_var.get():
            line["tenant"] = tenant
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logging(level: int = logging.INFO) -> None:
    """Sends our loggers to stderr as JSON; safe to call again."""
    for name in ("cytosynth", "services"):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.propagate = False
        if not any(isinstance(h.formatter, JsonFormatter) for h in logger.handlers):
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(JsonFormatter())
            logger.addHandler(handler)
