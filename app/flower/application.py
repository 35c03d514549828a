"""Flower's web application with our `Events`, and the pages that say how it is."""

from __future__ import annotations

import hmac
import os
import re
import signal
import sys
from typing import Any

from flower.api import BaseApiHandler
from flower.app import Flower as FlowerApplication
from flower.app import rewrite_handler
from flower.views import BaseHandler
from flower.views.monitor import Healthcheck
from flower.views.monitor import Metrics as FlowerMetrics
from tornado.httputil import HTTPHeaders
from tornado.ioloop import IOLoop
from tornado.web import HTTPError, OutputTransform, RedirectHandler

from app.environment import Mistake
from app.flower.events import Events
from app.proxy import HttpsOnly, over_https
from app.settings import from_environment

__all__ = ["Flower"]


class Ready(BaseHandler):
    """200 if the receiver has seen the log's end lately, 503 with the reason if not."""

    async def get(self) -> None:
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        if (reason := self.application.events.health.not_ready()) is not None:
            self.set_status(503)
            self.write(f"{reason}\n")
        else:
            self.write("OK\n")


class Metrics(FlowerMetrics, BaseApiHandler):
    """Flower's, for who is logged in or has the token; and only once they hold what the log has."""

    def prepare(self) -> None:
        if not self._has_token():
            super().prepare()
            if not self.current_user:
                raise HTTPError(401, "Log in, or give the token of the metrics")

    async def get(self) -> None:
        events = self.application.events
        if not events.health.caught_up:
            raise HTTPError(503, events.health.not_ready())
        events.state.show_online()
        await super().get()

    def _has_token(self) -> bool:
        token = os.environ.get("FLOWER_METRICS_TOKEN", "")
        given = self.request.headers.get("Authorization", "")
        return bool(token) and hmac.compare_digest(f"Bearer {token}".encode(), given.encode())


def current_user(handler: Any, ask: Any = BaseHandler.get_current_user) -> Any:
    """Flower's, which fails with a traceback where a name or password has letters beyond ASCII."""
    try:
        return ask(handler)
    except TypeError:
        raise HTTPError(401) from None


def set_cookie(handler: Any, *words: Any, write: Any = BaseHandler.set_cookie, **about: Any) -> None:
    """Tornado's, for HTTPS only where the browser has that, if only with a proxy in front. Flower knows of none."""
    write(handler, *words, **{"secure": over_https(handler.request), **about})


class Challenge(OutputTransform):
    """Lets browsers answer a 401 of the API too, which Flower sends without a challenge.

    They send a password unasked only to the folder where they were asked for it: on the page of a task that was opened
    by its link, the button "Terminate" would be refused.
    """

    def transform_first_chunk(
        self, status_code: int, headers: HTTPHeaders, chunk: bytes, finishing: bool
    ) -> tuple[int, HTTPHeaders, bytes]:
        if status_code == 401 and "WWW-Authenticate" not in headers:
            headers["WWW-Authenticate"] = 'Basic realm="flower"'
        return status_code, headers, chunk


class Flower(HttpsOnly, FlowerApplication):
    def __init__(self, options: Any = None, capp: Any = None, **kwargs: Any) -> None:
        io_loop = IOLoop.current()
        try:
            settings = from_environment()
            if settings.half_a_login:
                raise Mistake(settings.half_a_login)
        except Mistake as mistake:
            sys.stderr.writelines(f"error: {line}\n" for line in mistake.lines)
            raise SystemExit(3) from None
        events = Events(capp, io_loop, options, settings)
        super().__init__(options=options, capp=capp, events=events, io_loop=io_loop, **kwargs)
        events.on_purge = self._purged
        self.https_only = settings.https_only
        # Before Flower's own, and without the prefix too: the platform and Prometheus need not know it.
        pages = [("/healthcheck", Healthcheck), ("/readyz", Ready), ("/metrics", Metrics)]
        prefixed = [rewrite_handler(page, options.url_prefix) for page in pages] if options.url_prefix else pages
        self.add_handlers(".*", [*prefixed, *pages])
        if options.url_prefix:
            # Who asks for the root, or leaves out the slash at the end, is led there.
            prefix = f"/{options.url_prefix.strip('/')}"
            to = {"url": f"{prefix}/", "permanent": False}
            self.add_handlers(".*", [("/", RedirectHandler, to), (re.escape(prefix), RedirectHandler, to)])
        BaseHandler.get_current_user = current_user
        BaseHandler.set_cookie = set_cookie
        if self.options.basic_auth:
            self.add_transform(Challenge)

    def start_http_server(self) -> Any:
        try:
            return super().start_http_server()
        except OSError as error:
            place = self.options.unix_socket or f"port {self.options.port}"
            raise SystemExit(
                f"error: Flower can't listen on {place} ({error.strerror or error}); end what does, or choose another"
            ) from None

    def start(self) -> None:
        """Serves until SIGTERM or SIGINT, and saves the state."""
        for number in (signal.SIGTERM, signal.SIGINT):
            # Flower's raises an exception wherever it strikes: in the middle of an event, too.
            signal.signal(number, lambda *_: self.io_loop.add_callback_from_signal(self.io_loop.stop))
        super().start()
        # Here, since what Flower has done at the interpreter's end comes after threads that may hang.
        self.stop()

    def _purged(self, names: set[str]) -> None:
        for name in names:
            self.inspector.workers.pop(name, None)
