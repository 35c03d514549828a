"""Connections that come back soon after the broker does, and that find out when it falls silent."""

from __future__ import annotations

from typing import Any

import kombu
from kombu.connection import ConnectionPool, PooledConnection

__all__ = ["Connection"]

# Seconds between attempts to reach a broker that is away: soon at first, since most absences are restarts; then seldom
# enough that hundreds of workers do not keep a broker from starting. Kombu's own are 2, 4, 6 ... 30: a worker would idle
# for up to half a minute beside a broker that is there again.
FIRST = 0.25
STEP = 0.25
LONGEST = 5.0


class Connection(kombu.Connection):
    """Kombu's, with the waits above where its caller names none, and with :mod:`app.transport` in the place of py-amqp's."""

    def ensure_connection(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) <= 2:  # more would name the waits by position
            kwargs = {"interval_start": FIRST, "interval_step": STEP, "interval_max": LONGEST, **kwargs}
        return super().ensure_connection(*args, **kwargs)

    def get_transport_cls(self) -> Any:
        # Here, where there soon is a connection: whoever only names one does without py-amqp.
        from kombu.transport import pyamqp

        from app import transport

        ours = {pyamqp.Transport: transport.Transport, pyamqp.SSLTransport: transport.SSLTransport}
        found = super().get_transport_cls()
        return ours.get(found, found)

    def Pool(self, limit: int | None = None, **kwargs: Any) -> Pool:  # noqa: N802 - kombu's name
        return Pool(self, limit, **kwargs)


class Pooled(Connection, PooledConnection):
    """One of a pool, where kombu would take its own class again."""


class Pool(ConnectionPool):
    """Kombu's, of connections as above."""

    def new(self) -> Pooled:
        return Pooled(self, **dict(self.connection._info(resolve=False)))
