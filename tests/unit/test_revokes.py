"""app/revokes: records, what is appended and how, what a worker knows, and the step that reads before it takes tasks."""

from __future__ import annotations

import itertools
import json
import logging
import select
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import amqp
import pytest
from celery import Celery
from celery.utils.collections import LimitedSet
from celery.worker import state
from celery.worker.control import Panel
from kombu.exceptions import OperationalError

from app import factory
from app.eventlog import Unavailable
from app.revokes import control, known, log, step
from app.revokes import reader as reading
from app.revokes.log import Record
from app.settings import AppSettings

SETTINGS = AppSettings(broker_url="amqp://u:p@127.0.0.1:1/v", queues=("default", "mail"))


# --- records


def test_a_record_holds_what_was_revoked_when_and_by_whom() -> None:
    record = log.make(["a", "b"], by="me@here")
    assert log.decode(log.encoder.encode(record)) == record
    assert json.loads(log.encoder.encode(record)) == {"at": record.at, "by": "me@here", "ids": ["a", "b"]}


@pytest.mark.parametrize(("given", "listed"), [("x", ["x"]), (7, ["7"]), (["x", "y"], ["x", "y"]), (("x",), ["x"])])
def test_stamps_are_lists_of_texts(given: Any, listed: list[str]) -> None:
    assert log.make(headers={"batch": given}).headers == {"batch": listed}


