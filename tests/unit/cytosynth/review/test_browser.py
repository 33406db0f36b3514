"""Reviewers at work and the results page in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cytosynth.review.answers import CALLS, Answer, Answers
from cytosynth.review.report import write_review
from tests.support.browser import DESKTOP_PX, PHONE_PX, open_page, overflow_px
from tests.support.reviews import CLASSES, Served, served, small_mix

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# Keys of one cell: call, class, quality.
ONE_CELL = ("3", "2", "5")


@pytest.fixture
def review(tmp_path: Path) -> Iterator[Served]:
    """A review of 4 cells."""
    with served(*small_mix(tmp_path, per_class=1)) as found:
        yield found


def _enter(page: Page, name: str) -> None:
    page.get_by_label("Your pseudonym").fill(name)
    page.get_by_role("button", name="Begin or go on").click()


def _at(page: Page, number: int) -> None:
    """Wait until the page shows this cell of four, picture included."""
    page.get_by_role("heading", name=f"Cell {number} of 4").wait_for()
    page.locator("#cell").evaluate("(image) => image.decode()")


def _label(page: Page, number: int, keys: tuple[str, ...] = ONE_CELL) -> None:
    _at(page, number)
    for key in keys:
        page.keyboard.press(key)


def test_a_reviewer_labels_all_cells_with_the_keyboard(browser: Browser, review: Served) -> None:
    with open_page(browser, review.url) as page:
        page.locator("#reviewer:focus").wait_for()
        page.keyboard.type("Ada")
        page.keyboard.press("Enter")
        for number in (1, 2, 3, 4):
            _label(page, number)
        page.get_by_role("heading", name="All 4 cells are labelled").wait_for()
        page.reload()
        page.get_by_role("heading", name="All 4 cells are labelled").wait_for()
    kept = review.answers.of("Ada")
    assert set(kept) == {cell.id for cell in review.mix.cells}
    assert {(a.call, a.class_id, a.quality) for a in kept.values()} == {
        ("probably_synthetic", CLASSES[1], 5)
    }
    assert len(review.answers.history()) == 4


def test_a_reviewer_who_comes_back_goes_on_at_the_first_open_cell(
    browser: Browser, review: Served
) -> None:
    with open_page(browser, review.url) as page:
        _enter(page, "Ada")
        _label(page, 1)
        _at(page, 2)
        page.keyboard.press("1")  # begun, not finished
        page.reload()
        _at(page, 2)
        assert page.locator("[aria-pressed=true]").count() == 0
        assert page.get_by_text("1 labelled", exact=True).is_visible()
    with open_page(browser, review.url) as page:
        _enter(page, " ada ")
        _at(page, 2)


def test_two_reviewers_do_not_mix(browser: Browser, review: Served) -> None:
    with open_page(browser, review.url) as ada, open_page(browser, review.url) as ben:
        _enter(ada, "Ada")
        _enter(ben, "Ben")
        _label(ada, 1, ("1", "1", "1"))
        _label(ben, 1, ("4", "2", "5"))
        _label(ada, 2, ("1", "1", "1"))
        _at(ada, 3)
        _at(ben, 2)
    latest = review.answers.latest()
    assert {a.call for a in latest["Ada"].values()} == {"surely_real"}
    assert {a.call for a in latest["Ben"].values()} == {"surely_synthetic"}
    assert list(latest["Ada"]) == review.mix.order("Ada")[:2]
    assert list(latest["Ben"]) == review.mix.order("Ben")[:1]


def test_an_answer_can_be_changed_and_a_cell_left_for_later(
    browser: Browser, review: Served
) -> None:
    with open_page(browser, review.url) as page:
        _enter(page, "Ada")
        _label(page, 1)
        _at(page, 2)
        page.keyboard.press("ArrowRight")  # later
        _label(page, 3)
        _at(page, 4)
        for number in (3, 2, 1):
            page.keyboard.press("Backspace")
            _at(page, number)
        assert page.locator("[aria-pressed=true]").count() == 3
        page.get_by_role("button", name="1, worst").click()
        assert page.get_by_role("button", name="1, worst").get_attribute("aria-pressed") == "true"
        page.get_by_role("button", name="Save").click()
        _label(page, 2, ("1", "0", "2"))
        _at(page, 3)
        page.keyboard.press("ArrowRight")
        _label(page, 4)
        page.get_by_role("heading", name="All 4 cells are labelled").wait_for()
    order = review.mix.order("Ada")
    kept = review.answers.of("Ada")
    assert kept[order[0]].quality == 1 and kept[order[0]].num_given == 2
    assert kept[order[1]].class_id == "?"
    assert len(kept) == 4 and len(review.answers.history()) == 5


def test_an_answer_that_was_not_kept_stays_on_the_page(browser: Browser, review: Served) -> None:
    with open_page(browser, review.url, expected="ERR_FAILED") as page:
        _enter(page, "Ada")
        _at(page, 1)
        page.route("**/api/answers", lambda route: route.abort())
        for key in ONE_CELL:
            page.keyboard.press(key)
        page.get_by_role("alert").get_by_text("Not kept. The server does not answer").wait_for()
        assert not review.answers.of("Ada")
        page.unroute("**/api/answers")
        page.keyboard.press("Enter")  # the button has the focus
        _at(page, 2)
        assert page.get_by_role("alert").count() == 0
    assert len(review.answers.of("Ada")) == 1


def test_a_bad_name_is_told_beside_the_field(browser: Browser, review: Served) -> None:
    with open_page(browser, review.url, expected="status of 400") as page:
        page.get_by_label("Your pseudonym").fill("a/b")
        with page.expect_response(lambda response: "/label" in response.url) as found:
            page.get_by_role("button", name="Begin or go on").click()
        assert found.value.status == 400
        assert "The name is not a pseudonym" in page.get_by_role("alert").inner_text()
        assert page.get_by_label("Your pseudonym").input_value() == "a/b"


@pytest.mark.parametrize("width", [PHONE_PX, DESKTOP_PX])
@pytest.mark.parametrize("dark", [False, True])
def test_pages_fit_phone_and_desktop(
    browser: Browser, review: Served, width: int, dark: bool
) -> None:
    with open_page(browser, review.url, width, dark=dark) as page:
        assert overflow_px(page) == 0
        _enter(page, "W" * 60)  # wide, and nowhere to break
        _at(page, 1)
        assert overflow_px(page) == 0
        box = page.locator("#cell").bounding_box()
        assert box and box["width"] >= 300 and abs(box["width"] - box["height"]) < 1
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (light == "rgb(23, 18, 31)") is dark
        for name in ("surely real", "none of these", "5, best"):
            assert page.get_by_role("button", name=name).bounding_box()["height"] >= 44
        small = page.evaluate(
            "[...document.querySelectorAll('button, input')].filter((e) => "
            "e.scrollWidth > e.clientWidth + 1).map((e) => e.textContent)"
        )
        assert small == []


@pytest.mark.parametrize("width", [PHONE_PX, DESKTOP_PX])
def test_the_results_page_shows_what_was_found(
    browser: Browser, tmp_path: Path, width: int
) -> None:
    mix, out = small_mix(tmp_path, per_class=3)
    rng = np.random.default_rng(1)
    with closing(Answers(out)) as answers:
        for reviewer in ("Ada", "M" * 60):
            for cell in mix.cells:
                grade = int(rng.integers(0, 3)) + (cell.origin == "synthetic")
                quality = int(rng.integers(2, 6))
                given = str(rng.choice([cell.class_id, *CLASSES, "?"]))
                answers.keep(Answer(reviewer, cell.id, CALLS[grade], given, quality))
    written = write_review(out)
    with open_page(browser, written.html_path, width) as page:
        assert overflow_px(page) == 0
        area = written.results["overall"]["auc"]
        card = page.locator(".card", has=page.get_by_role("heading", name="Told apart: AUC"))
        assert f"{area:.2f}" in card.inner_text()
        assert page.locator("svg.matrix").count() == 2
        assert page.locator("tr.all").is_visible()
        images = page.locator("figure img")
        assert images.count() > 0
        loaded = "(found) => found.every((image) => image.naturalWidth > 0)"
        assert images.evaluate_all(loaded)
        text = page.locator("main").inner_text()
        assert "None" not in text and "NaN" not in text and "{{" not in text
