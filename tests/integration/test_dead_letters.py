"""Dead letters: what ends there and why, and what an operator does with it, on a real broker."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import amqp
import pytest
from celery import Celery

from app import eventlog
from app.tasks import add
from deploy.commands.dead_letters import dead_letters
from deploy.dead_letters import Letter, Letters
from deploy.errors import ExitCode, WarrenError
from deploy.session import Session
from tests.integration.conftest import MakeWorker
from tests.support.brokers import Broker
from tests.support.eventually import eventually
from tests.support.processes import PYTHON, Process
from tests.support.sessions import session

# A user's project. Its task kills the process that runs it, until the file beside it says that it is mended.
POISON = """
import os, signal
from pathlib import Path
from app import celery

@celery.task(name="shop.poison")
def poison(order, *, mended):
    if not Path(mended).exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return f"order {order} is paid"
"""


@pytest.fixture
def s(broker: Broker) -> Session:
    return session(broker)


def letters(s: Session) -> list[Letter]:
    with Letters(s) as found:
        return list(found)


def soon(s: Session, count: int = 1) -> list[Letter]:
    return eventually(
        lambda: found if len(found := letters(s)) >= count else [], 60, lambda: f"{count} letters, not {letters(s)}"
    )


def shown(capsys: pytest.CaptureFixture[str], s: Session, *words: str, **options: Any) -> Any:
    capsys.readouterr()
    dead_letters(s, list(words), as_json=True, **options)
    return json.loads(capsys.readouterr().out)


def publish(broker: Broker, body: bytes, headers: dict[str, Any] | None = None, **properties: Any) -> None:
    with broker.connection("producer") as connection:
        channel = connection.channel()
        channel.confirm_select()
        message = amqp.Message(body, application_headers=headers, delivery_mode=2, **properties)
        channel.basic_publish_confirm(message, exchange="tasks", routing_key="default")


def fill(broker: Broker, count: int) -> None:
    """Letters that were sent to no queue."""
    with broker.connection("producer") as connection:
        channel = connection.channel()
        channel.confirm_select()
        for number in range(count):
            headers = {"id": f"letter-{number}", "task": "app.tasks.add"}
            message = amqp.Message(
                json.dumps([[number, 1], {}, {}]), application_headers=headers, delivery_mode=2,
                content_type="application/json", content_encoding="utf-8",
            )  # fmt: skip
            channel.basic_publish_confirm(message, exchange="tasks", routing_key="nowhere")


@pytest.fixture
def small_limit(broker: Broker) -> Iterator[None]:
    broker.change_policy("tasks", delivery_limit=2)
    yield
    broker.change_policy("tasks")


def test_a_task_that_kills_its_worker_is_given_up_and_runs_once_mended(
    s: Session,
    broker: Broker,
    producer: Celery,
    make_worker: MakeWorker,
    small_limit: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "shop.py").write_text(POISON)
    mended = tmp_path / "mended"
    make_worker(options=("--include", "shop"), values={"PYTHONPATH": str(tmp_path)})
    sent = producer.send_task("shop.poison", (4242,), {"mended": str(mended)})
    (letter,) = soon(s)
    assert (letter.id, letter.reason, letter.queue, letter.count) == (sent.id, "delivery_limit", "default", 1)
    # The worker itself has lived on: only its child processes died.
    assert add.delay(2, 3).get(timeout=60) == 5
    (told,) = shown(capsys, s, "show", sent.id)
    assert (told["name"], told["args"], told["kwargs"]) == ("shop.poison", [4242], {"mended": str(mended)})
    dead_letters(s, ["show", sent.id])
    assert "args       [4242]" in capsys.readouterr().out
    mended.touch()
    assert shown(capsys, s, "requeue", sent.id)["requeued"][0]["queue"] == "default"
    assert sent.get(timeout=60) == "order 4242 is paid"
    assert letters(s) == []


def test_once_requeued_a_task_has_all_its_deliveries_again(
    s: Session, broker: Broker, producer: Celery, make_worker: MakeWorker, small_limit: None, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(POISON)
    make_worker(options=("--include", "shop"), values={"PYTHONPATH": str(tmp_path)})
    sent = producer.send_task("shop.poison", (1,), {"mended": str(tmp_path / "never")})
    soon(s)

    def attempts() -> int:
        events = eventlog.find(broker.url("ops"), sent.id)
        return sum(1 for event in events if event["type"] == "task-started")

    # The first delivery, and as many again as the limit says. What a worker says of them may come after the letter.
    eventually(lambda: attempts() == 3, 60, lambda: f"3 attempts, not {attempts()}")
    dead_letters(s, ["requeue", sent.id])
    eventually(lambda: attempts() == 6, 60, lambda: f"twice 3 attempts, not {attempts()}")
    (letter,) = soon(s)
    assert (letter.reason, letter.count) == ("delivery_limit", 1)


def test_what_no_worker_knows_or_can_read_is_a_dead_letter_and_workers_live_on(
    s: Session, broker: Broker, producer: Celery, make_worker: MakeWorker
) -> None:
    worker = make_worker()
    unknown = producer.send_task("shop.unheard_of", (1,))
    json_type = {"content_type": "application/json", "content_encoding": "utf-8"}
    task = {"task": "app.tasks.add", "lang": "py"}
    publish(broker, b"{not json", {**task, "id": "broken"}, **json_type)
    publish(broker, b"\x80\x04N.", {**task, "id": "pickled"}, content_type="application/x-python-serialize",
            content_encoding="binary")  # fmt: skip
    publish(broker, b"42", {**task, "id": "number"}, **json_type)
    publish(broker, b"null", {**task, "id": "null"}, **json_type)
    publish(broker, b"[[1, 2], {}, {}]", task, **json_type)
    publish(broker, b"\xff\xfe", None, content_type="application/json", content_encoding="utf-8")
    publish(broker, b"hello", None, content_type="text/plain", content_encoding="utf-8")
    found = {letter.id: letter for letter in soon(s, 8)}
    assert add.delay(2, 3).get(timeout=60) == 5
    assert worker.popen.poll() is None
    assert len(found) == 8
    assert found.keys() >= {unknown.id, "broken", "pickled", "number", "null"}
    assert {letter.reason for letter in found.values()} == {"rejected"}
    assert {letter.queue for letter in found.values()} == {"default"}
    assert found["broken"].body == b"{not json"
    assert found["broken"].arguments is None
    events = [event["type"] for event in eventlog.find(broker.url("ops"), "broken")]
    assert events == ["task-rejected"]


def test_what_expires_in_its_queue_or_has_none_is_a_dead_letter(s: Session, producer: Celery) -> None:
    expired = add.apply_async((1, 2), expires=1)
    nowhere = producer.send_task("app.tasks.add", (1, 2), exchange="tasks", routing_key="nowhere")
    found = {letter.id: letter for letter in soon(s, 2)}
    assert (found[expired.id].reason, found[expired.id].queue) == ("expired", "default")
    assert (found[nowhere.id].reason, found[nowhere.id].queue) == ("unroutable", "nowhere")


def test_an_expired_task_runs_when_it_is_requeued(
    s: Session, producer: Celery, make_worker: MakeWorker, capsys: pytest.CaptureFixture[str]
) -> None:
    sent = add.apply_async((1, 2), expires=1)
    soon(s)
    make_worker()
    dead_letters(s, ["requeue", sent.id])
    assert capsys.readouterr().out == f"{sent.id}: sent to default again\n"
    assert sent.get(timeout=60) == 3


def test_a_revoked_task_that_is_requeued_is_said_to_be_and_does_not_run(
    s: Session, broker: Broker, producer: Celery, ops: Celery, make_worker: MakeWorker,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    sent = add.apply_async((1, 2), expires=1)
    soon(s)
    ops.control.revoke(sent.id)
    dead_letters(s, ["requeue"], every=True)
    assert capsys.readouterr().out == f"{sent.id}: sent to default again; it is revoked, so a worker will discard it\n"
    make_worker()
    eventually(
        lambda: "task-revoked" in [event["type"] for event in eventlog.find(broker.url("ops"), sent.id)],
        20,
        "discarded",
    )


def test_what_has_no_queue_stays_and_may_go_to_another(
    s: Session, producer: Celery, make_worker: MakeWorker, capsys: pytest.CaptureFixture[str]
) -> None:
    sent = producer.send_task("app.tasks.add", (1, 2), exchange="tasks", routing_key="nowhere")
    soon(s)
    with pytest.raises(WarrenError, match="stayed: there is no queue nowhere; add it to WARREN_QUEUES") as caught:
        dead_letters(s, ["requeue", sent.id])
    assert caught.value.code is ExitCode.UNKNOWN
    assert len(letters(s)) == 1
    make_worker()
    assert shown(capsys, s, "requeue", sent.id, queue="mail")["requeued"][0]["queue"] == "mail"
    assert sent.get(timeout=60) == 3


def test_reading_changes_nothing(s: Session, broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    fill(broker, 500)
    ids = [f"letter-{number}" for number in range(500)]
    for _ in range(3):
        assert [letter.id for letter in letters(s)] == ids
    listed = shown(capsys, s, "list", limit=3)
    assert [one["id"] for one in listed["letters"]] == ["letter-499", "letter-498", "letter-497"]
    assert listed["more"] == 497
    assert [letter.id for letter in letters(s)] == ids
    assert broker.waiting("dead_letters") == 500


def test_two_readers_see_all_of_it(s: Session, broker: Broker) -> None:
    fill(broker, 300)
    found: list[int] = []

    def read() -> None:
        found.append(len(letters(s)))

    readers = [threading.Thread(target=read) for _ in range(6)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    assert found == [300] * 6


def test_a_reader_that_is_killed_gives_all_back(s: Session, broker: Broker, tmp_path: Path) -> None:
    fill(broker, 50)
    reader = reading(broker, tmp_path, "for letter in letters: print(letter.id, flush=True)\ntime.sleep(600)")
    eventually(lambda: len(reader.lines) == 50, 60, reader.tail)
    assert broker.waiting("dead_letters") == 0
    reader.kill()
    assert [letter.id for letter in letters(s)] == [f"letter-{number}" for number in range(50)]


def test_a_requeue_that_is_killed_loses_nothing(s: Session, broker: Broker, tmp_path: Path) -> None:
    """Killed between the confirm and the drop, and before: each task is in one of both places, or in both."""
    fill(broker, 20)
    code = """
