"""Pages of lists (https://google.aip.dev/158)."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import TypeVar

from services.common.errors import InvalidArgument

MAX_PAGE_SIZE = 1000
_Entry = TypeVar("_Entry")


def page(
    entries: Sequence[_Entry],
    key: Callable[[_Entry], Sequence[str]],
    page_size: int,
    page_token: str,
    *,
    descending: bool = False,
) -> tuple[list[_Entry], str]:
    """Entries of one page, and the token of the next.

    Entries that come or go between two pages neither repeat nor hide others.

    Args:
        entries: The whole list, in the order of ``key``.
        key: Place of an entry in that order; no two entries share one.
        page_size: Most entries to give; 0: all, above 1000: 1000.
        page_token: Empty for the first page.
        descending: Whether the list begins with the largest key.

    Raises:
        InvalidArgument: Naming ``page_size`` or ``page_token``.
    """
    if page_size < 0:
        raise InvalidArgument("page_size", f"is {page_size}", "send 0 (all) to 1000")
    if page_token:
        last = _parse(page_token, descending)
        entries = [
            entry
            for entry in entries
            if (list(key(entry)) < last if descending else list(key(entry)) > last)
        ]
    if not page_size or len(entries) <= min(page_size, MAX_PAGE_SIZE):
        return list(entries), ""
    shown = list(entries[: min(page_size, MAX_PAGE_SIZE)])
    return shown, _token(key(shown[-1]), descending)


def _token(key: Sequence[str], descending: bool) -> str:
    text = json.dumps([descending, *key], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode()


def _parse(token: str, descending: bool) -> list[str]:
    try:
        order, *key = json.loads(base64.b64decode(token, b"-_", validate=True))
        if order is not descending or not key or not all(isinstance(part, str) for part in key):
            raise ValueError
    except (binascii.Error, ValueError, TypeError):
        remedy = "send the next_page_token of the answer before, or leave it empty"
        raise InvalidArgument("page_token", "is not one of this list", remedy) from None
    return key
