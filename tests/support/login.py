"""How programs log in over HTTP."""

from __future__ import annotations

import base64

__all__ = ["basic"]


def basic(user: str, password: str) -> str:
    """The header `Authorization` of a login by name and password."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
