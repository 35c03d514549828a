"""What of the settings is for nobody's eyes: passwords that a value holds."""

from __future__ import annotations

import re

__all__ = ["without_secrets"]


def without_secrets(name: str, value: str) -> str:
    """``value`` without the password that a URL, of a result backend for example, may hold; nothing of what is secret whole."""
    if name.endswith("_SECRET"):
        return "***" if value else ""
    if name == "MONITOR_WEBHOOK_URL":
        # Of many services the path is the key.
        return re.sub(
            r"^(https?://)(?:[^/@]*@)?([^/?#]*)(?:[/?#].+)?", lambda found: f"{found[1]}{found[2]}/***", value
        )
    return re.sub(r"(://[^/@]*:)[^@]*@", r"\1***@", value)
