"""The distribution's own Chromium, headless. Nothing is downloaded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

__all__ = ["chromium", "page"]

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


@contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """A browser, started with ``arguments`` beside its usual ones; the test is skipped where there is none."""
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium here; install it (sudo apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*QUIET, *arguments])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def page(user: str, password: str) -> Iterator[Page]:
    """A page whose browser logs in over HTTP as ``user``."""
    with chromium() as browser:
        yield browser.new_context(http_credentials={"username": user, "password": password}).new_page()
