"""What of the settings is for nobody's eyes: passwords that a value holds."""

from __future__ import annotations

import re

__all__ = ["without_secrets"]

# Where the address of a result backend is made of NAME=value: Azure's AccountKey=..., the sig=... of a shared access.
NAMED = re.compile(r"(?:key|pass|passwd|password|pwd|secret|sig|signature|token)=", re.IGNORECASE)


def without_secrets(name: str, value: str) -> str:
    """``value`` without what may be a password in it; nothing of what is secret whole. What has none stays as it is."""
    if name.endswith("_SECRET"):
        return "***" if value else ""
    if name == "MONITOR_WEBHOOK_URL":
        # Of many services the path is the key.
        return re.sub(
            r"^(https?://)(?:[^/@]*@)?([^/?#]*)(?:[/?#].+)?", lambda found: f"{found[1]}{found[2]}/***", value
        )
    if name == "CELERY_RESULT_BACKEND":
        return backend(value)
    # A password that is not quoted as it should be may have an @ or a / itself.
    return re.sub(r"(://[^/@]*:).*@", r"\1***@", value, flags=re.DOTALL)


def backend(value: str) -> str:
    """The address of a result backend without all that may be a password: each kind has it elsewhere."""
    scheme, rest = re.fullmatch(r"(.*?://)?(.*)", value, re.DOTALL).groups(default="")  # type: ignore[union-attr]
    login, at, host = rest.rpartition("@")
    user = re.match(r"[^/:]*:", login)
    place, question, _ = host.partition("?")
    shown = f"{user[0] if user else ''}***@{place}" if at else place
    shown += "?***" if question else ""
    # Of one @ behind a ? nobody knows whether it ends a password or is in one.
    return scheme + ("***" if "?" in login or NAMED.search(shown) else shown)