def test_who_revokes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "me")
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    assert log.make(["a"]).by == "me@here"

    def nameless() -> str:
        raise KeyError("uid not found: 10001")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert log.make(["a"]).by == "nobody@here"


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b'{"at": "now"}', b'{"at": 1, "ids": [1]}', b'{"ids": []}'])
def test_what_is_no_record_is_skipped_with_a_word(body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    assert log.decode(body) is None
    assert "a message of celery.revoked is malformed" in caplog.text


def test_a_record_of_a_later_version_is_read() -> None:
    assert log.decode(b'{"at": 1, "ids": ["a"], "new": {"x": 1}}') == Record(at=1, ids=("a",))


def test_only_revokes_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [Record(at=1, mark="x"), Record(at=2, ids=("a",)), Record(at=3, queue="mail", paused=True)]
    records.append(Record(at=4, headers={"batch": ["x"]}))
    bodies = [*(log.encoder.encode(one) for one in records), b"nonsense"]
    monkeypatch.setattr(log, "replay_raw", lambda *_, **__: enumerate(bodies))
    assert [record.at for record in log.read("amqp://")] == [2, 4]


# --- appending


class Broker:
    """A connection that takes what is published, or does not."""

    recoverable = (OSError,)

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: list[Record] = []
        self.options: list[dict[str, Any]] = []
        self.ended: list[str] = []
        self.error: BaseException | None = None
        self.unroutable = 0
        monkeypatch.setattr("kombu.Producer", self.producer)

    def producer(self, connection: Any, on_return: Callable[..., None]) -> Broker:
        self.on_return = on_return
        return self

    def publish(self, body: bytes, **options: Any) -> None:
        if self.error:
            raise self.error
        if self.unroutable:
            self.unroutable -= 1
            self.on_return(None, "celery.revoked", "", None)
            return
        record = log.decode(body)
        assert record is not None
        self.taken.append(record)
        self.options.append(options)

    def connection_for_write(self, **options: Any) -> Broker:
        self.made = options
        return self

    def _reraise_as_library_errors(self) -> Any:
        import contextlib

        return contextlib.nullcontext()

    def connect(self) -> None: ...

    def release(self) -> None:
        self.ended.append("release")

    def collect(self) -> None:
        self.ended.append("collect")


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    monkeypatch.setattr(log, "ROUTE_PAUSE", 0.001)
    return Broker(monkeypatch)


@pytest.fixture
def app(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Celery:
    made = factory.client(SETTINGS, broker_transport_options={})
    monkeypatch.setattr(made, "connection_for_write", broker.connection_for_write)
    return made


def test_a_record_is_published_so_that_it_can_not_vanish(app: Celery, broker: Broker) -> None:
    log.append(app, Record(at=1, ids=("a",)))
    assert broker.made["transport_options"]["confirm_publish"] is True
    (options,) = broker.options
    assert (options["exchange"], options["mandatory"], options["delivery_mode"]) == ("celery.revoked", True, 2)
    assert options["confirm_timeout"] == log.CONFIRM_TIMEOUT
    assert broker.ended == ["release"]


def test_many_ids_are_several_messages(app: Celery, broker: Broker) -> None:
    ids = tuple(str(number) for number in range(2_500))
    log.append(app, Record(at=1, by="me", ids=ids))
    assert [len(record.ids) for record in broker.taken] == [1000, 1000, 500]
    assert tuple(one for record in broker.taken for one in record.ids) == ids
    assert {(record.at, record.by) for record in broker.taken} == {(1, "me")}


def test_a_stream_that_is_back_soon_is_waited_for(app: Celery, broker: Broker) -> None:
    broker.unroutable = 3
    log.append(app, Record(at=1, ids=("a",)))
    assert len(broker.taken) == 1


def test_a_stream_that_is_not_there_is_an_error(app: Celery, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "ROUTE_TIMEOUT", 0.02)
    broker.unroutable = 1_000_000
    with pytest.raises(amqp.NotFound, match=r"there is no stream celery\.revoked"):
        log.append(app, Record(at=1, ids=("a",)))
    assert broker.ended == ["collect"]


def test_who_does_not_get_a_confirm_says_no_goodbye(app: Celery, broker: Broker) -> None:
    broker.error = OperationalError("timed out")
    with pytest.raises(OperationalError):
        log.append(app, Record(at=1, ids=("a",)))
    assert broker.ended == ["collect"], "a broker that reads no more would be waited for"


# --- control


@pytest.fixture
def told(app: Celery, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What reaches the stream and the workers, in order."""
    happened: list[tuple[str, Any]] = []
    monkeypatch.setattr(control, "append", lambda _, record: happened.append(("kept", record)))

    def broadcast(command: str, arguments: Any = None, **_: Any) -> list[Any]:
        happened.append((command, arguments))
        return []

    monkeypatch.setattr(app.control, "broadcast", broadcast)
    return happened


def test_a_revoke_is_kept_before_it_is_said(app: Celery, told: list[tuple[str, Any]]) -> None:
    assert app.control.revoke("a", terminate=True, signal="SIGKILL") == []
    assert [what for what, _ in told] == ["kept", "revoke"]
    assert told[0][1].ids == ("a",)
    assert (told[1][1]["task_id"], told[1][1]["terminate"], told[1][1]["signal"]) == ("a", True, "SIGKILL")


def test_all_ways_to_revoke(app: Celery, told: list[tuple[str, Any]]) -> None:
    app.AsyncResult("a").revoke()
    app.control.terminate(["b", "c"])
    app.control.revoke(iter(["d", "e"]))
    app.control.revoke_by_stamped_headers({"batch": "seven"})
    kept = [(record.ids, record.headers) for what, record in told if what == "kept"]
    assert kept == [(("a",), {}), (("b", "c"), {}), (("d", "e"), {}), ((), {"batch": ["seven"]})]
    assert [arguments["task_id"] for what, arguments in told if what == "revoke"] == ["a", ["b", "c"], ["d", "e"]]


def test_who_it_was_may_be_said(app: Celery, told: list[tuple[str, Any]]) -> None:
    app.control.by = "operator at 10.0.0.1"
    app.control.revoke("a")
    assert told[0][1].by == "operator at 10.0.0.1"


@pytest.mark.parametrize("error", [amqp.NotFound("no exchange"), OperationalError("timed out")])
def test_what_is_not_kept_is_not_said(
    app: Celery, told: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr(control, "append", fails)
    with pytest.raises(type(error)):
        app.control.revoke("a")
    with pytest.raises(type(error)):
        app.control.revoke_by_stamped_headers({"batch": "x"})
    assert told == []


def test_who_may_not_broadcast_revokes_but_does_not_end(
    app: Celery, told: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: Any, **__: Any) -> None:
        raise amqp.AccessRefused("ACCESS_REFUSED")

    monkeypatch.setattr(app.control, "broadcast", refuses)
    assert app.control.revoke("a") is None
    assert app.control.revoke_by_stamped_headers({"batch": "x"}) is None
    with pytest.raises(amqp.AccessRefused):
        app.control.revoke("a", terminate=True)
    with pytest.raises(amqp.AccessRefused):
        app.control.revoke_by_stamped_headers({"batch": "x"}, terminate=True)


# --- what a worker knows


@pytest.fixture
def worker_state() -> Iterator[None]:
    command = Panel.data[known.BY_HEADERS]
    known.prepare(step.REMEMBERED, 604_800)
    state.reset_state()
    yield
    state.reset_state()
    state.revoked.__class__ = LimitedSet
    Panel.data[known.BY_HEADERS] = command


@pytest.mark.usefixtures("worker_state")
def test_celerys_set_is_mended_where_it_is() -> None:
    from celery.worker import request

    state.revoked.update(["a", "b"])
    assert request.revoked_tasks is state.revoked
    assert "a" in request.revoked_tasks
    assert list(state.revoked) == ["a", "b"]
    assert (state.revoked.maxlen, state.revoked.expires) == (step.REMEMBERED, 604_800)
    known.prepare(3, 60)
    state.revoked.update(["c", "d", "e"])
    assert list(state.revoked) == ["c", "d", "e"], "the oldest go first"
    state.revoked.add("c")
    state.revoked.add("f")
    assert list(state.revoked) == ["e", "c", "f"], "what is revoked again is new"
    state.revoked.discard("c")
    assert state.revoked.pop() == "e"
    assert set(state.revoked.as_dict()) == {"f"}


@pytest.mark.usefixtures("worker_state")
def test_an_id_that_is_told_again_is_never_unknown_in_between() -> None:
    ids = [str(number) for number in range(20)]
    state.revoked.update(ids)
    stop = threading.Event()

    def again() -> None:
        while not stop.is_set():
            state.revoked.update(ids)

    threads = [threading.Thread(target=again) for _ in range(2)]
    for thread in threads:
        thread.start()
    missed = sum(one not in state.revoked for _ in range(20_000) for one in ids)
    stop.set()
    for thread in threads:
        thread.join()
    assert missed == 0
    assert sorted(state.revoked) == sorted(ids)


@pytest.mark.usefixtures("worker_state")
def test_stamps_are_added_to_what_a_broadcast_told() -> None:
    Panel.data[known.BY_HEADERS](None, {"batch": "one"})
    assert known.add_headers({"batch": ["two"], "user": ["me"]}) is True
    assert known.add_headers({"batch": ["two", "one"]}) is False
    assert state.revoked_stamps == {"batch": ["one", "two"], "user": ["me"]}
    # As Celery keeps a single one, where somebody has put it there.
    state.revoked_stamps["odd"] = "x"
    assert known.add_headers({"odd": ["y"]}) is True
    assert state.revoked_stamps["odd"] == ["x", "y"]


@pytest.mark.usefixtures("worker_state")
def test_what_is_new_in_a_record() -> None:
    assert step.take(None) is None
    assert step.take(Record(at=1, mark="x")) is None
    state.revoked.add("a")
    assert step.take(Record(at=1, by="me", ids=("a",))) is None, "a broadcast told it"
    assert step.take(Record(at=1, by="me", ids=("a", "b"))) == Record(at=1, by="me", ids=("b",))
    assert "b" in state.revoked


def test_a_line_names_a_few(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    step.tell(Record(at=1, by="me", ids=tuple("abcdefgh"), headers={"batch": ["one", "two"]}))
    assert caplog.messages == ["revoked by me: a, b, c, d, e, and 3 more, batch=one, batch=two"]


# --- the step


class Stream:
    """The stream `celery.revoked`, and a broker that may be away."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.new = threading.Condition()
        self.append_errors: list[BaseException] = []
        self.open_errors: list[BaseException] = []
        self.silent = False
        self.readers = 0

    def append(self, _: Any, record: Record) -> None:
        if self.append_errors:
            raise self.append_errors.pop(0)
        with self.new:
            self.bodies.append(log.encoder.encode(record))
            self.new.notify_all()

    def open(self, url: str, stop: Any, stream: str) -> Reader:
        assert (url, stream) == (SETTINGS.broker_url, "celery.revoked")
        return Reader(self, stop)


class Reader:
    def __init__(self, stream: Stream, stop: Any) -> None:
        self.stream, self.stop = stream, stop
        self.at = 0
        self.closed = False
        self.broken: BaseException | None = None
        stream.readers += 1

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def consume(self, start: str) -> None:
        assert start == "first"
        if self.stream.open_errors:
            raise self.stream.open_errors.pop(0)

    def next_raw(self, timeout: float | None = None) -> tuple[int, bytes] | None:
        while not self.stop.is_set():
            with self.stream.new:
                if self.at < len(self.stream.bodies) and not self.stream.silent:
                    self.at += 1
                    return self.at - 1, self.stream.bodies[self.at - 1]
                if timeout is not None:
                    return None
                self.stream.new.wait(0.01)
                if self.stream.open_errors:
                    raise self.stream.open_errors.pop(0)
        return None

    def settle(self) -> None: ...

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.stream.readers -= 1


class Consumer:
    def __init__(self, app: Celery) -> None:
        self.app = app


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    made = Stream()
    monkeypatch.setattr(step, "append", made.append)
    monkeypatch.setattr(step, "Reader", made.open)
    monkeypatch.setattr(step, "from_environment", lambda: SETTINGS)
    monkeypatch.setattr(step, "RETRY", 0.01)
    monkeypatch.setattr(step, "PATIENCE", 0.1)
    return made


@pytest.fixture
def revokes(stream: Stream, worker_state: None) -> Iterator[step.Revokes]:
    consumer = Consumer(factory.client(SETTINGS))
    made = step.Revokes(consumer)
    yield made
    made.stop(consumer)
    assert stream.readers == 0, "each connection is closed"


def start(revokes: step.Revokes) -> None:
    revokes.start(Consumer(factory.client(SETTINGS)))


def soon(fact: Callable[[], bool]) -> bool:
    from tests.support.eventually import eventually

    return eventually(fact, 10)


def test_what_is_in_the_stream_is_known_when_the_step_has_started(revokes: step.Revokes, stream: Stream) -> None:
    stream.append(None, Record(at=1, ids=("a", "b")))
    stream.append(None, Record(at=2, headers={"batch": ["x"]}))
    stream.bodies.append(b"nonsense")
    start(revokes)
    assert "a" in state.revoked
    assert "b" in state.revoked
    assert state.revoked_stamps == {"batch": ["x"]}


def test_what_comes_later_is_followed(revokes: step.Revokes, stream: Stream, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    start(revokes)
    stream.append(None, Record(at=1, by="me", ids=("a",)))
    assert soon(lambda: "a" in state.revoked)
    assert soon(lambda: "revoked by me: a" in caplog.messages)


def test_each_start_reads_all_of_it(revokes: step.Revokes, stream: Stream) -> None:
    stream.append(None, Record(at=1, ids=("a",)))
    start(revokes)
    revokes.stop(None)
    stream.bodies.clear()
    # Another stream, which begins anew.
    stream.append(None, Record(at=2, ids=("b",)))
    start(revokes)
    assert "b" in state.revoked


def test_stopping_twice_is_no_error(revokes: step.Revokes) -> None:
    start(revokes)
    revokes.shutdown(None)
    revokes.stop(None)
    revokes.terminate(None)


RECOVERING = Unavailable("the broker is still recovering it")
MISSING = Unavailable("the broker has no stream celery.revoked", lasting=True)


@pytest.mark.parametrize("errors", [[OperationalError("away")], [OperationalError("away")] * 3])
def test_a_broker_that_is_soon_back_is_waited_for(
    revokes: step.Revokes, stream: Stream, errors: list[BaseException]
) -> None:
    stream.append(None, Record(at=1, ids=("a",)))
    stream.append_errors = errors
    start(revokes)
    assert "a" in state.revoked


def test_a_stream_that_is_being_recovered_is_waited_for(revokes: step.Revokes, stream: Stream) -> None:
    stream.append(None, Record(at=1, ids=("a",)))
    # To who writes it looks as if it were missing.
    stream.append_errors = [amqp.NotFound("there is no stream")] * 2
    stream.open_errors = [RECOVERING]
    start(revokes)
    assert "a" in state.revoked


def test_a_broker_that_stays_away_is_a_lost_connection(revokes: step.Revokes, stream: Stream) -> None:
    stream.append_errors = [OperationalError("away")] * 1000
    with pytest.raises(amqp.RecoverableConnectionError, match=r"celery\.revoked can't be read: away"):
        start(revokes)


def test_a_stream_that_is_not_sent_to_its_end_is_a_lost_connection(revokes: step.Revokes, stream: Stream) -> None:
    stream.silent = True
    with pytest.raises(amqp.RecoverableConnectionError, match="the broker does not send"):
        start(revokes)


def test_a_worker_that_is_told_to_stop_does_not_wait(
    revokes: step.Revokes, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    from celery.exceptions import WorkerShutdown

    monkeypatch.setattr(state, "should_stop", 0)
    stream.append_errors = [OperationalError("away")] * 1000
    with pytest.raises(WorkerShutdown):
        start(revokes)


@pytest.mark.parametrize(
    ("append_errors", "open_errors"),
    [
        ([amqp.NotFound("no exchange 'celery.revoked' in vhost")], []),
        ([amqp.NotFound("there is no stream")], [MISSING]),
        ([], [MISSING]),
        ([amqp.AccessRefused("ACCESS_REFUSED - write access")], []),
        ([amqp.NotFound("there is no stream")] * 1000, []),
    ],
    ids=["no exchange", "no stream", "removed meanwhile", "no right to it", "not bound"],
)
def test_a_worker_starts_without_the_stream_says_so_and_looks_for_it(
    revokes: step.Revokes,
    stream: Stream,
    caplog: pytest.LogCaptureFixture,
    append_errors: list[BaseException],
    open_errors: list[BaseException],
) -> None:
    stream.append_errors, stream.open_errors = append_errors, open_errors
    start(revokes)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert line.startswith("revokes reach this worker by broadcast only, and those from before it started do not: ")
    assert "`invoke up` makes the stream celery.revoked, which is looked for until then" in line
    stream.append_errors.clear()
    stream.append(None, Record(at=1, ids=("a",)))
    assert soon(lambda: "a" in state.revoked)


def test_a_pool_without_poll_runs_without_the_stream(
    revokes: step.Revokes, stream: Stream, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(select, "poll")
    start(revokes)
    assert "revokes reach this worker by broadcast only" in caplog.text
    assert stream.bodies == []
    revokes.stop(None)


def test_a_connection_that_is_lost_is_made_anew(
    revokes: step.Revokes, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    start(revokes)
    stream.open_errors = [Unavailable("lost"), RuntimeError("whatever"), MISSING]
    assert soon(lambda: not stream.open_errors)
    stream.append(None, Record(at=1, ids=("a",)))
    assert soon(lambda: "a" in state.revoked)
    loud = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert loud == ["following celery.revoked: whatever"]


def test_tasks_are_taken_after_it() -> None:
    from celery.worker.consumer.tasks import Tasks

    before = Tasks.requires
    try:
        factory.add_revokes()
        factory.add_revokes()
        assert Tasks.requires.count(step.Revokes) == 1
    finally:
        Tasks.requires = before


# --- who waits for the reader


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A reader, and the broker's end of its connection."""
    ours, theirs = socket.socketpair()

    class Bare(reading.Reader):
        def __init__(self) -> None:
            self._busy = False
            self._socket = ours
            self._look = select.poll()
            self._look.register(ours, select.POLLIN)

    yield Bare(), theirs
    ours.close()
    theirs.close()


def test_nothing_has_arrived(reader: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(reading, "sleep", waits.append)
    reader[0].settle()
    assert waits == []


def test_what_has_arrived_is_waited_for(reader: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, broker_end = reader
    broker_end.send(b"x")
    steps: list[str] = []

    def sleep(_: float) -> None:
        # As the reader's thread does: it takes it from the socket, then it is busy with it, then it is done.
        if not steps:
            ours._busy = True
            ours._socket.recv(1)
            steps.append("taken")
        else:
            ours._busy = False
            steps.append("done")

    monkeypatch.setattr(reading, "sleep", sleep)
    ours.settle()
    assert steps == ["taken", "done"]


def test_a_reader_that_is_stuck_is_not_waited_for(reader: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, broker_end = reader
    broker_end.send(b"x")
    clock = itertools.count(step=0.01)
    monkeypatch.setattr(reading, "monotonic", lambda: next(clock))
    monkeypatch.setattr(reading, "sleep", lambda _: None)
    ours.settle()


@pytest.mark.usefixtures("worker_state")
def test_an_id_is_unknown_only_when_all_is_taken() -> None:
    arrives = ["a"]
    state.revoked.settle = lambda: state.revoked.update(arrives)
    try:
        assert not known.has("a")
        assert "a" in state.revoked
        assert "b" not in state.revoked
    finally:
        state.revoked.settle = None


# --- how long


@pytest.mark.parametrize(
    ("age", "seconds"), [("7D", 604_800), ("12h", 43_200), ("30m", 1_800), ("5s", 5), ("1Y", 31_536_000)]
)
def test_for_how_long_revokes_are_kept(age: str, seconds: int) -> None:
    assert AppSettings(broker_url="amqp://", revokes_max_age=age).revokes_seconds == seconds
