"""The style of the pages: a file a concern in `style/`, sent as one sheet."""

from __future__ import annotations

from pathlib import Path

from tornado.web import RequestHandler

from app.monitor.web.base import HEADERS

__all__ = ["Sheet", "sheet"]

HERE = Path(__file__).parent / "style"

# In this order: what comes later goes before what came earlier, above all on narrow screens.
PARTS = (
    *("colours", "frame", "controls", "states"),
    *("search", "list", "task", "workers", "live", "login"),
    "narrow",
)


def sheet() -> bytes:
    """All of it."""
    return b"\n".join((HERE / f"{part}.css").read_bytes() for part in PARTS)


class Sheet(RequestHandler):
    """Sends ``content`` to everyone: the login needs it too."""

    def initialize(self, content: bytes) -> None:
        self._content = content

    def set_default_headers(self) -> None:
        for name, value in HEADERS.items():
            self.set_header(name, value)
        # Asked for again each time, and answered with 304: a new version shows at once.
        self.set_header("Cache-Control", "no-cache")
        self.set_header("Content-Type", "text/css")
        self.clear_header("Vary")
        self.clear_header("Server")

    def get(self) -> None:
        self.finish(self._content)

    head = get
