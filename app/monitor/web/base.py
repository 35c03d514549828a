"""What all handlers share: security headers, who is asking, parameters, errors as JSON or as a small page."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast
from urllib.parse import quote

import msgspec
from tornado.http1connection import HTTP1Connection
from tornado.web import HTTPError, RequestHandler

from app.events.status import Status
from app.monitor.web.access import Access, Who
from app.monitor.web.actions import Actions
from app.monitor.web.broadcast import Broadcast
from app.monitor.web.errors import Refused
from app.monitor.web.parameters import Parameters
from app.monitor.web.queries import Queries
from app.monitor.web.recent import Recent
from app.monitor.web.sources import Reader
from app.proxy import over_https, visitor

__all__ = ["HERE", "Base", "Shared", "encode"]

T = TypeVar("T")

HERE = Path(__file__).parent

# Nothing inline and nothing from elsewhere: what a task has in its arguments stays text even if an escape is forgotten.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    # The answer depends on both.
    "Vary": "Accept, Cookie",
}
# Where it runs, the monitor is not told.
KEPT = ".warren/secrets/monitor-token (on Kubernetes monitor-token of the Secret warren)"
CHALLENGE = {"WWW-Authenticate": "Bearer"}
# Days that a login lasts: a working day.
LOGIN_DAYS = 0.5
# Seconds in which a client takes what it asked for. Memory must not fill with answers that nobody reads.
READ_LIMIT = 60

logger = logging.getLogger("warren.monitor")

# Other applications' events may hold what JSON has no form for; their text is better than an error.
encode = msgspec.json.Encoder(enc_hook=str).encode


@dataclass
class Shared:
    """What the handlers of one server work with."""

    access: Access
    queries: Queries
    broadcast: Broadcast
    actions: Actions
    recent: Recent
    status: Status
    metrics: Callable[[], bytes]
    alive: Callable[[], bool]
    behind_proxy: bool


class Base(RequestHandler):
    """A handler that lets nobody in unless it says so."""

    public: ClassVar[bool] = False
    """Whether it answers everyone."""
    parameters: ClassVar[tuple[str, ...]] = ()
    """The parameters that may stand in the address."""
    page: ClassVar[bool] = False
    """Whether it is for browsers: who is not logged in is led to the login."""
    depth: ClassVar[int] = 0
    """How many folders below the root its address is: all links are relative, so that a proxy may add a prefix."""

    who: Who | None = None
    _asking: asyncio.Future[Any] | None = None

    @property
    def shared(self) -> Shared:
        return cast(Shared, self.settings["shared"])

    @property
    def root(self) -> str:
        """The relative address of the root."""
        return "../" * self.depth or "./"

    def set_default_headers(self) -> None:
        for name, value in HEADERS.items():
            self.set_header(name, value)
        self.clear_header("Server")

    def prepare(self) -> None:
        self.who = self.identify()
        if self.who is None and not self.public:
            if self.page and self.wants_page and not self.request.headers.get("X-Part"):
                after = (self.request.uri or "").lstrip("/")
                self.redirect(f"{self.root}login" + (f"?next={quote(after, safe='')}" if after else ""))
                return
            raise Refused(
                401,
                f"log in at /login, or send `Authorization: Bearer <token>` with the one in {KEPT}",
                CHALLENGE,
            )
        if self.request.method not in {"GET", "HEAD"} and not self.by_token:
            self.check_form()

    @property
    def by_token(self) -> bool:
        """Whether the request brought the token, which no other site can make a browser send."""
        return self.who is not None and self.who.role == "token"

    def check_form(self) -> None:
        """Refuses what another site may have made a browser send."""
        try:
            self.check_xsrf_cookie()
        except HTTPError:
            raise Refused(
                403, "this does not come from a page of this monitor, or the page is old; reload it and try again"
            ) from None

    def identify(self) -> Who | None:
        """Who asks, or None.

        Raises:
            Refused: a token came that is wrong (401), or too many wrong ones from this address (429).
        """
        access = self.shared.access
        scheme, _, token = self.request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            address = self.address
            who = access.by_token(token.strip())
            if who is None and not self.public:
                # Only wrong ones: behind a published port all programs have one address, and nobody guesses a token.
                if wait := access.tokens.wait(address):
                    raise too_many(wait, "tokens")
                access.tokens.failed(address)
                raise Refused(401, f"the token is wrong; it is in {KEPT}", CHALLENGE)
            return who
        ticket = self.get_signed_cookie(access.cookie, max_age_days=LOGIN_DAYS)
        return access.by_ticket(ticket.decode("utf-8", "replace")) if ticket else None

    def remember(self, who: Who) -> None:
        """Logs this browser in."""
        self.set_signed_cookie(
            self.shared.access.cookie,
            self.shared.access.ticket(who),
            expires_days=LOGIN_DAYS,
            httponly=True,
            samesite="Strict",
            secure=over_https(self.request),
        )

    @property
    def address(self) -> str:
        """Where the request comes from."""
        # Who fails to log in has to wait: behind a proxy that must not be everybody.
        return visitor(self.request) if self.shared.behind_proxy else self.request.remote_ip or "unknown"

    @property
    def wants_page(self) -> bool:
        return "text/html" in self.request.headers.get("Accept", "")

    def read_parameters(self, *, strict: bool = True) -> Parameters:
        given = {name: self.get_query_arguments(name) for name in self.request.query_arguments}
        return Parameters(given, self.parameters, strict=strict)

    async def ask(self, question: Callable[[Reader], T]) -> T:
        """What ``question`` makes of a reader of the history. Whoever hangs up does not wait for it, nor hold up others.

        Raises:
            Refused: as :meth:`app.monitor.web.queries.Queries.ask`.
        """
        asking: asyncio.Future[T] = asyncio.ensure_future(self.shared.queries.ask(question))
        self._asking = asking
        return await asking

    def on_connection_close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()

    async def head(self, *words: str) -> None:
        # Tornado sends no body to a HEAD.
        if "GET" not in self.methods():
            raise HTTPError(405)
        await cast(Callable[..., Awaitable[None]], self.get)(*words)

    @classmethod
    def methods(cls) -> tuple[str, ...]:
        """The methods that it answers."""
        own = [
            name for name in ("GET", "POST") if getattr(cls, name.lower()) is not getattr(RequestHandler, name.lower())
        ]
        return ("HEAD", *own) if "GET" in own else tuple(own)

    def send_json(self, body: bytes) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(body)

    def finish(self, chunk: Any = None) -> asyncio.Future[None]:
        taken = super().finish(chunk)
        if not taken.done():
            stream = cast(HTTP1Connection, self.request.connection).stream
            asyncio.get_running_loop().call_later(READ_LIMIT, lambda: None if taken.done() else stream.close())
        return taken

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        if isinstance(value, Refused | HTTPError):
            # The caller has been told; a line for each would let anyone fill the log.
            logger.debug("%s %s: %s", self.request.method, self.request.path, value)
            return
        logger.error(
            "a mistake in the monitor, please report it: %s %s", self.request.method, self.request.path, exc_info=value
        )

    def write_error(self, status_code: int, **info: Any) -> None:
        error = (info.get("exc_info") or (None, None, None))[1]
        text = words_for(status_code)
        if isinstance(error, Refused):
            text = error.text
            for name, value in error.headers.items():
                self.set_header(name, value)
        if status_code == 405:
            self.set_header("Allow", ", ".join(self.methods()))
        if self.wants_page and not self.request.headers.get("X-Part"):
            self.set_header("Content-Type", "text/html; charset=UTF-8")
            self.finish(self.render_string("error.html", text=text, title=title(status_code), root=self.root))
        else:
            self.send_json(encode({"error": text}))


def words_for(status: int) -> str:
    """What is said of an error that nothing better is known of."""
    known = {
        400: "the request is malformed",
        404: "there is nothing here; /openapi.json lists what is",
        405: "this address does not take this method",
        500: "a mistake in the monitor; its log tells more",
    }
    return known.get(status, title(status).lower())


def title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def too_many(wait: float, what: str) -> Refused:
    seconds = max(1, math.ceil(wait))
    return Refused(429, f"too many wrong {what} from here; try again in {seconds} s", {"Retry-After": str(seconds)})
