"""Login by one of the two passwords, and logout."""

from __future__ import annotations

import logging
import re
from typing import ClassVar

from app.monitor.web.base import Base, too_many
from app.monitor.web.errors import Refused

__all__ = ["Login", "Logout"]

# Where a login may lead to: pages of this monitor, relative to its root.
AFTER = re.compile(r"(live|workers|task/[^/?#\\]+)?(\?[^#\\]*)?", re.ASCII)

logger = logging.getLogger("warren.monitor")


def after(wanted: str) -> str:
    """``wanted`` if it is a page of ours, or else the first page; relative to the root."""
    fits = AFTER.fullmatch(wanted) and wanted.isascii() and wanted.isprintable() and " " not in wanted
    return f"./{wanted}" if fits else "./"


class Login(Base):
    parameters: ClassVar = ("next",)
    public = True
    page = True

    async def get(self) -> None:
        wanted = self.read_parameters(strict=False).text("next") or ""
        if self.who is not None:
            self.redirect(after(wanted))
            return
        self.show(wanted)

    async def post(self) -> None:
        access, address = self.shared.access, self.address
        wanted = self.get_body_argument("next", "")
        if wait := access.passwords.wait(address):
            refused = too_many(wait, "passwords")
            self.set_header("Retry-After", refused.headers["Retry-After"])
            self.show(wanted, refused.text, 429)
            return
        who = access.by_password(self.get_body_argument("password", "", strip=True))
        if who is None:
            access.passwords.failed(address)
            logger.warning("a wrong password from %s", address)
            self.show(wanted, "This is neither the operator's password nor the viewer's.", 401)
            return
        logger.info("%s logged in from %s", who.role, address)
        self.remember(who)
        self.redirect(after(wanted), status=303)

    def show(self, wanted: str, error: str = "", status: int = 200) -> None:
        self.set_status(status)
        self.render("login.html", root=self.root, wanted=wanted, error=error, works=self.shared.access.login_works)


class Logout(Base):
    public = True
    page = True

    async def post(self) -> None:
        self.clear_cookie(self.shared.access.cookie)
        self.redirect("login", status=303)

    async def get(self) -> None:
        # A link from elsewhere must not log anybody out.
        raise Refused(405, "log out with the button of the page", {"Allow": "POST"})
