"""app/transport.py: waits for a broker that may be silent."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import amqp
import kombu
import kombu.pools
import pytest
from kombu.transport import pyamqp

from app import connection, transport

# An empty frame of a heartbeat.
BEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"


class Socket:
    """What py-amqp needs of its own transport, around one end of a pair of sockets."""

    def __init__(self, end: socket.socket) -> None:
        self.sock: socket.socket | None = end
        self.connected = True
        self.parts = pyamqp.amqp.transport.TCPTransport("localhost")
        self.parts.sock = end
        self.parts._setup_transport()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.parts, name)

    def close(self) -> None:
        self.sock = None
        self.connected = False


@pytest.fixture
def ends() -> Iterator[tuple[transport.Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    made = transport.Connection(heartbeat=1)
    made.transport = Socket(ours)
    made.on_inbound_frame = made.frame_handler_cls(made, made.on_inbound_method)
    made.frame_writer = made.frame_writer_cls(made, made.transport)
    made.heartbeat = 0.1
    yield made, theirs
    ours.close()
    theirs.close()


def test_a_wait_ends_when_the_broker_is_silent(ends: tuple[transport.Connection, socket.socket]) -> None:
    made, theirs = ends
    with pytest.raises(amqp.ConnectionForced):
        made.drain_events()
    # It said itself that it lives, and asks no more.
    assert theirs.recv(1000).startswith(BEAT)
    assert not made.connected
    made.collect()


def test_a_wait_goes_on_while_the_broker_lives(
    ends: tuple[transport.Connection, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, theirs = ends
    beats = 0
    tick = transport.Connection.heartbeat_tick

    def beat(self: transport.Connection, rate: int = 2) -> None:
        nonlocal beats
        beats += 1
        # Many times as long as silence may be; then the broker is silent.
        if beats < 50:
            theirs.send(BEAT)
        tick(self, rate)

    monkeypatch.setattr(transport.Connection, "heartbeat_tick", beat)
    with pytest.raises(amqp.ConnectionForced):
        made.drain_events()
    assert beats > 50


def test_a_wait_with_a_limit_is_as_it_was(ends: tuple[transport.Connection, socket.socket]) -> None:
    made, _ = ends
    with pytest.raises(TimeoutError):
        made.drain_events(timeout=0.01)
    assert made.connected


def test_what_was_not_read_yet_was_heard(ends: tuple[transport.Connection, socket.socket]) -> None:
    made, theirs = ends
    made.heartbeat_tick()
    # Long ago, and nothing was read since.
    made.last_heartbeat_received = 1.0
    theirs.send(BEAT)
    made.heartbeat_tick()
    made.blocking_read(1)
    made.last_heartbeat_received = 1.0
    made.prev_recv = made.bytes_recv
    with pytest.raises(amqp.ConnectionForced):
        made.heartbeat_tick()


def test_it_remembers_that_the_broker_takes_no_messages() -> None:
    said: list[str] = []
    made = transport.Connection(on_blocked=said.append, on_unblocked=lambda: said.append("free"))
    made._on_blocked()
    assert (made.blocked, len(said)) == (True, 1)
    made._on_unblocked()
    assert (made.blocked, said[-1]) == (False, "free")


@pytest.mark.parametrize(("scheme", "expected"), [("amqp", transport.Transport), ("amqps", transport.SSLTransport)])
def test_connections_use_it(scheme: str, expected: type) -> None:
    made = connection.Connection(f"{scheme}://127.0.0.1//")
    assert made.get_transport_cls() is expected
    assert made.clone().get_transport_cls() is expected
    assert isinstance(made.transport, kombu.transport.pyamqp.Transport)


def test_whose_certificate_it_is_counts_unless_somebody_says_otherwise() -> None:
    made = connection.Connection("amqps://broker.example//")
    assert made.transport.client.ssl == {"server_hostname": None}
    own = {"ca_certs": "ca.crt"}
    assert connection.Connection("amqps://broker.example//", ssl=own).transport.client.ssl == own


def test_those_of_a_pool_do_too() -> None:
    pool = connection.Connection("amqp://127.0.0.1//").Pool(2)
    made = pool.new()
    assert made.get_transport_cls() is transport.Transport
    # Kombu's own closes what failed while it was in use.
    assert isinstance(made, kombu.connection.PooledConnection)
    assert (
        kombu.pools.connections[connection.Connection("amqp://127.0.0.1//")].new().get_transport_cls()
        is transport.Transport
    )


def test_a_limit_of_the_socket_holds(ends: tuple[transport.Connection, socket.socket]) -> None:
    made, _ = ends
    made._transport.sock.settimeout(0.01)
    with pytest.raises(TimeoutError):
        made.drain_events()
    assert made.connected


def test_it_leaves_without_waiting_for_the_other_ends_last_word(
    ends: tuple[transport.Connection, socket.socket],
) -> None:
    made, _ = ends
    limits: list[float | None] = []
    close = made._transport.close

    def closing() -> None:
        limits.append(made._transport.sock.gettimeout())
        close()

    made._transport.close = closing
    made.collect()
    assert limits == [0]
    # Once more, when nothing is left.
    made.collect()


def test_where_eventlet_has_taken_poll_away(
    ends: tuple[transport.Connection, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(transport.select, "poll")
    made, theirs = ends
    made.heartbeat_tick()
    made.last_heartbeat_received = 1.0
    theirs.send(BEAT)
    made.heartbeat_tick()
    assert made.last_heartbeat_received > 1.0


def test_other_transports_are_as_they_were() -> None:
    assert "memory" in connection.Connection("memory://").get_transport_cls().__module__
