"""The monitor's HTTP server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.netutil import bind_sockets
from tornado.template import Loader
from tornado.web import Application, RedirectHandler, RequestHandler, StaticFileHandler

from app.environment import Mistake
from app.events.status import Status
from app.monitor.hub import Hub
from app.monitor.web import api, live, login, pages
from app.monitor.web.access import Access
from app.monitor.web.actions import Actions
from app.monitor.web.base import HEADERS, HERE, Base, Shared
from app.monitor.web.broadcast import Broadcast
from app.monitor.web.errors import Refused
from app.monitor.web.queries import Queries
from app.monitor.web.recent import Recent
from app.monitor.web.sources import Reader
from app.monitor.web.style import Sheet, sheet
from app.proxy import HttpsOnly
from app.settings import AppSettings

__all__ = ["PAGES", "ROUTES", "Server"]

# The API, by the addresses of its description.
ROUTES: dict[str, type[Base]] = {
    "/tasks": api.Tasks,
    "/tasks/{id}": api.Task,
    "/tasks/{id}/family": api.Family,
    "/tasks/{id}/revoke": api.Revoke,
    "/tasks/{id}/retry": api.Retry,
    "/workers": pages.Workers,
    "/counts": api.Counts,
    "/chart": api.Chart,
    "/events": live.Events,
    "/metrics": api.Metrics,
    "/healthz": api.Health,
    "/readyz": api.Ready,
    "/openapi.json": api.OpenApi,
}
PAGES: dict[str, type[Base]] = {
    "/": pages.Search,
    "/task/{id}": pages.TaskPage,
    "/live": pages.Live,
    "/login": login.Login,
    "/logout": login.Logout,
}

# Bytes. Requests are a few words: a search, a password.
BODY_LIMIT = 65_536
HEADER_LIMIT = 32_768
# Seconds in which a client sends a request; and that a connection without one is kept.
REQUEST_LIMIT = 10
IDLE_LIMIT = 75
# Seconds. Stopping takes no longer, whoever is connected.
STOP_LIMIT = 0.5

logger = logging.getLogger("warren.monitor")


class Static(StaticFileHandler):
    """The page's files, for everyone: the login needs them too."""

    def set_default_headers(self) -> None:
        for name, value in HEADERS.items():
            self.set_header(name, value)
        # Asked for again each time, and answered with 304: a new version shows at once.
        self.set_header("Cache-Control", "no-cache")
        self.clear_header("Vary")
        self.clear_header("Server")

    def get_content_type(self) -> str:
        # Not from this host's tables, which may call a script plain text.
        kinds = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
        suffix = "." + (self.absolute_path or "").rpartition(".")[2]
        return kinds.get(suffix, "application/octet-stream")

    def write_error(self, status_code: int, **info: Any) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish("there is no such file\n")


class Nothing(Base):
    """Any other address. It says so to everyone: there is nothing to protect."""

    public = True

    def prepare(self) -> None:
        raise Refused(
            404, "there is nothing here; the pages are /, /live and /workers, the API is told by /openapi.json"
        )