from deploy.dead_letters.sending import Sender
with Sender(s) as sender:
    for number, letter in enumerate(letters):
        sender.send(letter, "mail")
        if number == 10:
            print("here", flush=True)
            time.sleep(600)
        letters.drop(letter)
"""
    process = reading(broker, tmp_path, code)
    eventually(lambda: process.lines == ["here"], 60, process.tail)
    process.kill()
    left = {letter.id for letter in letters(s)}
    sent = set()
    while (message := broker.take("mail")) is not None:
        sent.add(message.headers["id"])
    assert left | sent == {f"letter-{number}" for number in range(20)}
    assert left & sent == {"letter-10"}


def reading(broker: Broker, folder: Path, code: str) -> Process:
    """A program that reads dead letters, in a process of its own."""
    (folder / "reader.json").write_text(
        json.dumps({"secrets": broker.secrets, "amqp": broker.amqp, "management": broker.management})
    )
    before = f"""
import json, time
from deploy.dead_letters import Letters
from deploy.platforms.base import Endpoints
from deploy.run import Runner
from deploy.secrets import Secrets
from deploy.session import Session
known = json.load(open({str(folder / "reader.json")!r}))
s = Session(Runner())
vars(s)["secrets"] = Secrets(known["secrets"])
vars(s)["endpoints"] = Endpoints("127.0.0.1", known["amqp"], known["management"], 1, 1, 1)
with Letters(s) as letters:
"""
    body = "\n".join(f"    {line}" for line in code.strip().splitlines())
    return Process([PYTHON, "-c", before + body], {}, folder / "reader.log")


def test_drop_takes_what_it_was_asked_to(s: Session, broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    fill(broker, 5)
    with pytest.raises(WarrenError, match="`dead-letters drop` deletes 1 dead letter for good") as caught:
        dead_letters(s, ["drop", "letter-3"])
    assert caught.value.code is ExitCode.REFUSED
    assert len(letters(s)) == 5
    assert shown(capsys, s, "drop", "letter-3", yes=True) == {"dropped": ["letter-3"]}
    assert [letter.id for letter in letters(s)] == ["letter-0", "letter-1", "letter-2", "letter-4"]
    with pytest.raises(WarrenError, match="no dead letter has the id letter-3") as caught:
        dead_letters(s, ["drop", "letter-3"], yes=True)
    assert caught.value.code is ExitCode.UNKNOWN
    dead_letters(s, ["drop"], every=True, yes=True, name="*.add")
    assert letters(s) == []


def test_export_has_everything(s: Session, broker: Broker, make_worker: MakeWorker, tmp_path: Path) -> None:
    make_worker()
    publish(broker, b"\xff\x00", {"task": "app.tasks.add", "id": "odd"}, content_type="application/json")
    fill(broker, 2)
    soon(s, 3)
    file = tmp_path / "letters.jsonl"
    dead_letters(s, ["export", str(file)])
    rows = {row["id"]: row for row in map(json.loads, file.read_text().splitlines())}
    assert rows.keys() == {"odd", "letter-0", "letter-1"}
    assert rows["odd"]["body_base64"] == "/wA="
    assert rows["odd"]["headers"]["x-death"][0]["reason"] == "rejected"
    assert (rows["letter-1"]["args"], rows["letter-1"]["reason"]) == ([1, 1], "unroutable")
    assert oct(file.stat().st_mode & 0o777) == "0o600"
    assert [path.name for path in tmp_path.glob(".letters*")] == []
