"""The way to a broker that others run: through a pod, here a process of this host."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.errors import ExitCode, WarrenError
from deploy.platforms.kubernetes import Kubernetes
from deploy.platforms.kubernetes import relay as relays
from deploy.platforms.kubernetes.relay import PROGRAM, Relay, relay
from tests.support.ports import free_port
from tests.unit.test_kubernetes import READ, items, made, pod

KNOWS = [{"configMapRef": {"name": "warren-tasks-1"}}, {"configMapRef": {"name": "warren-broker-address-2"}}]

# Seconds. What is waited for takes tenths of one.
PATIENCE = 60


def told(name: str, service: str, **options: Any) -> dict[str, Any]:
    """A pod that was told of a broker elsewhere."""
    found = pod(name, service, **options)
    found["spec"]["containers"][0]["envFrom"] = KNOWS
    return found


def echo(listening: socket.socket, context: ssl.SSLContext | None) -> None:
    """Says everything back, with a greeting before, as a server that speaks first."""
    while True:
        try:
            connection, _ = listening.accept()
            if context:
                connection = context.wrap_socket(connection, server_side=True)
        except ssl.SSLError:
            continue
        except OSError:
            return
        # Who only looks whether it answers is gone by then.
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"hello ")
            while said := connection.recv(65536):
                connection.sendall(said)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of `localhost` that nobody signed, and its key beside it."""
    file = tmp_path / "tls.crt"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(file.with_suffix(".key")), "-out", str(file)),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return file


Broker = Callable[[ssl.SSLContext | None], int]


@pytest.fixture
def broker() -> Iterator[Broker]:
    """Starts one that says what it hears; its port."""
    opened: list[socket.socket] = []

    def start(context: ssl.SSLContext | None = None) -> int:
        opened.append(socket.create_server(("localhost", 0)))
        threading.Thread(target=echo, args=(opened[-1], context), daemon=True).start()
        return int(opened[-1].getsockname()[1])

    yield start
    for one in opened:
        one.close()


