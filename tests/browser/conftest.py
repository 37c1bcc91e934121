"""A real Chromium for the tests of this folder.

``new_page`` opens a page: ``new_page(color_scheme="dark", width=390, height=844)``; a narrow one is a phone's. What its
pages throw or write to the console as an error is collected in ``page_errors``, and fails the test when it ends; a test
that provokes an error takes it out of that list. Names below ``.example`` lead to this machine. Where there is no
Chromium the tests are skipped, and say what was looked for.
"""

import os
import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
NO_SANDBOX = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium has none for root
PHONE = 600
"""Pages narrower than this many pixels are a phone's: they heed ``<meta name=viewport>``."""


@pytest.fixture(scope="module", autouse=True)
def dashboard_pictures() -> None:
    """A run draws its pictures here."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One headless browser for a file of tests; its event loop ends with it, so that other tests may run their own."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip(
            f"NOT TESTED: pages in a browser; none of {', '.join(PROGRAMS)} is on the PATH: "
            f"install one (on Debian: apt-get install chromium)"
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            args=["--host-resolver-rules=MAP *.example 127.0.0.1", *NO_SANDBOX],
        )
        yield browser
        browser.close()


@pytest.fixture
def page_errors() -> list[str]:
    """What the test's pages have thrown or written to the console as errors so far."""
    return []


@pytest.fixture
def new_page(chromium: Browser, page_errors: list[str]) -> Iterator[Callable[..., Page]]:
    """Opens pages, each in a context of its own: ``new_page(color_scheme="light", width=1280, height=800)``."""
    contexts = []

    def make(*, color_scheme: str = "light", width: int = 1280, height: int = 800) -> Page:
        size = {"width": width, "height": height}
        context = chromium.new_context(color_scheme=color_scheme, viewport=size, is_mobile=width < PHONE)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)  # a report takes 8 s to draw on a slow core
        page.on("pageerror", lambda error: page_errors.append(f"{page.url}: {error}"))
        page.on("console", lambda line: line.type == "error" and page_errors.append(f"{page.url}: {line.text}"))
        return page

    yield make
    for context in contexts:
        context.close()
    assert page_errors == []
