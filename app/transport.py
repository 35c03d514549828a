"""AMQP connections that find out that their broker fell silent, also where they wait for its answer.

A broker whose host lost its power or its network says no goodbye, and one that hangs has a kernel that goes on to take what
it is sent. Heartbeats tell both from a broker that is only slow; but py-amqp looks at them only where its caller does, and
one that waits for an answer (a confirm, a declaration, a goodbye) waits without end.
"""

from __future__ import annotations

import contextlib
import select
import socket
from time import monotonic
from typing import Any

import amqp
from kombu.transport import pyamqp

__all__ = ["Connection", "SSLTransport", "Transport"]

# Waits of this part of the agreed interval, between two looks at heartbeats.
LOOKS = 4


class Connection(pyamqp.Connection):
    """py-amqp's, whose waits end when nothing came for two intervals of the heartbeats that were agreed on.

    A broker that takes no messages, or that does not confirm one, still sends those.
    """

    blocked = False
    """Whether the broker says that it takes no messages."""

    def drain_events(self, timeout: float | None = None) -> Any:
        """As py-amqp's.

        Raises:
            amqp.ConnectionForced: without a ``timeout``, here or on the socket: the broker was silent. It is closed.
        """
        if timeout is not None or not self.heartbeat or self._bounded():
            return super().drain_events(timeout)
        self.last_heartbeat_received = monotonic()
        while True:
            try:
                return super().drain_events(self.heartbeat / LOOKS)
            except TimeoutError as error:
                # With a number it is the system's word that the connection is dead.
                if error.errno is not None:
                    raise
            try:
                self.heartbeat_tick()
            except amqp.ConnectionForced:
                # Whoever asks it anything else, its goodbye too, is not to wait as long once more.
                self.collect()
                raise

    def _bounded(self) -> bool:
        """Whether Celery, for a cold shutdown, limits all waits on the socket itself; its own is 0 or None."""
        sock = getattr(self._transport, "sock", None)
        return bool(sock is not None and sock.gettimeout())

    def collect(self) -> None:
        """As py-amqp's, without waiting for the other end: TLS would, for its last word."""
        with contextlib.suppress(AttributeError, OSError):
            self._transport.sock.settimeout(0)
        super().collect()

    def heartbeat_tick(self, rate: int = 2) -> None:
        """As py-amqp's, but what has arrived and was not read yet counts: who was kept from reading was not left alone."""
        sock = getattr(self._transport, "sock", None)
        if self.heartbeat and sock is not None and arrived(sock):
            self.last_heartbeat_received = monotonic()
        super().heartbeat_tick(rate)

    def _on_blocked(self) -> Any:
        self.blocked = True
        return super()._on_blocked()

    def _on_unblocked(self) -> Any:
        self.blocked = False
        return super()._on_unblocked()


def arrived(sock: socket.socket) -> bool:
    """Whether something waits to be read."""
    if not hasattr(select, "poll"):  # eventlet takes it away, and changes select itself
        return bool(select.select([sock], [], [], 0)[0])
    waiter = select.poll()
    waiter.register(sock, select.POLLIN)
    return bool(waiter.poll(0))


class Transport(pyamqp.Transport):
    """Of ``amqp://``."""

    Connection = Connection


class SSLTransport(pyamqp.SSLTransport):
    """Of ``amqps://``. Where nobody says otherwise, the broker's certificate has to name the host of that address."""

    Connection = Connection

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        client: Any = self.client
        if client.ssl is True:
            # py-amqp would be content with anybody's certificate, as long as a known authority signed it; kombu puts the name
            # in the place of None.
            client.ssl = {"server_hostname": None}
