"""The monitor's API over real sockets."""

from __future__ import annotations

import socket
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from app.environment import Mistake
from app.monitor.web import openapi
from app.monitor.web.server import ROUTES
from tests.support.eventually import eventually
from tests.support.monitor_site import Site, serve, task
from tests.support.ports import needs_ipv6

TASKS = [
    task("one"),
    task("two", "FAILURE"),
    task("three", "STARTED", attention="orphaned", root="one", parent="one"),
    task("a/b?c", "REVOKED"),
]


@pytest.fixture(scope="module")
def shared() -> Iterator[Site]:
    with serve(TASKS) as site:
        yield site


@pytest.fixture
def site(shared: Site) -> Site:
    shared.reader.searches.clear()
    shared.reader.error = None
    return shared


def test_a_search_and_its_pages(site: Site) -> None:
    first = site.get("/tasks?limit=3")
    assert first.status == 200
    assert first.headers["Content-Type"] == "application/json"
    assert [one["id"] for one in first.json["tasks"]] == ["one", "two", "three"]
    second = site.get(f"/tasks?limit=3&cursor={first.json['next']}").json
    assert ([one["id"] for one in second["tasks"]], second["next"]) == (["a/b?c"], None)


def test_every_filter_reaches_the_history(site: Site) -> None:
    path = (
        "/tasks?state=failure,RETRY&state=SUCCESS&attention=any&name=app.*&worker=w1%40host&queue=default"
        "&since=2026-11-22T13:20:00%2B01:00&until=2026-11-23&text=%C3%A9&root=r&sort=-runtime&limit=1000&cursor=5"
    )
    assert site.get(path).status == 200
    (found,) = site.reader.searches
    assert found.states == ("FAILURE", "RETRY", "SUCCESS")
    assert (found.attention, found.name, found.worker, found.queue) == (("any",), "app.*", "w1@host", "default")
    assert found.since is not None and found.since.isoformat() == "2026-11-22T12:20:00+00:00"
    assert found.until is not None and found.until.isoformat() == "2026-11-23T00:00:00+00:00"
    assert (found.text, found.root, found.sort, found.limit, found.cursor) == ("é", "r", "-runtime", 1000, "5")


def test_empty_parameters_are_none(site: Site) -> None:
    assert site.get("/tasks?state=&name=&since=&limit=&text=").status == 200
    (found,) = site.reader.searches
    assert (found.states, found.name, found.since, found.limit, found.text) == ((), None, None, 50, None)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/tasks?stat=FAILURE", "there is no parameter 'stat'; did you mean state?"),
        ("/tasks?zzzzzz=1", "there is no parameter 'zzzzzz'; known are state, attention, "),
        ("/tasks/one?limit=1", "there is no parameter 'limit'; there are none here"),
        ("/tasks?state=FAILED", "state: there is no 'FAILED'; did you mean FAILURE?"),
        ("/tasks?attention=stale", "attention: there is no 'stale'; did you mean stalled?"),
        ("/tasks?limit=0", "limit must be 1 to 1000"),
        ("/tasks?limit=1001", "limit must be 1 to 1000"),
        ("/tasks?limit=1e2", "limit must be 1 to 1000"),
        ("/tasks?limit=" + "9" * 5000, "limit must be 1 to 1000"),
        ("/tasks?limit=%D9%A1", "limit must be 1 to 1000"),
        ("/tasks?limit=1&limit=2", "limit is given 2 times; give it once"),
        ("/tasks?since=yesterday", "since: 'yesterday' is no time; write an age such as 90s, "),
        ("/tasks?sort=name", "sort must be one of -time, time, -runtime, runtime, -wait, wait, not 'name'"),
        ("/tasks?text=%ff", "the request is malformed"),
        ("/chart?points=0", "points must be 1 to 500"),
        ("/chart?since=1h&until=2h", "since must be before until"),
        ("/events?type=task-fail", "type: there is no 'task-fail'; did you mean task-failed?"),
    ],
)
def test_a_bad_parameter_is_one_line(site: Site, path: str, words: str) -> None:
    answer = site.get(path)
    assert answer.status == 400
    assert list(answer.json) == ["error"]
    assert answer.json["error"].startswith(words)
    assert "\n" not in answer.json["error"]


