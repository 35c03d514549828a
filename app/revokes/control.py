"""The app's Control: what Celery's does, and revokes that last."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import amqp
from celery.app.control import TERM_SIGNAME
from celery.app.control import Control as CeleryControl

from app.revokes.log import append, make

__all__ = ["Control"]


class Control(CeleryControl):
    """Appends each revoke to the stream before it is broadcast.

    All ways to revoke lead here: ``result.revoke()``, ``app.control.revoke()`` and ``terminate()``, Flower's buttons.
    A sender without the right to broadcast (who may, may also shut workers down) still revokes what has not started.
    """

    by = ""
    """Who revokes, where that is not this process's user."""

    def revoke(
        self,
        task_id: str | Iterable[str],
        destination: Any = None,
        terminate: bool = False,
        signal: Any = TERM_SIGNAME,
        **kwargs: Any,
    ) -> Any:
        """As Celery's. It returns when the revoke is on the broker's disk.

        Raises:
            kombu.exceptions.OperationalError: the broker does not take it, and nothing was revoked.
        """
        ids = [task_id] if isinstance(task_id, str) else list(task_id)
        append(self.app, make(ids, by=self.by))
        try:
            return super().revoke(ids if len(ids) != 1 else ids[0], destination, terminate, signal, **kwargs)
        except amqp.AccessRefused:
            if terminate:
                raise
            return None

    def revoke_by_stamped_headers(
        self,
        headers: dict[str, Any],
        destination: Any = None,
        terminate: bool = False,
        signal: Any = TERM_SIGNAME,
        **kwargs: Any,
    ) -> Any:
        """As Celery's, kept like :meth:`revoke`."""
        append(self.app, make(headers=headers, by=self.by))
        try:
            return super().revoke_by_stamped_headers(headers, destination, terminate, signal, **kwargs)
        except amqp.AccessRefused:
            if terminate:
                raise
            return None
