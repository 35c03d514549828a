"""Revoke and retry, with a broker that is made up."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from amqp.exceptions import AccessRefused
from kombu.exceptions import OperationalError

from app import factory
from app.monitor.web.actions import arguments
from app.monitor.web.api import revoked
from app.monitor.web.errors import Refused
from tests.support.monitor_site import OPERATOR, FakeBroker, Site, serve, task

ROLES: dict[str, Any] = {"monitor_ops_url": "amqp://ops@broker/x", "monitor_producer_url": "amqp://producer@broker/x"}
TASKS = [
    task("done"),
    task("failed", "FAILURE", args="(1, 'a')", kwargs="{'k': [None, True, 2.5]}"),
    task("running", "STARTED"),
    task("lost", "STARTED", attention="orphaned"),
    task("cut", "FAILURE", args="(1, 'aaaa...')"),
    task("object", "FAILURE", args="(<object object at 0x1>,)"),
    task("elsewhere", "FAILURE", queue="gone"),
    task("nameless", "FAILURE", name="unknown"),
]


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> FakeBroker:
    made = FakeBroker()
    monkeypatch.setattr(factory, "client", made.client)
    return made


@pytest.fixture
def site(broker: FakeBroker) -> Iterator[Site]:
    with serve(TASKS, **ROLES) as made:
        yield made


def test_revoke(site: Site, broker: FakeBroker, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        answer = site.post("/tasks/running/revoke")
    assert answer.json == {"id": "running", "terminate": False, "answered": ["w1@host"], "silent": []}
    assert broker.clients[0].broker_url == "amqp://ops@broker/x"
    (asked,) = broker.revoked
    assert (asked["ids"], asked["terminate"], asked["reply"], asked["limit"]) == (["running"], False, True, 1)
    assert asked["by"] == "token@127.0.0.1"
    assert "revoke of task running by token at 127.0.0.1: Revoked: 1 of 1 workers know" in caplog.text
    site.post("/tasks/running/revoke", '{"terminate": true}')
    assert (broker.revoked[1]["terminate"], broker.revoked[1]["signal"]) == (True, "SIGTERM")
    # Not in the loop's thread, which it would hold up for a second.
    assert all(name.startswith("actions") for name in broker.threads)


def test_revoke_says_who_is_silent(site: Site, broker: FakeBroker) -> None:
    broker.replies = None
    assert site.post("/tasks/running/revoke").json["silent"] == ["w1@host"]
    site.reader.workers = lambda: [  # type: ignore[method-assign]
        {"name": f"w{number}@host", "alive": number < 3} for number in range(1, 4)
    ]
    broker.replies = [{"w1@host": {}}]
    assert site.post("/tasks/running/revoke").json["silent"] == ["w2@host"]
    site.reader.workers = lambda: []  # type: ignore[method-assign]
    # Kept for those that start: nobody's answer is waited for.
    answer = site.post("/tasks/running/revoke").json
    assert (answer["answered"], answer["silent"]) == ([], [])
    assert broker.revoked[-1]["reply"] is False


def test_retry(site: Site, broker: FakeBroker, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        answer = site.post("/tasks/failed/retry")
    assert answer.json == {"id": "new-id", "retry_of": "failed", "name": "app.tasks.add", "queue": "default"}
    assert broker.clients[0].broker_url == "amqp://producer@broker/x"
    (sent,) = broker.sent
    assert (sent["name"], sent["args"], sent["kwargs"]) == ("app.tasks.add", (1, "a"), {"k": [None, True, 2.5]})
    assert sent["queue"] == "default"
    assert "retry of task failed by token at 127.0.0.1: Sent again as new-id" in caplog.text


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/tasks/done/revoke", 409, "the task has ended as SUCCESS; there is nothing left to revoke"),
        ("/tasks/running/retry", 409, "the task has not ended (STARTED); sent again it would run twice"),
        ("/tasks/cut/retry", 409, 'the positional arguments are cut in the events (at "...")'),
        ("/tasks/object/retry", 409, "the positional arguments hold objects that can't be made from their text"),
        ("/tasks/elsewhere/retry", 409, "its queue gone is none of this platform's (default)"),
        ("/tasks/nameless/retry", 409, "the history does not know this task's name"),
        ("/tasks/none/revoke", 404, "the history knows no such task"),
        ("/tasks/none/retry", 404, "the history knows no such task"),
    ],
)
def test_refusals(site: Site, broker: FakeBroker, path: str, status: int, words: str) -> None:
    answer = site.post(path)
    assert (answer.status, answer.json["error"].startswith(words)) == (status, True), answer.json
    assert not broker.sent
    assert not broker.revoked


def test_what_was_lost_with_its_worker_can_be_sent_again(site: Site, broker: FakeBroker) -> None:
    assert site.post("/tasks/lost/retry").status == 200


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("[]", "the body must be a JSON object"),
        ("{", "the body must be a JSON object"),
        ("[" * 50_000, "the body must be a JSON object"),
        ('{"terminat": true}', "there is no field 'terminat'; known are terminate"),
        ('{"terminate": "yes"}', "terminate must be true or false"),
    ],
)
def test_wrong_bodies(site: Site, body: str, words: str) -> None:
    answer = site.post("/tasks/running/revoke", body)
    assert (answer.status, answer.json["error"]) == (400, words)
    assert site.post("/tasks/failed/retry", '{"x": 1}').json["error"] == "there is no field 'x'; known are none"


def test_a_broker_that_is_away_or_refuses(site: Site, broker: FakeBroker) -> None:
    broker.error = OperationalError("[Errno 111] Connection refused")
    answer = site.post("/tasks/failed/retry")
    assert (answer.status, "does not answer ([Errno 111]" in answer.json["error"]) == (503, True)
    broker.error = AccessRefused("no right to write")
    assert site.post("/tasks/running/revoke").status == 502


def test_without_a_broker_of_its_own() -> None:
    with serve(TASKS) as site:
        assert "MONITOR_OPS_URL is not set" in site.post("/tasks/running/revoke").json["error"]
        assert "MONITOR_PRODUCER_URL is not set" in site.post("/tasks/failed/retry").json["error"]


def test_by_form(site: Site, broker: FakeBroker, caplog: pytest.LogCaptureFixture) -> None:
    browser = site.browser()
    browser.log_in(OPERATOR)
    field = browser.form("/task/failed")
    with caplog.at_level(logging.INFO):
        answer = browser.post("/tasks/failed/retry", _xsrf=field)
    assert (answer.status, answer.headers["Location"]) == (303, "../../task/failed")
    assert "by operator at 127.0.0.1" in caplog.text
    page = browser.get("/task/failed").text
    assert 'Sent again as <a href="new-id">new-id</a>' in page
    # Once.
    browser.cookies = {name: value for name, value in browser.cookies.items() if value}
    assert "Sent again as" not in browser.get("/task/failed").text
    browser.post("/tasks/running/revoke", _xsrf=field, terminate="true")
    assert broker.revoked[0]["terminate"] is True
    assert "Revoked, and ended where it runs: 1 of 1 workers know" in browser.get("/task/running").text
    refused = browser.post("/tasks/done/revoke", _xsrf=field)
    assert refused.status == 303
    assert "nothing left to revoke" in browser.get("/task/done").text


def test_the_log_has_one_line_an_action(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        site.post("/tasks/x%0aFAKE%1b[31m/retry")
    (line,) = [record.getMessage() for record in caplog.records if "retry of task" in record.getMessage()]
    assert "\n" not in line
    assert "\x1b" not in line


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [(None, "{}"), ("()", None), ("1", "{}"), ("()", "[]"), ("()", "{1: 2}"), ("(" * 10_000, "{}"), ("(1,", "{}")],
)
def test_arguments_that_are_none(args: str | None, kwargs: str | None) -> None:
    with pytest.raises(Refused):
        arguments(task("x", "FAILURE", args=args, kwargs=kwargs))


def test_arguments_run_nothing() -> None:
    with pytest.raises(Refused):
        arguments(task("x", "FAILURE", args="(__import__('os').system('true'),)"))


@pytest.mark.parametrize(
    ("answered", "silent", "terminate", "words"),
    [
        (["a", "b"], [], False, "Revoked: 2 of 2 workers know"),
        (["a"], ["b"], False, "Revoked: 1 of 2 workers know. Silent, but will read of it when they are back: b."),
        (
            *(["a"], ["b"], True),
            "Revoked, and ended where it runs: 1 of 2 workers know. Silent, but will read of it when they are back: b. "
            "It may still run there.",
        ),
        ([], [], True, "Revoked. No worker is up; those that start will refuse it"),
    ],
)
def test_what_a_revoke_says(answered: list[str], silent: list[str], terminate: bool, words: str) -> None:
    assert revoked({"answered": answered, "silent": silent, "terminate": terminate}) == words
