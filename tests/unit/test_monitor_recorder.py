"""All that is done with messages of the log, in one transaction; and what happens where it can't be done."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from time import time
from typing import Any

import pytest

from app.eventlog import Stop
from app.events.follow import Refused
from app.events.status import Status
from app.monitor import recorder as recording
from app.monitor.handlers.delivery import Delivery
from app.monitor.handlers.registry import Handler, Registry, Subscription
from app.monitor.history import store
from app.monitor.history.filter import Filter
from app.monitor.history.reader import Reader
from app.monitor.history.schema import FILE
from app.monitor.history.store import Told
from app.monitor.hub import Change, Hub
from app.monitor.recorder import Recorder
from app.settings import AppSettings
from tests.support.events import BASE, WORKER, Event, body, event, heartbeat, life, messages

FAILED = Subscription(("task-failed",), None, None)


class Lines:
    """A printer that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str | None]] = []
        self.error: OSError | None = None

    def write(self, told: list[Told]) -> None:
        if self.error is not None:
            raise self.error
        self.told += [(one.event.type.removeprefix("task-"), one.event.uuid) for one in told if one.task is not None]


class Site:
    """A recorder on a folder, and all that it tells."""

    def __init__(self, folder: Path, *names: str, **settings: Any) -> None:
        self.folder = folder
        self.lines = Lines()
        self.hub = Hub()
        self.status = Status()
        self.replaced = 0
        # The events of tests are years old.
        self.settings = AppSettings(monitor_dir=str(folder), **{"monitor_keep_days": 3650, **settings})
        self.open(*names)

    def open(self, *names: str) -> None:
        registry = Registry([Handler(name, lambda _: None, (FAILED,)) for name in names])
        delivery = Delivery(self.folder / FILE, registry, Stop())
        self.recorder = Recorder(
            self.settings,
            registry,
            delivery,
            self.lines,  # type: ignore[arg-type]
            self.hub,
            self.status,
            self._replaced,
        )

    def _replaced(self) -> None:
        self.replaced += 1

    def take(self, *events: Event, first: int | None = None, batch: int = 24) -> None:
        position = self.recorder.position
        start = (position.offset + 1 if position else 0) if first is None else first
        self.recorder.take(messages(events, start, batch))

    def outbox(self, handler: str) -> list[dict[str, Any]]:
        query = "SELECT event FROM outbox WHERE handler = ? ORDER BY key"
        return [json.loads(row[0]) for row in self.recorder.history.connection.execute(query, (handler,))]

    def tasks(self, **fields: Any) -> list[str]:
        reader = Reader(self.folder / FILE)
        try:
            return sorted(one["id"] for one in reader.tasks(Filter(limit=1000, **fields)).tasks)
        finally:
            reader.close()

    def harm(self) -> None:
        """Writes over pages in the middle of the file, as a disk does that is about to die."""
        connection = self.recorder.history.connection
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        # What is in memory would hide it.
        connection.execute("PRAGMA cache_size = 0")
        path = self.folder / FILE
        with path.open("r+b") as file:
            file.seek(2 * 16_384)
            file.write(b"\xa5" * (path.stat().st_size - 2 * 16_384))


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def make_one(*names: str, **settings: Any) -> Site:
        made.append(Site(tmp_path, *names, **settings))
        return made[-1]

    yield make_one
    for one in made:
        one.recorder.close()


Make = Callable[..., Site]


def test_everybody_is_told(make: Make) -> None:
    site = make("mail")
    heard: list[list[Change]] = []
    site.hub.subscribe(heard.append)
    site.recorder.connected(None)
    site.take(*life("a"), *life("b", end="failed"), heartbeat(5), heartbeat(6, kind="offline"))
    assert site.tasks() == ["a", "b"]
    assert site.lines.told == [
        *((kind, "a") for kind in ("sent", "received", "started", "succeeded")),
        *((kind, "b") for kind in ("sent", "received", "started", "failed")),
    ]
    (told,) = site.outbox("mail")
    assert (told["type"], told["id"], told["name"], told["state"]) == ("task-failed", "b", "app.tasks.add", "FAILURE")
    assert told["traceback"].startswith("Traceback:")
    assert [one["type"] for one in heard[0]][-2:] == ["task-failed", "worker-offline"]
    # Each is as the task was when it happened.
    assert [one["state"] for one in heard[0][:4]] == ["PENDING", "RECEIVED", "STARTED", "SUCCESS"]
    assert site.status.tasks == 2
    assert b'warren_tasks_total{name="app.tasks.add",state="FAILURE"} 1.0' in site.recorder.metrics.text()


