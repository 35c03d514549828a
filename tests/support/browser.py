"""The distribution's own Chromium, headless. Nothing is downloaded. A busy machine takes its time with it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest
from playwright.sync_api import Browser, Error, Locator, Page, Response, expect, sync_playwright

__all__ = ["CHANGED", "PATIENCE", "chromium", "follow", "go", "page"]

T = TypeVar("T")

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

# Milliseconds for whatever is waited for in a page, and for the browser to start.
PATIENCE = 60_000
START_PATIENCE = 120_000

expect.set_options(timeout=PATIENCE)

# Chromium drops what it loads when this host gets another network, as with each container that starts.
CHANGED = "ERR_NETWORK_CHANGED"
# Its page that says so may come in between, and its own next try.
BETWEEN = "interrupted by another navigation"
TRIES = 10


def go(page: Page, url: str) -> Response | None:
    """Opens ``url``; again where a change of this host's networks cut that off."""
    return uncut(lambda: page.goto(url))


def follow(link: Locator) -> None:
    """Clicks what leads to another page; again where a change of this host's networks cut that off."""
    page = link.page
    before = page.url

    def clicked() -> None:
        try:
            with page.expect_navigation():
                link.click()
        except Error as error:
            if was_cut(error):
                go(page, before)
            raise

    uncut(clicked)


def uncut(step: Callable[[], T]) -> T:
    for _ in range(TRIES - 1):
        try:
            return step()
        except Error as error:
            if not was_cut(error):
                raise
    return step()


def was_cut(error: Error) -> bool:
    return CHANGED in str(error) or BETWEEN in str(error)


@contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """A browser, started with ``arguments`` beside its usual ones; the test is skipped where there is none."""
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium here; install it (sudo apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*QUIET, *arguments], timeout=START_PATIENCE)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def page(user: str, password: str) -> Iterator[Page]:
    """A page whose browser logs in over HTTP as ``user``."""
    with chromium() as browser:
        context = browser.new_context(http_credentials={"username": user, "password": password})
        context.set_default_timeout(PATIENCE)
        yield context.new_page()
