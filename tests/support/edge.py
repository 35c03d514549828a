"""The edge of a stack as its clients see it: programs that trust its CA, and browsers."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

from playwright.sync_api import Browser, BrowserContext, Page, Response

from deploy import secrets
from deploy.paths import ROOT
from deploy.services import FLOWER_LOGIN
from tests.support import browser as browsers
from tests.support.checkout import Checkout
from tests.support.eventually import eventually
from tests.support.login import basic

__all__ = ["ARTIFACTS", "Answer", "Edge", "Looks", "refused"]

# Where pictures of pages are left, to be looked at; git ignores it.
ARTIFACTS = ROOT / ".artifacts"

# Seconds. Whoever answers answers at once; a busy machine takes its time.
PATIENCE = 60


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes


def refused(host: str, port: int) -> bool:
    """Whether nobody listens there."""
    try:
        socket.create_connection((host, port), timeout=PATIENCE).close()
    except ConnectionRefusedError:
        return True
    return False


class Edge:
    """Reached as https://localhost, at the two ports that `stack` was given for it."""

    def __init__(self, stack: Checkout, http_port: int, https_port: int) -> None:
        self.stack = stack
        self.http_port = http_port
        self.https_port = https_port
        self.url = f"https://localhost:{https_port}"
        self.secrets = secrets.load(stack.folder / ".warren" / "secrets")

    def trusting(self, *protocols: str) -> ssl.SSLContext:
        """A context that trusts the stack's CA and nobody else."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.stack.folder / ".warren" / "edge-ca.crt")
        context.set_alpn_protocols(protocols or ["http/1.1"])
        return context

    @contextmanager
    def ask(
        self, path: str, method: str = "GET", body: str | None = None, headers: Mapping[str, str] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """The beginning of what it answers over HTTPS; the rest is there to be read."""
        connection = http.client.HTTPSConnection(
            "localhost", self.https_port, timeout=PATIENCE, context=self.trusting()
        )
        try:
            connection.request(method, path, body, dict(headers or {}))
            yield connection.getresponse()
        finally:
            connection.close()

    def get(self, path: str, login: tuple[str, str] | None = None, **headers: str) -> Answer:
        if login:
            headers["Authorization"] = basic(*login)
        with self.ask(path, headers=headers) as answer:
            return Answer(answer.status, answer.headers, answer.read())

    @property
    def flower_login(self) -> tuple[str, str]:
        return FLOWER_LOGIN, self.secrets["flower-login"]


class Way(Protocol):
    """Where browsers find Flower, and as whom."""

    @property
    def url(self) -> str: ...

    @property
    def flower_login(self) -> tuple[str, str]: ...


class Looks:
    """A browser's page that was let into Flower, and what went wrong in it."""

    def __init__(self, browser: Browser, edge: Way, password: str | None = None) -> None:
        user, right = edge.flower_login
        self.edge = edge
        self.context: BrowserContext = browser.new_context(
            # Chromium keeps whom it trusts to itself; programs above check the certificate.
            ignore_https_errors=True,
            http_credentials={"username": user, "password": right if password is None else password},
            viewport={"width": 1280, "height": 800},
        )
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(browsers.PATIENCE)
        self.wrong: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on(
            "response", lambda one: self.wrong.append(f"{one.status} {one.url}") if one.status >= 400 else None
        )
        self.page.on(
            "request", lambda one: None if one.url.startswith((edge.url, "data:")) else self.wrong.append(one.url)
        )

    def go(self, path: str) -> Response:
        """Opens a page."""
        answer = browsers.go(self.page, self.edge.url + path)
        assert answer is not None
        return answer

    def follow(self, name: str) -> None:
        """Clicks a link to another page."""
        browsers.follow(self.page.get_by_role("link", name=name, exact=True))

    def shows(self, selector: str, *words: str) -> str:
        """Waits until an element has all of ``words``, and returns its text. The page is not loaded again."""
        found = self.page.locator(selector)

        def text() -> str:
            return next((one for one in found.all_inner_texts() if all(word in one for word in words)), "")

        return eventually(text, PATIENCE, lambda: f"{words} in {selector} of {self.page.url}")

    def reloads_until(self, fact: Callable[[], bool], what: str) -> None:
        def look() -> bool:
            self.page.reload()
            return fact()

        eventually(look, PATIENCE, what)

    def picture(self, name: str) -> Path:
        ARTIFACTS.mkdir(exist_ok=True)
        file = ARTIFACTS / f"{name}.png"
        self.page.screenshot(path=os.fspath(file))
        return file