def test_of_a_mass_of_changes_only_the_last_are_told_live(make: Make) -> None:
    site = make()
    heard: list[list[Change]] = []
    site.hub.subscribe(heard.append)
    site.take(*(event("started", number, str(number)) for number in range(recording.LIVE + 50)))
    assert heard[0][0] == {"type": "skipped", "count": 50}
    assert len(heard[0]) == recording.LIVE + 1
    assert heard[0][-1]["id"] == str(recording.LIVE + 49)


# --- handlers


def test_new_handlers_start_from_now(make: Make) -> None:
    site = make("old")
    site.recorder.connected(None)
    site.take(*life("a", end="failed"))
    site.recorder.close()
    # Nobody followed the log for a while, and meanwhile there is a handler more.
    site.open("old", "new")
    site.recorder.connected(5)
    site.take(*life("b", end="failed"), first=5)
    site.take(*life("c", end="failed"), first=6)
    assert [one["id"] for one in site.outbox("old")] == ["a", "b", "c"]
    assert [one["id"] for one in site.outbox("new")] == ["c"]
    # And after a restart it goes on.
    site.recorder.close()
    site.open("old", "new")
    site.recorder.connected(9)
    site.take(*life("d", end="failed"), first=8)
    assert [one["id"] for one in site.outbox("new")] == ["c", "d"]


