"""deploy/management.py: RabbitMQ's management API, here a small server that answers what a test wants."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from deploy import management, ports
from deploy.errors import ExitCode, WarrenError
from deploy.platforms.base import Endpoints
from deploy.secrets import Secrets
from tests.support.login import basic


class Api:
    """What the server was asked, and what it answers."""

    def __init__(self, port: int) -> None:
        self.where = Endpoints(host="127.0.0.1", amqp=1, management=port, prometheus=3, flower=4, monitor=5)
        self.status = 200
        self.body = b"[]"
        self.asked: list[tuple[str, str]] = []

    @property
    def name(self) -> str:
        return f"the broker's management API at 127.0.0.1:{self.where.management}"


@pytest.fixture
def api() -> Iterator[Api]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append((self.path, self.headers["Authorization"]))
            self.send_response(made.status)
            self.send_header("Content-Length", str(len(made.body)))
            self.end_headers()
            self.wfile.write(made.body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Api(server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


def error_of(api: Api, secrets: Secrets, call: Any = management.queues) -> str:
    with pytest.raises(WarrenError) as caught:
        call(api.where, secrets)
    assert caught.value.code is ExitCode.BROKER
    assert not any(secret in str(caught.value) for secret in secrets.values())
    return str(caught.value)


def test_queues_of_our_virtual_host_by_name_as_ops(api: Api, secrets: Secrets) -> None:
    api.body = b'[{"name": "mail"}, {"name": "default"}]'
    assert [one["name"] for one in management.queues(api.where, secrets)] == ["default", "mail"]
    assert api.asked == [("/api/queues/warren", basic("ops", "password-of-ops"))]


def test_another_role_has_its_own_login(api: Api, secrets: Secrets) -> None:
    management.get(api.where, secrets, "whoami", role="flower")
    assert api.asked[0][1] == basic("flower", "password-of-flower")


@pytest.mark.parametrize(
    ("status", "body", "found"),
    [
        (200, b'{"status": "ok"}', []),
        (503, b'{"status": "failed", "alarms": [{"node": "a", "resource": "memory"}]}', ["memory"]),
        (
            503,
            b'{"alarms": [{"resource": "memory"}, {"node": "b", "resource": "disk space"}, {"resource": "memory"}]}',
            ["disk space", "memory"],
        ),
    ],
)
def test_alarms_of_any_node(api: Api, secrets: Secrets, status: int, body: bytes, found: list[str]) -> None:
    api.status, api.body = status, body
    assert management.alarms(api.where, secrets) == found


def test_the_queues_bound_to_an_exchange(api: Api, secrets: Secrets) -> None:
    api.body = (
        b'[{"destination": "b", "destination_type": "queue"}, {"destination": "x", "destination_type": "exchange"},'
        b' {"destination": "a", "destination_type": "queue"}]'
    )
    assert management.bound(api.where, secrets, "celery.pidbox") == ["a", "b"]
    assert api.asked[0][0] == "/api/exchanges/warren/celery.pidbox/bindings/source"


def test_nothing_is_bound_to_an_exchange_that_is_not_there(api: Api, secrets: Secrets) -> None:
    api.status, api.body = 404, b'{"error": "Object Not Found"}'
    assert management.bound(api.where, secrets, "celery.pidbox") == []


def test_nobody_listens(secrets: Secrets) -> None:
    api = Api(ports.any_free("127.0.0.1", set()))
    assert error_of(api, secrets) == (
        f"{api.name} does not answer (Connection refused); `invoke status` shows what runs, `invoke up` starts it"
    )


def test_what_listens_speaks_no_http(secrets: Secrets) -> None:
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"AMQP\x00\x00\x09\x01\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        api = Api(server.getsockname()[1])
        assert error_of(api, secrets).startswith(f"{api.name} does not answer (AMQP")
        thread.join()


def test_a_login_that_is_refused(api: Api, secrets: Secrets) -> None:
    api.status, api.body = 401, b'{"error":"not_authorized","reason":"Not_Authorized"}'
    assert error_of(api, secrets) == (
        f"{api.name} refuses the password of user ops in .warren/secrets/ops; is this another stack's broker? "
        "`invoke up` gives this one the secrets of .warren/secrets"
    )


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_other_answers_are_told(api: Api, secrets: Secrets, status: int) -> None:
    api.status, api.body = status, b'{"error":"service_unavailable","reason":"stats are not there yet"}'
    assert error_of(api, secrets).startswith(f"{api.name} answers {status} to /api/")


def test_a_failed_health_check_is_an_answer(api: Api, secrets: Secrets) -> None:
    api.status, api.body = 503, b'{"status":"failed","reason":"x"}'
    assert management.get(api.where, secrets, "health/checks/alarms")["status"] == "failed"


@pytest.mark.parametrize("body", [b"", b"<html>", b"{"])
def test_another_programs_web_server(api: Api, secrets: Secrets, body: bytes) -> None:
    api.body = body
    assert error_of(api, secrets) == (
        f"{api.name} does not answer as RabbitMQ does; is another program on WARREN_MANAGEMENT_PORT?"
    )
