"""The history's file: versions, and what happens when it is damaged."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from app.monitor.handlers.outbox import Outbox
from app.monitor.history import schema
from app.monitor.history.schema import FILE, MIGRATIONS, NewerSchema, open_history, set_aside
from app.monitor.history.store import History
from tests.support.events import BASE, event, life, messages, new_id, take


def fill(folder: Path, tasks: int = 200) -> None:
    history = History(folder)
    history.write(messages(one for _ in range(tasks) for one in life(new_id())))
    history.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    history.close()


def aside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(f"{FILE}.damaged-*"))


def test_a_new_file_is_of_this_version(tmp_path: Path) -> None:
    connection = open_history(tmp_path)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_an_older_file_is_brought_to_this_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path)
    more = (*MIGRATIONS, "ALTER TABLE task ADD COLUMN colour TEXT;", "UPDATE task SET colour = 'red';")
    monkeypatch.setattr(schema, "MIGRATIONS", more)
    with caplog.at_level(logging.INFO, logger="warren.monitor"):
        connection = open_history(tmp_path)
    assert connection.execute("SELECT colour, count(*) FROM task").fetchall() == [("red", 200)]
    assert connection.execute("PRAGMA user_version").fetchone() == (len(more),)
    connection.close()
    assert len(caplog.messages) == 2
    caplog.clear()
    open_history(tmp_path).close()
    assert caplog.messages == []


def test_tasks_that_waited_for_another_try_before_that_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "MIGRATIONS", MIGRATIONS[:1])
    history = History(tmp_path)
    again = event("sent", 2, "told", retries=1)
    take(history, *life("told", end="started"), again, event("retried", 3, "told"), *life("not told", end="retried"))
    # As the version before left it.
    history.connection.execute("UPDATE task SET due = queued")
    history.close()
    monkeypatch.undo()
    connection = open_history(tmp_path)
    assert dict(connection.execute("SELECT id, due FROM task")) == {"told": BASE + 2, "not told": None}
    query = "EXPLAIN QUERY PLAN SELECT 1 FROM task WHERE state IN (0, 3) AND attention = 0 AND due < 1"
    assert "task_waiting (due<?)" in str(connection.execute(query).fetchall())
    connection.close()


def test_a_migration_that_fails_leaves_the_version_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path)
    broken = "ALTER TABLE task ADD COLUMN colour TEXT; UPDATE nothing SET a = 1;"
    monkeypatch.setattr(schema, "MIGRATIONS", (*MIGRATIONS, broken))
    with pytest.raises(sqlite3.OperationalError, match="nothing"):
        open_history(tmp_path)
    monkeypatch.undo()
    connection = open_history(tmp_path)
    assert "colour" not in [row[1] for row in connection.execute("PRAGMA table_info(task)")]
    assert connection.execute("SELECT count(*) FROM task").fetchone() == (200,)
    connection.close()


def test_a_later_versions_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    fill(tmp_path)
    path = tmp_path / FILE
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(NewerSchema) as caught:
        open_history(tmp_path)
    assert "later version" in str(caught.value)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before
    assert aside(tmp_path) == []


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no database. " * 5000)


def head_overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\x00" * 100)


def schema_overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 4000)


@pytest.mark.parametrize("harm", [garbage, head_overwritten, schema_overwritten])
def test_a_damaged_file_is_set_aside_and_a_new_one_begun(
    tmp_path: Path, harm: object, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path)
    assert callable(harm)
    harm(tmp_path / FILE)
    damaged = (tmp_path / FILE).read_bytes()
    history = History(tmp_path)
    assert (history.tasks, history.position) == (0, None)
    (kept,) = [name for name in aside(tmp_path) if not name.endswith(("-wal", "-shm"))]
    assert (tmp_path / kept).read_bytes() == damaged
    (line,) = caplog.messages
    assert "made again from the event log" in line
    history.write(messages(life()))
    history.close()
    again = History(tmp_path)
    assert again.tasks == 1
    again.close()


def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    (tmp_path / FILE).touch()
    history = History(tmp_path)
    assert history.tasks == 0
    history.close()
    assert aside(tmp_path) == []


def test_a_truncated_file_is_noticed(tmp_path: Path) -> None:
    fill(tmp_path, 5000)
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    try:
        history = History(tmp_path)
        history.write(messages((one for _ in range(5000) for one in life(new_id())), 5000))
    except sqlite3.DatabaseError as error:
        assert schema.damaged(error)
    else:
        assert aside(tmp_path)


def test_only_the_last_damaged_file_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for stamp in (1000.0, 2000.0):
        garbage(tmp_path / FILE)
        monkeypatch.setattr(schema, "time", lambda stamp=stamp: stamp)
        set_aside(tmp_path / FILE, sqlite3.DatabaseError("no"))
    assert aside(tmp_path) == [f"{FILE}.damaged-2000"]


def test_a_full_or_forbidden_disk_is_no_damage(tmp_path: Path) -> None:
    fill(tmp_path)
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorname = "SQLITE_FULL"
    assert not schema.damaged(error)
    error.sqlite_errorname = "SQLITE_IOERR_WRITE"
    assert not schema.damaged(error)
    error.sqlite_errorname = "SQLITE_CORRUPT_VTAB"
    assert schema.damaged(error)
    assert schema.damaged(sqlite3.DatabaseError("database disk image is malformed"))


@pytest.mark.parametrize("removed", [True, False], ids=["removed", "damaged"])
def test_who_still_reads_a_file_shares_nothing_with_the_one_that_takes_its_place(tmp_path: Path, removed: bool) -> None:
    path = tmp_path / FILE
    writer = schema.open_history(tmp_path)
    writer.execute("INSERT INTO word (text) VALUES ('old')")
    with closing(schema.connect(path, readonly=True)) as reader, closing(Outbox(path, "one")) as outbox:
        mapped = {path.with_name(path.name + suffix).stat().st_ino for suffix in schema.BESIDE}
        if removed:
            path.unlink()
            writer.close()
        else:
            writer.close()
            schema.set_aside(path, sqlite3.DatabaseError("database disk image is malformed"))
        with closing(schema.open_history(tmp_path)) as anew:
            anew.execute("INSERT INTO word (text) VALUES ('new')")
            assert not mapped & {path.with_name(path.name + suffix).stat().st_ino for suffix in schema.BESIDE}
            assert reader.execute("SELECT text FROM word").fetchall() == [("old",)]
            assert (outbox.moved(), outbox.read(0)) == (True, [])
            # Their end takes nothing from those who came after.
            outbox.close()
            reader.close()
            with closing(schema.connect(path, readonly=True)) as other:
                assert other.execute("SELECT text FROM word").fetchall() == [("new",)]
