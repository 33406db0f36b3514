"""Collects refused images, so that one error names them all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from services.common.errors import MAX_LISTED, InvalidArgument

#: Refused images after which the rest is not looked at.
MAX_REFUSED = 100


class Refusals:
    """Refused images: the first are kept, all are counted."""

    def __init__(self) -> None:
        self._first: list[InvalidArgument] = []
        self._number = 0

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Keep one image's refusal for later; raise all joined at ``MAX_REFUSED``."""
        try:
            yield
        except InvalidArgument as error:
            self._number += 1
            if self._number <= MAX_LISTED:
                self._first.append(error)
            if self._number == MAX_REFUSED:
                raise self._joined() from None

    def raise_any(self) -> None:
        """Raise the refusals as one InvalidArgument, if there are any."""
        if self._first:
            raise self._joined()

    def _joined(self) -> InvalidArgument:
        return InvalidArgument.joined(self._first, self._number)