@pytest.fixture
def way(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    """One whose pod is this host, with the variables of this process."""
    platform, _ = made({f"{READ} get pods": items(told("monitor-a", "monitor"))})
    found = relay(platform.kubectl)
    assert found is not None
    monkeypatch.setattr(found, "command", lambda what, *how: [sys.executable, "-I", str(PROGRAM), what, *how])
    yield found
    found.close()


def variables(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    given = {"host": "localhost", "scheme": "amqp", "port": "1", "api": "http", "api_port": "1", **values}
    for name, value in given.items():
        monkeypatch.setenv(f"BROKER_{name.upper()}", value)


def said_back(port: int, said: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        # Beside reading: what comes back at once has to go somewhere.
        threading.Thread(target=connection.sendall, args=(said,), daemon=True).start()
        heard = b""
        while len(heard) < len(said) + 6 and (part := connection.recv(65536)):
            heard += part
    return heard


def test_each_connection_leads_to_the_broker_both_ways(
    way: Relay, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    amqp, api = broker(None), broker(None)
    variables(monkeypatch, port=str(amqp), api_port=str(api))
    large = os.urandom(1_000_000)
    assert said_back(way.port("amqp"), large) == b"hello " + large
    assert said_back(way.port("amqp"), b"again") == b"hello again"
    assert said_back(way.port("api"), b"GET") == b"hello GET"
    assert (way.address("amqp"), way.address("api")) == (f"localhost:{amqp}", f"localhost:{api}")


def test_tls_is_spoken_from_the_pod_on(
    way: Relay, broker: Broker, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    variables(monkeypatch, port=str(broker(context)), scheme="amqps")
    with pytest.raises(WarrenError, match=r"can't be reached from the pod monitor-a \(.*certificate verify failed"):
        way.port("amqp")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert said_back(way.port("amqp"), b"secret") == b"hello secret"


def test_where_a_pod_is_replaced_the_next_connection_goes_through_the_one_in_its_place(
    home: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = [items(told(name, "monitor")) for name in ("monitor-a", "monitor-b")]
    platform, _ = made({f"{READ} get pods": there})
    way = relay(platform.kubectl)
    assert way is not None and way.pod == "monitor-a"
    program = [sys.executable, "-I", str(PROGRAM)]
    gone = [sys.executable, "-c", "raise SystemExit('no such pod')"]
    monkeypatch.setattr(
        way, "command", lambda what, *how: [*program, what, *how] if how or way.pod == "monitor-b" else gone
    )
    variables(monkeypatch, port=str(broker(None)))
    port = way.port("amqp")
    with contextlib.suppress(ConnectionError):
        assert said_back(port, b"lost") == b""
    way.carriers[0].wait(PATIENCE)
    assert said_back(port, b"again") == b"hello again"
    way.close()


def test_where_the_pod_does_not_reach_it_that_is_said(way: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    number = free_port()
    variables(monkeypatch, port=str(number))
    with pytest.raises(WarrenError) as caught:
        way.port("amqp")
    assert str(caught.value).startswith(
        f"dev/warren: the broker at localhost:{number} can't be reached from the pod monitor-a ("
    )
    assert caught.value.code is ExitCode.BROKER
    monkeypatch.setattr(way, "command", lambda *_: [sys.executable, "-c", "raise SystemExit('no such container')"])
    with pytest.raises(WarrenError, match="no command runs in the pod monitor-a: no such container"):
        way.port("api")


def test_what_is_run_is_text_that_any_image_can_run(home: Path) -> None:
    platform, runner = made({f"{READ} get pods": items(told("worker-heavy-a", "worker-heavy"))})
    found = relay(platform.kubectl)
    assert found is not None
    *command, text, what = found.command("amqp")
    assert " ".join(command) == (
        "kubectl --context dev --namespace warren exec worker-heavy-a --stdin --container worker -- python3 -I -c"
    )
    assert (text, what) == (PROGRAM.read_text(), "amqp")
    assert runner.shown[-1].endswith("python3 -I -c deploy/inside/relay.py amqp")


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        ([told("worker-a", "worker"), told("monitor-a", "monitor"), told("flower-a", "flower")], "monitor-a"),
        # It may be unready because it does not reach the broker.
        ([told("worker-a", "worker"), told("monitor-a", "monitor", ready=False)], "worker-a"),
        ([told("monitor-a", "monitor", ready=False)], "monitor-a"),
        ([told("monitor-a", "monitor", ready=False, containerStatuses=[])], None),
        # Of a stack with a broker of its own.
        ([pod("monitor-a", "monitor"), pod("rabbitmq-0", "rabbitmq")], None),
        ([told("my-own-a", "my-own")], None),
    ],
)
def test_who_is_asked(home: Path, there: list[dict[str, Any]], chosen: str | None) -> None:
    platform, _ = made({f"{READ} get pods": items(*there)})
    found = relay(platform.kubectl)
    assert (found.pod if found else None) == chosen


class Closed:
    """A forward where no Service is."""

    def __init__(self, *_: Any) -> None: ...

    def ports(self, code: ExitCode) -> dict[int, int]:
        raise WarrenError('dev/warren: rabbitmq can\'t be reached (services "rabbitmq" not found)', code)


@pytest.fixture
def closed(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Kubernetes]:
    monkeypatch.setattr("deploy.platforms.kubernetes.forward.Forward", Closed)
    monkeypatch.setattr(relays.Relay, "port", lambda _, what: {"amqp": 1, "api": 2}[what])
    monkeypatch.setattr(relays.Relay, "address", lambda _, what: f"broker.example:{what}")
    return lambda *there: made({f"{READ} get pods": items(*there)})[0]


def test_a_command_that_goes_on_looking_finds_it_when_a_pod_is_there(
    closed: Callable[..., Kubernetes], monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = closed()
    where = platform.endpoints()
    assert not where.broker_is_others
    platform.runner.answers[f"{READ} get pods"] = items(told("monitor-a", "monitor"))  # type: ignore[attr-defined]
    with pytest.raises(WarrenError, match="can't be reached"):
        _ = where.amqp  # not looked for again at once
    monkeypatch.setattr("deploy.platforms.kubernetes.forward.AGAIN", 0)
    assert (where.amqp, where.broker) == (1, "broker.example:amqp")


def test_commands_find_a_broker_of_others_by_themselves(closed: Callable[..., Kubernetes]) -> None:
    where = closed(told("monitor-a", "monitor")).endpoints()
    assert (where.host, where.amqp, where.management) == ("127.0.0.1", 1, 2)
    assert (where.broker, where.broker_api, where.broker_is_others) == (
        "broker.example:amqp",
        "broker.example:api",
        True,
    )
    for advice in (where.no_answer, where.definitions_again, where.refused("ops", "rabbitmq")):
        assert "docs/kubernetes-options.md, external-broker" in advice
    assert "`invoke restart monitor`" in where.refused("monitor-token", "monitor")
    with pytest.raises(WarrenError, match="others run the broker, and its port 15692 is not known here"):
        _ = where.prometheus


def test_where_nothing_runs_the_first_reason_is_told(closed: Callable[..., Kubernetes]) -> None:
    where = closed().endpoints()
    for _ in range(2):
        with pytest.raises(WarrenError, match='services "rabbitmq" not found'):
            _ = where.amqp
    assert not where.broker_is_others
    assert "`invoke logs rabbitmq`" in where.no_answer and "`invoke restart rabbitmq`" in where.definitions_again
