"""The Celery app that Warren's containers run: ``celery -A app worker``.

``CELERY_APP=package.module:attribute`` puts a Celery app of yours in its place; it then gets the same broker topology,
kill-safe settings, events and health files (see :mod:`app.factory`).

The app is made on first use, so that ``app.settings``, ``app.health`` and the monitor can be imported without Celery.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["celery"]

celery: Celery


def __getattr__(name: str) -> object:
    # `celery -A app` looks for the attributes `app` and `celery`; the first would be this package's own name.
    if name != "celery":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from app.factory import from_environment  # importing Celery costs 0.1 s

    globals()["celery"] = from_environment()
    return globals()["celery"]
