"""deploy/monitor_api.py: what is asked of the monitor, and how its refusals read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deploy import monitor_api
from deploy.errors import ExitCode, WarrenError
from deploy.platforms.base import Endpoints
from deploy.ports import any_free
from deploy.secrets import Secrets
from tests.support.monitor_api import FakeMonitor, serving


@pytest.fixture
def api() -> Iterator[FakeMonitor]:
    with serving() as made:
        yield made


def error_of(api: FakeMonitor, secrets: Secrets, path: str = "/tasks") -> WarrenError:
    with pytest.raises(WarrenError) as caught:
        monitor_api.get(api.where, secrets, path)
    assert not any(secret in str(caught.value) for secret in secrets.values())
    return caught.value


def test_questions_are_asked_with_the_key_and_what_was_not_given_is_left_out(
    api: FakeMonitor, secrets: Secrets
) -> None:
    api.answers["/tasks"] = {"tasks": [], "next": None}
    asked = {"name": "shop.*", "text": "a&b=ü", "state": "", "cursor": None, "limit": 5}
    assert monitor_api.get(api.where, secrets, "/tasks", asked) == {"tasks": [], "next": None}
    assert api.asked == ["/tasks?name=shop.%2A&text=a%26b%3D%C3%BC&limit=5"]
    assert api.keys == ["Bearer password-of-monitor-token"]


def test_ids_are_no_paths(api: FakeMonitor, secrets: Secrets) -> None:
    assert monitor_api.task(api.where, secrets, "../a b?c") is None
    assert api.asked == ["/tasks/..%2Fa%20b%3Fc"]


def test_a_monitor_that_is_not_there(secrets: Secrets) -> None:
    where = Endpoints(
        host="127.0.0.1", amqp=1, management=2, prometheus=3, flower=4, monitor=any_free("127.0.0.1", set())
    )
    with pytest.raises(WarrenError) as caught:
        monitor_api.get(where, secrets, "/tasks")
    assert (str(caught.value), caught.value.code) == (
        f"the monitor at 127.0.0.1:{where.monitor} does not answer (Connection refused); "
        "`invoke status` shows what runs, `invoke up` starts it",
        ExitCode.MONITOR,
    )


@pytest.mark.parametrize(
    ("status", "body", "code", "line"),
    [
        (
            401,
            {"error": "the token is wrong"},
            ExitCode.MONITOR,
            "{} refuses the key in .warren/secrets/monitor-token; is this another stack's monitor? "
            "`invoke up` gives this one the secrets of .warren/secrets",
        ),
        (400, {"error": "limit must be 1 to 1000"}, ExitCode.USAGE, "limit must be 1 to 1000"),
        (404, {"error": "no such task"}, ExitCode.MONITOR, "{} can't answer (no such task); see `invoke logs monitor`"),
        (500, {"error": "disk"}, ExitCode.MONITOR, "{} can't answer (disk); see `invoke logs monitor`"),
        (
            200,
            b"<html>",
            ExitCode.MONITOR,
            "{} answers 200 to /tasks, not as the monitor does; is another program on WARREN_MONITOR_PORT?",
        ),
        (
            502,
            b"",
            ExitCode.MONITOR,
            "{} answers 502 to /tasks, not as the monitor does; is another program on WARREN_MONITOR_PORT?",
        ),
    ],
)
def test_refusals(api: FakeMonitor, secrets: Secrets, status: int, body: object, code: ExitCode, line: str) -> None:
    api.answers["/tasks"] = (status, body)
    error = error_of(api, secrets)
    assert (str(error), error.code) == (line.format(api.name), code)


def test_a_server_that_speaks_something_else(secrets: Secrets) -> None:
    import socket
    import threading

    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"SSH-2.0-x\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        port = server.getsockname()[1]
        where = Endpoints(host="127.0.0.1", amqp=1, management=2, prometheus=3, flower=4, monitor=port)
        with pytest.raises(WarrenError, match="does not answer") as caught:
            monitor_api.get(where, secrets, "/tasks")
        thread.join()
    assert caught.value.code is ExitCode.MONITOR


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((200, b"ready\n"), None),
        ((503, {"error": "1,200 events behind the log (3 s)"}), "1,200 events behind the log (3 s)"),
        ((503, b"not yet\n"), "not yet"),
        ((503, ["odd"]), '["odd"]'),
    ],
)
def test_whether_its_answers_are_of_now(api: FakeMonitor, answer: tuple[int, object], said: str | None) -> None:
    api.answers["/readyz"] = answer
    assert monitor_api.behind(api.where) == said
    # It is open to everyone: the key is not shown to whoever listens there.
    assert api.keys == [None]
