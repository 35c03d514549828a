"""A line between a client and its broker, which a test cuts."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock, Thread

from tests.support.brokers import HOST

__all__ = ["Line"]


class Line:
    """Takes connections on a port of its own and passes on what both ends say."""

    def __init__(self, port: int) -> None:
        self._broker = port
        self._lock = Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._away = self._deaf = False
        self._listener = socket.create_server((HOST, 0))
        self.port = int(self._listener.getsockname()[1])
        Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if self._away:
                    client.close()
                    continue
                broker = socket.create_connection((HOST, self._broker))
                self._pairs.append((client, broker))
            Thread(target=self._pass, args=(client, broker), daemon=True).start()
            Thread(target=self._pass, args=(broker, client), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not self._deaf:
                    # What can't be passed on is taken all the same, as by the kernel of a host that is gone.
                    with suppress(OSError):
                        target.sendall(data)

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """Each end takes what it is sent, and passes nothing on; in the end the line breaks."""
        self._deaf = True
        try:
            yield
        finally:
            self.cut()
            self._deaf = False

    @contextmanager
    def away(self) -> Iterator[None]:
        """The line is broken, and there is no other."""
        with self._lock:
            self._away = True
        self.cut()
        try:
            yield
        finally:
            self._away = False

    def cut(self, unknown_to_the_broker: bool = False) -> None:
        """Breaks what is connected."""
        with self._lock:
            for pair in self._pairs:
                for end in pair[: 1 if unknown_to_the_broker else 2]:
                    with suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
            if not unknown_to_the_broker:
                self._pairs.clear()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
