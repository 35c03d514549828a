"""What the monitor and Flower believe of a proxy in front: where a visitor comes from, and by which scheme.

Tornado's own way (`xheaders`) believes X-Real-Ip and X-Scheme first. Many proxies pass these on as they came, so that any
visitor could write them.
"""

from __future__ import annotations

from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.netutil import is_valid_ip
from tornado.web import Application, RequestHandler

__all__ = ["HttpsOnly", "over_https", "visitor"]


def visitor(request: HTTPServerRequest) -> str:
    """The address from which the proxy was asked; where it names none, its own."""
    # The last one is what the proxy saw itself. Those before it are what it was told.
    address = last(request, "X-Forwarded-For")
    return address if is_valid_ip(address) else request.remote_ip or "unknown"


def over_https(request: HTTPServerRequest) -> bool:
    """Whether the browser speaks HTTPS, if only with a proxy in front."""
    # Who lies here only keeps its own cookies from being sent.
    return "https" in (request.protocol, *schemes(request))


def schemes(request: HTTPServerRequest) -> list[str]:
    """By which the proxies in a row were asked, as they say: the browser's first."""
    return [one.strip().lower() for one in request.headers.get("X-Forwarded-Proto", "").split(",")]


def last(request: HTTPServerRequest, header: str) -> str:
    return request.headers.get(header, "").rpartition(",")[2].strip()


class ToHttps(RequestHandler):
    """Leads to the same address over HTTPS, whatever is asked."""

    def prepare(self) -> None:
        # Of the port nothing is known but that it was one for HTTP. A whole address in the place of a path names any host.
        path = self.request.uri or ""
        self.set_header("Location", f"https://{self.request.host_name}{path if path.startswith('/') else '/'}")
        # Where TLS ends before the proxy this goes in circles, which browsers must forget once it is set right.
        self.set_header("Cache-Control", "no-store")
        self.clear_header("Server")
        self.set_status(308)
        self.finish()

    def check_xsrf_cookie(self) -> None:
        """Nothing is done here that another site could want."""


class HttpsOnly(Application):
    """An application that shows nothing, not even its login, to who came to the proxy by plain HTTP.

    Not every proxy does that by itself: Traefik serves an Ingress with TLS on its port for HTTP as well. Requests that came
    through none, as those of the platform and of Prometheus, say nothing of it, and are answered.
    """

    https_only = False

    def find_handler(self, request: HTTPServerRequest, **info: Any) -> Any:
        if self.https_only and set(schemes(request)) == {"http"}:
            return self.get_handler_delegate(request, ToHttps)
        return super().find_handler(request, **info)