class Below(Application):
    """An application that also answers below ``prefix``, for proxies that leave it in what they pass on.

    Raises:
        Mistake: addresses of the monitor's own begin like that.
    """

    def __init__(self, prefix: str, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._prefix = f"/{prefix.strip('/')}" if prefix.strip("/") else ""
        taken = {path.split("/")[1] for path in (*ROUTES, *PAGES, "/static")} - {""}
        if self._prefix[1:].split("/")[0] in taken:
            raise Mistake(
                [f"MONITOR_URL_PREFIX={prefix} is where the monitor has addresses of its own; take another: /monitor"]
            )

    def find_handler(self, request: HTTPServerRequest, **info: Any) -> Any:
        if self._prefix and f"{request.path}/".startswith(f"{self._prefix}/"):
            if request.path == self._prefix:
                # All links are relative: without the slash they would lead beside it.
                to = {"url": f"{self._prefix}/", "permanent": False}
                return self.get_handler_delegate(request, RedirectHandler, to)
            request.path = request.path.removeprefix(self._prefix)
            request.uri = (request.uri or "").removeprefix(self._prefix)
        return super().find_handler(request, **info)


class Site(HttpsOnly, Below):
    """The monitor's. Whoever is led to HTTPS keeps the prefix, which is taken away after that."""


class Server:
    """Serves the page and the API from the loop of the thread that starts it.

    Args:
        reader: opens the history; called in threads of the server, once for each.
        metrics: Prometheus' text; called in a thread of the server.
        alive: whether the thread that follows the log runs.
    """

    def __init__(
        self,
        settings: AppSettings,
        reader: Callable[[], Reader],
        hub: Hub,
        status: Status,
        metrics: Callable[[], bytes],
        alive: Callable[[], bool] = lambda: True,
    ) -> None:
        self._settings = settings
        self._shared = Shared(
            access=Access(settings),
            queries=Queries(reader, partial(setattr, status, "suspect")),
            broadcast=Broadcast(hub),
            actions=Actions(settings),
            recent=Recent(),
            status=status,
            metrics=metrics,
            alive=alive,
            behind_proxy=settings.monitor_behind_proxy == "on",
        )
        self._http: HTTPServer | None = None
        self.port = 0
        """Where it listens, once it does."""

    def start(self) -> None:
        """Listens. To be called while this thread's loop runs.

        Raises:
            Mistake: the port is taken, or the address is none of this host's.
        """
        address, port = self._settings.monitor_address, self._settings.monitor_port
        try:
            sockets = bind_sockets(port, None if address == "*" else address)
        except OSError as error:
            reason = error.strerror or str(error)
            raise Mistake(
                [
                    f"the monitor can't listen on port {port} of {address} ({reason}); free it, or set another: "
                    "WARREN_MONITOR_PORT=5557 (MONITOR_PORT where the monitor is started by hand)"
                ]
            ) from error
        self._http = HTTPServer(
            self._application(),
            max_body_size=BODY_LIMIT,
            max_buffer_size=BODY_LIMIT,
            max_header_size=HEADER_LIMIT,
            idle_connection_timeout=IDLE_LIMIT,
            body_timeout=REQUEST_LIMIT,
        )
        self._http.add_sockets(sockets)
        self.port = sockets[0].getsockname()[1]

    def reopen(self) -> None:
        """Says that the history is another file now. May be called by any thread."""
        self._shared.queries.reopen()

    async def stop(self) -> None:
        """Ends all connections, within a second, whether or not they are read."""
        if self._http is not None:
            self._http.stop()
        self._shared.broadcast.close()
        self._shared.queries.stop()
        self._shared.actions.stop()
        if self._http is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._http.close_all_connections(), STOP_LIMIT)

    def _application(self) -> Application:
        # Not longer than the history's ids can be.
        one = r"([^/]{1,3000})"
        routes = [
            (path.replace("{id}", one).replace(".", r"\."), handler) for path, handler in (ROUTES | PAGES).items()
        ]
        made = Site(
            self._settings.monitor_url_prefix,
            [
                *routes,
                (r"/static/page\.css", Sheet, {"content": sheet()}),
                (r"/static/(.*)", Static, {"path": str(HERE / "static")}),
            ],
            default_handler_class=Nothing,
            template_loader=Loader(str(HERE / "templates"), autoescape="xhtml_escape", whitespace="oneline"),
            cookie_secret=self._shared.access.cookie_secret,
            xsrf_cookie_name=f"{self._shared.access.cookie}-form",
            xsrf_cookie_kwargs={"httponly": True, "samesite": "Strict"},
            log_function=log,
            shared=self._shared,
        )
        made.https_only = self._settings.https_only
        return made


def log(handler: RequestHandler) -> None:
    """A line for each request, for whoever looks for a mistake; the log is otherwise for what happened to tasks."""
    request = handler.request
    logger.debug("%s %s %d %.0f ms", request.method, request.path, handler.get_status(), request.request_time() * 1000)