def test_what_the_history_does_not_take_is_told(site: Site) -> None:
    site.reader.error = ValueError("this cursor is of another search")
    answer = site.get("/tasks?cursor=x")
    assert (answer.status, answer.json) == (400, {"error": "this cursor is of another search"})
    site.reader.error = ValueError("name: '*' stands for more than 10,000; write more of it")
    assert site.get("/chart?name=*").status == 400


def test_one_task_and_its_family(site: Site) -> None:
    assert site.get("/tasks/one").json == TASKS[0]
    assert site.get("/tasks/a%2Fb%3Fc").json["id"] == "a/b?c"
    assert [one["id"] for one in site.get("/tasks/three/family").json["tasks"]] == ["one", "three"]
    missing = site.get("/tasks/none")
    assert (missing.status, "knows no such task" in missing.json["error"]) == (404, True)
    assert site.get("/tasks/none/family").status == 404


def test_workers_counts_and_charts(site: Site) -> None:
    assert site.get("/workers").json["workers"][0]["name"] == "w1@host"
    assert site.get("/counts").json["states"] == {"SUCCESS": 2, "FAILURE": 1}
    assert len(site.get("/chart").json["points"]) == 60
    assert len(site.get("/chart?since=1d&points=24&name=app.tasks.add").json["points"]) == 24


def test_head_is_get_without_a_body(site: Site) -> None:
    for path in ("/tasks", "/tasks/one", "/metrics", "/healthz", "/events"):
        answer = site.ask("HEAD", path, Authorization="Bearer token-of-the-test")
        assert (answer.status, answer.body) == (200, b""), path


def test_metrics_and_health(site: Site) -> None:
    metrics = site.get("/metrics")
    assert (metrics.status, metrics.body) == (200, b"warren_up 1\n")
    assert metrics.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert site.ask("GET", "/healthz").text == "ok\n"
    assert site.ask("GET", "/readyz").text == "ready\n"


def test_unready_in_words() -> None:
    with serve() as site:
        site.status.caught_up, site.status.lag_events, site.status.lag_seconds = False, 12345, 67.8
        behind = site.ask("GET", "/readyz")
        assert (behind.status, behind.json["error"]) == (503, "12,345 events behind the log (68 s)")
        site.status.connected = False
        assert site.ask("GET", "/readyz").json["error"] == "not connected to the broker"
        site.status.error = "the volume is full"
        assert site.ask("GET", "/readyz").json["error"] == "the volume is full"
        assert site.ask("GET", "/healthz").status == 200


@pytest.mark.parametrize("path", ["/nothing", "/tasks/", "/tasks/one/two", "/static/../server.py", "/static/none.css"])
def test_nothing_is_404(site: Site, path: str) -> None:
    answer = site.get(path)
    assert answer.status in {403, 404}
    assert b"Traceback" not in answer.body


def test_errors_are_pages_for_browsers(site: Site) -> None:
    answer = site.get("/nothing", Accept="text/html,*/*")
    assert (answer.status, answer.headers["Content-Type"]) == (404, "text/html; charset=UTF-8")
    assert "<h1>Not Found</h1>" in answer.text
    assert site.get("/nothing").json["error"].startswith("there is nothing here")


def test_other_methods_are_405(site: Site) -> None:
    answer = site.post("/tasks")
    assert (answer.status, answer.headers["Allow"]) == (405, "HEAD, GET")
    assert answer.json == {"error": "this address does not take this method"}
    assert site.get("/tasks/one/revoke").headers["Allow"] == "POST"
    assert site.ask("HEAD", "/tasks/one/revoke", Authorization="Bearer token-of-the-test").status == 405