def test_handlers_that_are_gone_are_forgotten(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    site = make("old")
    site.recorder.connected(None)
    site.take(*life("a", end="failed"))
    site.recorder.close()
    site.open()
    site.recorder.connected(5)
    assert site.outbox("old") == []
    assert "old (1 events waited)" in caplog.text


def test_a_log_that_starts_over_is_new_to_handlers(make: Make) -> None:
    site = make("mail")
    site.recorder.connected(100)
    site.take(*life("a", end="failed"), first=50)
    assert site.outbox("mail") == []
    site.recorder.start_over()
    assert site.recorder.position is None
    site.take(*life("b", end="failed"), first=0)
    assert [one["id"] for one in site.outbox("mail")] == ["b"]
    assert ("failed", "b") in site.lines.told


# --- what can't be taken


def test_a_message_that_makes_it_fail_is_skipped_and_said(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site = make("mail")
    site.recorder.connected(None)
    apply = store.apply

    def fail(task: Any, of: Any, code: int, host: int) -> bool:
        if of.uuid == "poison":
            raise ZeroDivisionError("a mistake of our own")
        return apply(task, of, code, host)

    monkeypatch.setattr(store, "apply", fail)
    lives = [life(f"task {number:02}", end="failed") for number in range(20)]
    lives[13] = life("poison")
    site.take(*(one for each in lives for one in each), batch=4)
    assert site.tasks() == [f"task {number:02}" for number in range(20) if number != 13]
    (line,) = [one for one in caplog.messages if "is skipped" in one]
    assert "message 13 of the event log is skipped by a mistake of the monitor's own" in line
    assert "poison" in line
    assert site.status.malformed == {"mistake of the monitor": 1}
    assert site.recorder.position is not None
    assert site.recorder.position.offset == 19
    assert len(site.outbox("mail")) == 19
    assert len(site.lines.told) == 19 * 4
    # The next restart begins behind it.
    site.recorder.close()
    site.open("mail")
    assert site.recorder.position is not None
    assert site.recorder.position.offset == 19


def test_a_restart_right_behind_a_poisonous_message_knows_the_log_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make()

    def fail(*_: Any) -> bool:
        raise ZeroDivisionError

    monkeypatch.setattr(store, "apply", fail)
    poison = body(life("a"))
    site.recorder.take([(7, poison)])
    site.recorder.close()
    site.open()
    assert site.recorder.position is not None
    # Another log than before would be read, and given to handlers, from its first event.
    assert site.recorder.position.is_of(7, poison)


def test_a_mistake_that_every_message_meets_ends_the_monitor(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make()

    def fail(*_: Any) -> bool:
        raise ZeroDivisionError

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(store, "apply", fail)
        site.take(*(one for number in range(1000) for one in life(str(number))), batch=4)
    # What it did skip is behind it, so that a restart gets on.
    assert site.recorder.position is not None
    assert site.recorder.position.offset == recording.SKIPPED - 1
    site.take(*(one for number in range(100, 1000) for one in life(str(number))), batch=4)
    assert site.status.tasks == 900


def test_malformed_messages_beside_a_poisonous_one_are_counted_once(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make()

    def fail(*_: Any) -> bool:
        raise ZeroDivisionError

    monkeypatch.setattr(store, "apply", fail)
    site.recorder.take([(number, b"hello") for number in range(10)] + [(10, body(life("a")))])
    assert site.status.malformed == {"not JSON": 10, "mistake of the monitor": 1}


def test_lines_that_cannot_be_written_leave_nothing(make: Make) -> None:
    site = make()
    site.lines.error = OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space"):
        site.take(*life("a"))
    assert (site.tasks(), site.recorder.position) == ([], None)
    site.lines.error = None
    site.take(*life("a"))
    assert len(site.lines.told) == 4


def test_a_full_volume_refuses_and_nothing_is_said_twice(make: Make) -> None:
    site = make("mail")
    site.recorder.connected(None)
    site.take(*life("a"))
    connection = site.recorder.history.connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    flood = [one for number in range(2000) for one in life(f"task {number}", args="x" * 500, end="failed")]
    for _ in range(3):
        with pytest.raises(Refused, match=r"the volume of .* is full: free space; nothing is lost"):
            site.take(*flood, first=1)
        assert site.tasks(text="xxx") == []
    connection.execute("PRAGMA max_page_count = 1000000")
    site.take(*flood, first=1)
    assert site.status.tasks == 2001
    assert len(site.outbox("mail")) == 2000
    assert len(site.lines.told) == len(set(site.lines.told)) == 4 * 2001
    assert not site.status.malformed


def test_a_history_that_another_one_holds_refuses(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make()
    site.recorder.history.connection.execute("PRAGMA busy_timeout = 1")
    other = sqlite3.connect(site.folder / FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Refused, match="locked"):
        site.take(*life("a"))
    other.execute("ROLLBACK")
    other.close()
    site.take(*life("a"))
    assert site.tasks() == ["a"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_rights_refuses(make: Make) -> None:
    site = make()
    site.folder.chmod(0o500)
    try:
        with pytest.raises(Refused, match="can't be written"):
            site.take(*life("a"))
    finally:
        site.folder.chmod(0o700)


def test_a_file_that_is_damaged_while_in_use_is_made_again(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    site = make("mail")
    site.recorder.connected(None)
    every = [life(f"task {number:04}", number, "failed", args="x" * 400) for number in range(1500)]
    log = messages((one for each in every for one in each), batch=4)
    site.recorder.take(log)
    printed, waiting = len(site.lines.told), len(site.outbox("mail"))
    assert waiting == 1500
    site.harm()
    more = (1500, body(life("task 1500", 9000, "failed")))
    with pytest.raises(Refused):
        site.recorder.take([more])
    assert site.recorder.position is None
    assert "made again from the event log" in caplog.text
    assert len(list(site.folder.glob(f"{FILE}.damaged-*[0-9]"))) == 1
    # The log comes again from its first message.
    site.recorder.connected(1500)
    site.recorder.take(log)
    site.recorder.take([more])
    assert site.replaced == 1
    assert site.status.tasks == 1501
    # What was said and handed over before is not so again, and what came meanwhile is not forgotten.
    assert len(site.lines.told) == printed + 4
    assert [one["id"] for one in site.outbox("mail")] == ["task 1500"]


def test_a_damaged_file_that_cannot_be_made_again_at_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make("mail")
    site.recorder.connected(None)
    log = messages((one for number in range(1500) for one in life(f"task {number:04}", args="x" * 400)), batch=4)
    site.recorder.take(log)
    site.harm()
    with pytest.raises(Refused):
        site.recorder.take([(1500, body(life("last", 9000, "failed")))])
    history = recording.History

    def full(_: Path) -> Any:
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(recording, "History", full)
    for _ in range(3):
        with pytest.raises(Refused):
            site.recorder.start_over()
        with pytest.raises(Refused):
            site.recorder.take(log[:2])
        assert site.recorder.position is None
    monkeypatch.setattr(recording, "History", history)
    site.recorder.take([*log, (1500, body(life("last", 9000, "failed")))])
    assert site.status.tasks == 1501
    assert [one["id"] for one in site.outbox("mail")] == ["last"]


@pytest.mark.parametrize("seen", ["SQLITE_CORRUPT", "SQLITE_CORRUPT_VTAB", ""])
def test_what_a_search_stumbled_over_is_inspected(make: Make, seen: str) -> None:
    site = make()
    site.take(*(one for number in range(1500) for one in life(f"task {number:04}", args="x" * 400)))
    site.harm()
    site.status.suspect = seen
    # SQLite 3.44 and newer also look into the index of texts.
    with pytest.raises(Refused, match=r"malformed|vtable constructor failed: task_text"):
        site.recorder.look()
    assert site.recorder.position is None
    assert site.status.suspect is None
    site.take(*life("a"))
    site.recorder.look()
    assert site.tasks() == ["a"]


def test_a_suspicion_that_is_wrong_harms_nothing(make: Make) -> None:
    site = make()
    site.take(*life("a"))
    site.status.suspect = "SQLITE_CORRUPT"
    site.recorder.look()
    assert [site.status.suspect, site.tasks()] == [None, ["a"]]


def test_a_file_that_was_removed_is_made_again(make: Make) -> None:
    site = make("mail")
    site.recorder.connected(None)
    site.take(*life("a", end="failed"))
    (site.folder / FILE).unlink()
    with pytest.raises(Refused, match="was removed"):
        site.recorder.look()
    assert site.recorder.position is None
    site.take(*life("a", end="failed"), *life("b", 50, end="failed"), first=0, batch=4)
    site.recorder.look()
    assert site.tasks() == ["a", "b"]
    assert [one["id"] for one in site.outbox("mail")] == ["b"]


# --- attention and forgetting


def clock(monkeypatch: pytest.MonkeyPatch, start: float) -> Callable[[float], None]:
    """Both clocks of the recorder, in the test's hand."""
    now = [start]
    monkeypatch.setattr(recording, "time", lambda: BASE + now[0])
    monkeypatch.setattr(recording, "monotonic", lambda: 5000.0 + now[0])

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


def states(site: Site, id_: str) -> list[str]:
    reader = Reader(site.folder / FILE)
    try:
        return [step["state"] for step in (reader.task(id_) or {"steps": []})["steps"]]
    finally:
        reader.close()


def test_attention_is_announced_like_any_event(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    move = clock(monkeypatch, 0)
    site = make()
    heard: list[list[Change]] = []
    site.hub.subscribe(heard.append)
    site.recorder.connected(None)
    site.take(*life("a", end="sent"))
    move(301)
    for _ in range(3):
        site.recorder.look()
    assert site.lines.told == [("sent", "a"), ("unclaimed", "a")]
    assert [(one["type"], one["id"], one["attention"]) for one in heard[-1]] == [("task-unclaimed", "a", "unclaimed")]
    text = site.recorder.metrics.text()
    assert b'warren_tasks_attention{kind="unclaimed"} 1.0' in text
    assert b'warren_tasks_total{name="app.tasks.add",state="UNCLAIMED"} 1.0' in text


def test_a_silent_worker(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    move = clock(monkeypatch, 0)
    site = make(monitor_silent_after=15)
    site.recorder.connected(None)
    site.take(heartbeat(0), *life("a", end="started"))
    for at in range(2, 16, 2):
        move(2)
        site.take(heartbeat(float(at)))
        site.recorder.look()
    move(15)
    site.recorder.look()
    assert "ORPHANED" not in states(site, "a")
    move(1)
    site.recorder.look()
    assert states(site, "a")[-1] == "ORPHANED"


def test_nobody_is_silent_right_after_a_start(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    move = clock(monkeypatch, 0)
    site = make(monitor_silent_after=15)
    site.recorder.connected(None)
    site.take(heartbeat(0), *life("a", end="started"))
    site.recorder.close()
    # A night later.
    move(40_000)
    site.open()
    site.recorder.connected(9)
    site.recorder.look()
    move(10)
    site.recorder.look()
    assert "ORPHANED" not in states(site, "a")
    site.take(heartbeat(40_010))
    move(10)
    site.recorder.look()
    assert "ORPHANED" not in states(site, "a")


def test_nobody_is_silent_right_after_an_outage(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    move = clock(monkeypatch, 0)
    site = make(monitor_silent_after=15)
    site.recorder.connected(None)
    site.take(heartbeat(0), *life("a", end="started"))
    move(90)
    site.recorder.connected(9)
    move(14)
    site.recorder.look()
    assert "ORPHANED" not in states(site, "a")


def test_a_restart_neither_takes_back_nor_announces_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    move = clock(monkeypatch, 0)
    site = make(monitor_silent_after=15)
    site.recorder.connected(None)
    site.take(heartbeat(0), *life("a", end="started"))
    move(20)
    site.recorder.look()
    site.recorder.close()
    site.open()
    site.recorder.connected(9)
    for _ in range(20):
        move(2)
        site.recorder.look()
    assert [kind for kind, _ in site.lines.told].count("orphaned") == 1
    assert states(site, "a").count("ORPHANED") == 1


def test_what_ended_in_an_outage_is_not_taken_for_stalled(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    move = clock(monkeypatch, 0)
    site = make(task_time_limit=20, monitor_silent_after=15)
    site.recorder.connected(None)
    site.take(heartbeat(0), *life("a", end="started"))
    move(90)
    site.recorder.connected(9)
    site.recorder.look()
    move(5)
    site.recorder.look()
    # The worker is back, and tells first what it could not tell.
    site.take(event("succeeded", 30, "a"), heartbeat(95))
    site.recorder.look()
    assert states(site, "a") == ["PENDING", "RECEIVED", "STARTED", "SUCCESS"]


def test_what_is_too_old_or_too_much_is_forgotten_in_passing(make: Make) -> None:
    site = make(monitor_keep_tasks=10)
    site.take(*(one for number in range(30) for one in life(f"task {number:02}", number)))
    site.recorder.look()
    assert site.tasks() == [f"task {number:02}" for number in range(20, 30)]
    assert site.status.tasks == 10


def test_who_is_long_gone_is_not_remembered_as_heard(make: Make) -> None:
    site = make()
    site.take(heartbeat(time()), *(event("sent", number, str(number), f"gen{number}@client") for number in range(5000)))
    site.recorder.prune()
    assert set(site.recorder._heard) == {WORKER}


def test_settings_reach_what_they_are_for(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    move = clock(monkeypatch, 0)
    site = make(monitor_unclaimed_after=5, task_time_limit=20)
    site.recorder.connected(None)
    site.take(*life("a", end="sent"), *life("b", end="started"))
    move(6)
    site.recorder.look()
    assert states(site, "a") == ["PENDING", "UNCLAIMED"]
    for _ in range(30):
        move(2)
        site.take(heartbeat(1))
        site.recorder.look()
    assert states(site, "b")[-1] == "STALLED"


def checks(real: Callable[[], list[str]]) -> Callable[[], list[str]]:
    """Checks as SQLite 3.44 and newer make them: the first one finds the damaged index."""
    first = iter([['fts5: corruption found reading blob 137438953473 from table "task_text"']])
    return lambda: next(first, None) or real()


@pytest.mark.parametrize("seen", ["SQLITE_CORRUPT_VTAB", "SQLITE_CORRUPT"])
@pytest.mark.parametrize("new", [False, True], ids=["old", "new"])
def test_a_damaged_index_of_texts_is_made_again_and_no_task_is_lost(
    make: Make, monkeypatch: pytest.MonkeyPatch, seen: str, new: bool
) -> None:
    site = make()
    if new:
        monkeypatch.setattr(site.recorder, "_check", checks(site.recorder._check))
    elif seen == "SQLITE_CORRUPT" and sqlite3.sqlite_version_info < (3, 44):
        pytest.skip("SQLite looks into indexes of texts since 3.44")
    site.take(*(one for number in range(50) for one in life(f"task {number:02}", args=f"('needle {number}',)")))
    site.recorder.history.connection.execute("UPDATE task_text_data SET block = x'00' WHERE id > 10")
    site.status.suspect = seen
    site.recorder.look()
    assert [site.recorder.position is None, site.status.suspect] == [False, None]
    reader = Reader(site.folder / FILE)
    try:
        assert [one["id"] for one in reader.tasks(Filter(text="needle 17")).tasks] == ["task 17"]
    finally:
        reader.close()
