"""Builds and parses resource names; the only file that knows their shape.

A name is ``<collection>/<id>``, for example ``adapters/20261122-9f3kq2``.  The tenant is
never part of it: it comes from the caller's identity.
"""

from __future__ import annotations

import re
import secrets
import time

from services.common.errors import InvalidArgument, shown

DATASETS = "datasets"
ADAPTERS = "adapters"
IMAGE_SETS = "imageSets"
CLASSIFIERS = "classifiers"
REPORTS = "reports"
JOBS = "jobs"
ALIASES = "aliases"

KINDS = (DATASETS, ADAPTERS, IMAGE_SETS, CLASSIFIERS, REPORTS, JOBS, ALIASES)

ID_RULE = "a-z, 0-9 and '-', 1 to 63 characters, not starting with '-'"
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


def is_id(text: str) -> bool:
    """Whether ``text`` may be one component of a name (or a tenant)."""
    return _ID.fullmatch(text) is not None


def build(kind: str, id: str) -> str:
    """The name ``<kind>/<id>``.

    Raises:
        ValueError: For an unknown kind or a malformed id (a bug, not a client's mistake).
    """
    if kind not in KINDS or not is_id(id):
        raise ValueError(f"no resource name from kind {kind!r} and id {id!r}")
    return f"{kind}/{id}"


def parse(kind: str, name: str, field: str) -> str:
    """The id in ``name``.

    Args:
        kind: The collection that the name must belong to.
        name: What the client sent.
        field: Request field it came in, for the error.

    Raises:
        InvalidArgument: If ``name`` is not a name of this kind.
    """
    collection, slash, id = name.partition("/")
    if collection != kind or not slash or not is_id(id):
        problem = f"is {shown(name) if name else 'empty'}, not a name of {kind}"
        raise InvalidArgument(field, problem, f"send {kind}/<id>, id: {ID_RULE}")
    return id


def parse_any(kinds: tuple[str, ...], name: str, field: str) -> tuple[str, str]:
    """The kind and id in ``name``, of any of ``kinds``.

    Raises:
        InvalidArgument: If it belongs to none of them.
    """
    kind = name.partition("/")[0]
    if kind in kinds:
        return kind, parse(kind, name, field)
    shapes = " or ".join(f"{kind}/<id>" for kind in kinds)
    problem = f"is {shown(name) if name else 'empty'}"
    raise InvalidArgument(field, problem, f"send {shapes}, id: {ID_RULE}")


def new_id(kind: str) -> str:
    """A new id: 9 characters of time, then 6 random ones."""
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}")
    milliseconds = time.time_ns() // 1_000_000
    return _base36(milliseconds, 9) + "".join(secrets.choice(_ALPHABET) for _ in range(6))


def _base36(number: int, width: int) -> str:
    digits = ""
    for _ in range(width):
        number, digit = divmod(number, 36)
        digits = _ALPHABET[digit] + digits
    return digits