def test_a_mistake_of_ours_shows_no_traceback(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.reader.error = RuntimeError("a secret of the inside")
    answer = site.get("/tasks")
    assert (answer.status, answer.json) == (500, {"error": "a mistake in the monitor; its log tells more"})
    assert "a secret of the inside" in caplog.text


def test_a_damaged_history_is_503_and_opened_again() -> None:
    with serve(TASKS) as site:
        site.reader.error = sqlite3.DatabaseError("file is not a database")
        site.reader.error.sqlite_errorname = "SQLITE_NOTADB"
        answer = site.get("/tasks")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
        assert answer.json["error"].startswith("the history can't be read now (file is not a database)")
        assert site.reader.closed == 1
        # Whoever writes it looks into that.
        assert site.status.suspect == "SQLITE_NOTADB"
        site.reader.error = None
        assert site.get("/tasks").status == 200
        assert site.get("/tasks").status == 200
        assert site.reader.opened <= 3


def test_a_replaced_history_is_opened_again() -> None:
    with serve(TASKS) as site:
        assert site.get("/tasks").status == 200
        opened = site.reader.opened
        site.server.reopen()
        assert site.get("/tasks").status == 200
        assert site.reader.opened == opened + 1


def test_slow_searches_hold_up_nothing_else() -> None:
    go = threading.Event()
    with serve(TASKS) as site:
        site.reader.before = lambda: go.wait(20)  # type: ignore[assignment]
        asking = [site.open("/tasks") for _ in range(80)]
        eventually(lambda: len(site.reader.searches) == 2, 10, "two threads search")
        # The loop is free, and says when there are too many.
        assert site.ask("GET", "/healthz").status == 200
        eventually(lambda: site.get("/tasks?limit=2").status == 503, 10, "more than 64 searches wait")
        # Nobody searches for those who have hung up, as a page does with each key that is typed.
        for one in asking[2:70]:
            one.close()
        eventually(lambda: len(site.server._shared.queries) < 20, 10, "their searches are forgotten")  # noqa: SLF001, RUF100
        found = [site.open(f"/tasks?text=late{number}") for number in range(10)]
        go.set()
        for one in (*asking[:2], *found):
            assert one.recv(12) == b"HTTP/1.1 200"
            one.close()
        assert len(site.reader.searches) < 30
        for one in asking[70:]:
            one.close()


def test_large_requests_are_refused(site: Site) -> None:
    # The server hangs up on what it does not want to read, which a client may see as a reset.
    with suppress(ConnectionError):
        assert site.post("/tasks/one/revoke", "x" * 70_000).status == 400
    with suppress(ConnectionError):
        assert site.get("/tasks?text=" + "x" * 40_000).status >= 400
    assert site.reader.searches == []
    assert site.get("/tasks").status == 200


def test_a_taken_port_is_one_line(site: Site) -> None:
    port = site.server.port
    with pytest.raises(Mistake) as caught, serve(monitor_port=port):
        pass
    (line,) = caught.value.lines
    assert line.startswith(f"the monitor can't listen on port {port} of 127.0.0.1 (Address already in use); free it")


@needs_ipv6
def test_a_star_is_all_addresses_of_both_families() -> None:
    with serve(monitor_address="*") as site:
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, site.server.port), timeout=20).close()


def test_the_description_is_what_there_is(site: Site) -> None:
    document = site.get("/openapi.json").json
    assert document["openapi"].startswith("3.1")
    described = {
        path: {
            method.upper(): {one["name"] for one in operation.get("parameters", []) if one["in"] == "query"}
            for method, operation in operations.items()
        }
        for path, operations in document["paths"].items()
    }
    assert described == {
        path: {method: set(handler.parameters) for method in handler.methods() if method != "HEAD"}
        for path, handler in ROUTES.items()
    }
    for path, operations in document["paths"].items():
        for operation in operations.values():
            inside = {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
            assert inside == ({"id"} if "{id}" in path else set())
            assert (operation.get("security") == []) == ROUTES[path].public
    names = [operation["operationId"] for operations in document["paths"].values() for operation in operations.values()]
    assert len(set(names)) == len(names)


def test_the_description_of_a_task_is_complete(site: Site) -> None:
    schemas = openapi.document()["components"]["schemas"]
    full = set(schemas["Task"]["properties"]) | set(schemas["FullTask"]["allOf"][1]["properties"])
    assert full == set(TASKS[0])
    assert set(schemas["Worker"]["properties"]) == set(site.get("/workers").json["workers"][0])
    assert set(schemas["Point"]["properties"]) == set(site.get("/chart").json["points"][0])

    def references(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            if "$ref" in value:
                yield value["$ref"]
            for one in value.values():
                yield from references(one)
        elif isinstance(value, list):
            for one in value:
                yield from references(one)

    assert {name.rpartition("/")[2] for name in references(openapi.document())} <= set(schemas)


def test_celery_is_not_imported_to_serve() -> None:
    import subprocess

    code = "import app.monitor.web.server, sys; assert not {'celery', 'kombu', 'amqp'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
