"""The webhook: each event as a signed POST of JSON."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from time import time
from urllib.parse import unquote, urlsplit, urlunsplit

from tornado.httpclient import HTTPClient, HTTPError, HTTPRequest
from tornado.simple_httpclient import HTTPStreamClosedError, HTTPTimeoutError, SimpleAsyncHTTPClient

from app.environment import Mistake
from app.monitor.handlers.failure import Failure, tidy
from app.monitor.handlers.payload import bounded, encode
from app.monitor.handlers.registry import Event

__all__ = ["Webhook", "signature"]

# Seconds for all of it: name, connection, TLS, request and answer.
TIMEOUT = 10.0
# Bytes. What an answer says beyond its status is thrown away as it comes, so its length costs no memory; TIMEOUT ends it.
ANSWER_LIMIT = 1 << 40

logger = logging.getLogger("warren.monitor")


class Quiet(logging.Filter):
    """Keeps back what Tornado's client logs in threads of webhooks: tracebacks, for a server that breaks off its answer.

    Delivery says that in a line. Tornado's server, in another thread, has the same loggers.
    """

    def __init__(self) -> None:
        super().__init__()
        self._threads: set[int | None] = set()
        for name in ("tornado.application", "tornado.general"):
            logging.getLogger(name).addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread not in self._threads

    @contextmanager
    def here(self) -> Iterator[None]:
        self._threads.add(get_ident())
        try:
            yield
        finally:
            self._threads.discard(get_ident())


quiet = Quiet()


def signature(key: str, moment: int, body: bytes) -> str:
    """The header X-Warren-Signature: who has the key, and only who has it, can say that this body was sent then."""
    digest = hmac.new(key.encode(), b"%d." % moment + body, hashlib.sha256).hexdigest()
    return f"t={moment},sha256={digest}"


class Webhook:
    """Sends events to a URL. Any answer of 200 to 299 is a delivery; redirects are not followed.

    Raises:
        Mistake: on construction: it is no URL that can be posted to.
    """

    def __init__(self, url: str, key: str, timeout: float = TIMEOUT) -> None:
        # Never shown whole: with many services, whoever knows the path or the query may post there.
        wrong = Mistake(
            ["MONITOR_WEBHOOK_URL is no address of a web server; write for example https://example.org/hook"]
        )
        try:
            parts = urlsplit(url)
            port = parts.port
            host = (parts.hostname or "").encode("idna").decode()
        except ValueError:
            raise wrong from None
        if parts.scheme not in {"http", "https"} or not host or not url.isprintable() or " " in url:
            raise wrong
        place = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
        self.place = f"{parts.scheme}://{place}"
        self._url = urlunsplit((parts.scheme, place, parts.path or "/", parts.query, ""))
        self._login = (unquote(parts.username), unquote(parts.password or "")) if parts.username else (None, None)
        self._key = key
        self._timeout = timeout
        if not key:
            logger.warning("MONITOR_WEBHOOK_KEY is not set: %s gets events without a signature", self.place)
        self._client: HTTPClient | None = None

    def __call__(self, event: Event) -> None:
        body = encode(bounded(event))
        headers = {"Content-Type": "application/json", "User-Agent": "warren-monitor"}
        if self._key:
            headers["X-Warren-Signature"] = signature(self._key, int(time()), body)
        request = HTTPRequest(
            self._url,
            method="POST",
            headers=headers,
            body=body,
            auth_username=self._login[0],
            auth_password=self._login[1],
            connect_timeout=self._timeout,
            request_timeout=self._timeout,
            follow_redirects=False,
            decompress_response=False,
            streaming_callback=lambda _: None,
        )
        if self._client is None:
            # Made here, since its loop belongs to this thread. Tornado's simple client knows of no proxies.
            self._client = HTTPClient(SimpleAsyncHTTPClient, max_body_size=ANSWER_LIMIT)
        try:
            with quiet.here():
                self._client.fetch(request)
        except HTTPError as error:
            raise Failure(self._said(error)) from error
        except Exception as error:
            # Of the connection or of TLS. The client is thrown away, lest its loop be left in the middle of something.
            self._client.close()
            self._client = None
            raise Failure(f"{self.place}: {tidy(str(error) or type(error).__name__)}") from error

    def _said(self, error: HTTPError) -> str:
        if isinstance(error, HTTPTimeoutError):
            return f"{self.place} did not answer within {self._timeout:g} s"
        if isinstance(error, HTTPStreamClosedError):
            return f"{self.place} closed the connection without a proper answer"
        moved = "; redirects are not followed, correct MONITOR_WEBHOOK_URL" if 300 <= error.code < 400 else ""
        return f"{self.place} answered {error.code} {error.message}{moved}"
