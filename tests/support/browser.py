"""A real browser for tests: the Chromium of this machine, through playwright.

``browser`` is a fixture for ``conftest.py`` files and lives as long as one test file: playwright's
synchronous API keeps an event loop running in the thread, which tests with loops of their own
would trip over.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESKTOP_PX, PHONE_PX = 1280, 390


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium; skips where none is installed."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser is installed: none of {', '.join(NAMES)} is in PATH")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        # Without the sandbox, which does not start as root; pages are our own.
        launched = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield launched
        launched.close()


@contextmanager
def open_page(
    browser: Browser,
    target: Path | str,
    width: int = DESKTOP_PX,
    *,
    dark: bool = False,
    expected: str = "",
) -> Iterator[Page]:
    """Open an HTML file or address in a window ``width`` pixels wide.

    When the block ends without an error, the page must have logged none: neither an exception of
    a script nor a violation of its Content-Security-Policy. Errors that hold the text ``expected``
    do not count.

    Wait with locators: ``wait_for_function`` evaluates text, which our pages' policies forbid.
    """
    problems: list[str] = []
    context = browser.new_context(
        viewport={"width": width, "height": 844},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
    )
    try:
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: problems.append(str(error)))

        def on_console(message: ConsoleMessage) -> None:
            if message.type == "error":
                problems.append(f"{message.text} {message.location.get('url', '')}")

        page.on("console", on_console)
        page.goto(target.resolve().as_uri() if isinstance(target, Path) else target)
        yield page
        unexpected = [text for text in problems if not expected or expected not in text]
        if unexpected:
            pytest.fail("the page logged errors: " + "; ".join(unexpected))
    finally:
        context.close()


def overflow_px(page: Page) -> int:
    """Pixels by which the page is wider than the window."""
    return int(
        page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    )
