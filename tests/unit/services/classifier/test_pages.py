"""Pages of lists."""

from __future__ import annotations

import base64

import pytest

from services.classifier.pages import page
from services.common.errors import InvalidArgument

NAMES = [f"name-{number:04d}" for number in range(2500)]


def pages(entries: list[str], size: int, *, descending: bool = False) -> list[list[str]]:
    """All pages, one after the other."""
    found, token = [], ""
    while True:
        shown, token = page(entries, lambda name: [name], size, token, descending=descending)
        found.append(shown)
        if not token:
            return found


@pytest.mark.parametrize("descending", [False, True])
def test_pages_hold_everything_once_and_in_order(descending: bool) -> None:
    names = NAMES[::-1] if descending else NAMES
    found = pages(names[:10], 4, descending=descending)
    assert [len(each) for each in found] == [4, 4, 2]
    assert [name for each in found for name in each] == names[:10]


def test_the_last_full_page_says_that_it_is_the_last() -> None:
    assert [len(each) for each in pages(NAMES[:8], 4)] == [4, 4]
    assert pages([], 4) == [[]]


def test_a_size_of_zero_asks_for_all_and_a_large_one_for_a_thousand() -> None:
    assert [len(each) for each in pages(NAMES, 0)] == [2500]
    assert [len(each) for each in pages(NAMES, 5000)] == [1000, 1000, 500]


def test_entries_that_come_and_go_between_pages_neither_repeat_nor_hide_others() -> None:
    first, token = page(NAMES[:6], lambda name: [name], 3, "")
    changed = [name for name in NAMES[:8] if name != first[-1]]
    rest, _ = page(["a-new-one", *changed], lambda name: [name], 0, token)
    assert rest == NAMES[3:8]


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(InvalidArgument) as caught:
        page(NAMES, lambda name: [name], -1, "")
    assert caught.value.field == "page_size" and caught.value.remedy


@pytest.mark.parametrize(
    "token",
    [
        "nonsense",
        "ä",
        base64.urlsafe_b64encode(b"[]").decode(),
        base64.urlsafe_b64encode(b'{"a":1}').decode(),
        base64.urlsafe_b64encode(b'[true,"name-0001"]').decode(),
        base64.urlsafe_b64encode(b"[false,1]").decode(),
        base64.urlsafe_b64encode(b"\xff\xfe").decode(),
    ],
)
def test_a_token_of_no_page_of_the_list_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        page(NAMES, lambda name: [name], 3, token)
    assert caught.value.field == "page_token" and caught.value.remedy
