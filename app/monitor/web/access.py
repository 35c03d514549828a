"""Who may come in: the token of programs, the two passwords of people, and how often one may be wrong."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import Literal, NamedTuple, TypeAlias

from app.settings import AppSettings

__all__ = ["Access", "Attempts", "Role", "Who"]

Role: TypeAlias = Literal["operator", "viewer", "token"]

# Wrong passwords or tokens that one address may give at once, and seconds until it may give one more. Whoever mistypes
# never meets this; whoever tries words gets through 12 a minute.
BURST = 10
REFILL = 5.0
# Addresses that are remembered: those that failed last. Each takes some 200 bytes.
MOST_ADDRESSES = 10_000


class Who(NamedTuple):
    """Who sent a request."""

    role: Role

    @property
    def operates(self) -> bool:
        """Whether they may revoke and retry."""
        return self.role in {"operator", "token"}


class Attempts:
    """How many more wrong answers each address may give."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        # By address: how many it has left, as of when.
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Seconds until ``address`` may try again; 0 if it may now."""
        left = self._now(address)
        return 0.0 if left >= 1 else (1 - left) * REFILL

    def failed(self, address: str) -> None:
        left = self._now(address)
        self._left[address] = (max(0.0, left - 1), self._clock())
        self._left.move_to_end(address)
        if len(self._left) > MOST_ADDRESSES:
            self._left.popitem(last=False)

    def _now(self, address: str) -> float:
        left, when = self._left.get(address, (BURST, 0.0))
        return min(float(BURST), left + (self._clock() - when) / REFILL)


def same(given: str, expected: str) -> bool:
    """Compares in a time that depends on neither. Nothing is the same as an empty secret, which means "nobody"."""
    # Of equal length, since how long a secret is would show too.
    one, other = (hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest() for text in (given, expected))
    return hmac.compare_digest(one, other) and bool(expected)


class Access:
    """The secrets of the settings, and what is made of them."""

    def __init__(self, settings: AppSettings) -> None:
        self._token = settings.monitor_token
        self._passwords: dict[Literal["operator", "viewer"], str] = {
            "operator": settings.monitor_operator_password,
            "viewer": settings.monitor_viewer_password,
        }
        # Without one, logins end with the process.
        self.cookie_secret = settings.monitor_cookie_secret or secrets.token_hex(32)
        # Cookies don't know ports: two stacks of one host must not log each other's users out.
        self.cookie = f"warren-{hashlib.sha256(self.cookie_secret.encode()).hexdigest()[:8]}"
        self.passwords = Attempts()
        self.tokens = Attempts()

    @property
    def login_works(self) -> bool:
        """Whether there is any password."""
        return any(self._passwords.values())

    def by_token(self, given: str) -> Who | None:
        return Who("token") if same(given, self._token) else None

    def by_password(self, given: str) -> Who | None:
        # Both are compared, whichever it is.
        fits = [role for role, password in self._passwords.items() if same(given, password)]
        return Who(fits[0]) if fits else None

    def ticket(self, who: Who) -> str:
        """What the cookie holds; it is signed on top. A new password makes old tickets void."""
        return f"{who.role}:{self._mark(who.role)}"

    def by_ticket(self, ticket: str) -> Who | None:
        role, _, mark = ticket.partition(":")
        if role not in self._passwords or not self._passwords[role]:
            return None
        return Who(role) if hmac.compare_digest(mark.encode(), self._mark(role).encode()) else None

    def _mark(self, role: Role) -> str:
        password = self._passwords[role] if role != "token" else ""
        return hmac.new(self.cookie_secret.encode(), f"{role}:{password}".encode(), hashlib.sha256).hexdigest()[:16]
