"""Translates failures of disk, object store and database into errors for clients.

Libraries wrap what the system said, so the causes of an error are looked at too.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator

from services.common.errors import (
    DomainError,
    FailedPrecondition,
    ResourceExhausted,
    Unavailable,
)

_SUBJECT = "the server's storage"
_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM}
_FAILING = {errno.EIO, errno.ESTALE, errno.EBUSY}
#: By name, so that no service has to import SQLAlchemy or botocore for them.
_FAILING_NAMES = {
    "OperationalError",
    "InterfaceError",
    "EndpointConnectionError",
    "ConnectionClosedError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
}
#: Error codes with which S3 (AWS, Ceph, MinIO) refuses more bytes.
_S3_FULL = {
    "QuotaExceeded",
    "StorageFull",
    "InsufficientCapacity",
    "XMinioStorageFull",
    "XMinioAdminBucketQuotaExceeded",
}
_HTTP_INSUFFICIENT_STORAGE = 507
_POSTGRES_DISK_FULL = "53100"
_POSTGRES_READ_ONLY = "25006"
#: What the C library says of ENOSPC and EDQUOT, for libraries that keep the text only.
_FULL_TEXTS = ("no space left on device", "disk quota exceeded", "disk is full")


def storage_error(error: BaseException) -> DomainError | None:
    """The domain error of a storage failure; None for any other error.

    Returns:
        ResourceExhausted for a full disk or quota, FailedPrecondition for storage that may
        not be written, Unavailable for storage that fails to answer.
    """
    causes = list(_causes(error))
    if any(map(_is_full, causes)):
        return ResourceExhausted(
            f"{_SUBJECT} is full",
            "delete what is no longer needed (cytosynth delete NAME) or ask the server's operator "
            "for more space, then repeat the call",
        )
    if any(map(_is_read_only, causes)):
        return FailedPrecondition(
            _SUBJECT,
            "is read-only",
            "let the server's operator make it writable, then repeat the call",
        )
    if any(_number(each) in _DENIED for each in causes):
        return FailedPrecondition(
            _SUBJECT,
            "the service has no permission to use a file of its own",
            "let the server's operator correct the owner of its folders, then repeat the call",
        )
    if any(map(_is_failing, causes)):
        return Unavailable(f"{_SUBJECT} failed to read or write", 10.0)
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error itself, then what it was raised from or wraps."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting.append(each.__cause__ if each.__suppress_context__ else each.__context__)
        waiting.append(each.__cause__)
        for name in ("orig", "cause"):  # SQLAlchemy's DBAPIError, Ray's RayTaskError
            wrapped = getattr(each, name, None)
            waiting.append(wrapped if isinstance(wrapped, BaseException) else None)


def _number(error: BaseException) -> int | None:
    return error.errno if isinstance(error, OSError) else None


def _is_full(error: BaseException) -> bool:
    return (
        _number(error) in _FULL
        or _sqlite_code(error) == sqlite3.SQLITE_FULL
        # A new connection found no room for SQLite's shared memory file.
        or getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_SHMSIZE
        or getattr(error, "sqlstate", None) == _POSTGRES_DISK_FULL
        or _is_s3_full(error)
        or any(text in str(error).lower() for text in _FULL_TEXTS)
    )


def _is_read_only(error: BaseException) -> bool:
    return (
        _number(error) == errno.EROFS
        or _sqlite_code(error) == sqlite3.SQLITE_READONLY
        or getattr(error, "sqlstate", None) == _POSTGRES_READ_ONLY
    )


def _is_failing(error: BaseException) -> bool:
    """Whether disk, store or database failed in a way that may pass."""
    return (
        _number(error) in _FAILING
        or isinstance(error, ConnectionError)
        or type(error).__name__ in _FAILING_NAMES
    )


def _sqlite_code(error: BaseException) -> int | None:
    """SQLite's primary result code; the higher bits refine it."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else None


def _is_s3_full(error: BaseException) -> bool:
    """Whether botocore's ClientError tells of a full store or quota."""
    response = getattr(error, "response", None)
    if not isinstance(response, dict):
        return False
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    code = response.get("Error", {}).get("Code")
    return status == _HTTP_INSUFFICIENT_STORAGE or code in _S3_FULL
