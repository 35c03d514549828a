"""The history's writer: what is in one transaction, and what is left when it fails."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from app.events.decoder import Decoder
from app.monitor.history.reader import Reader
from app.monitor.history.schema import FILE
from app.monitor.history.store import History, Told
from app.monitor.history.words import LIMIT as WORDS_KEPT
from app.monitor.history.words import Words
from tests.support.events import BASE, Event, body, event, heartbeat, life, messages, new_id, take


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    made = History(tmp_path)
    yield made
    made.close()


def everything(path: Path) -> dict[str, list[Any]]:
    """All rows of all tables, as another connection sees them."""
    connection = sqlite3.connect(f"{(path / FILE).as_uri()}?mode=ro", uri=True)
    try:
        tables = [
            row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")
        ]
        return {table: connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in tables}
    finally:
        connection.close()


def checked(history: History) -> None:
    """The database is whole, and its index of texts is in step with its rows."""
    assert history.connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    history.connection.execute("INSERT INTO task_text (task_text, rank) VALUES ('integrity-check', 1)")


def test_what_was_written_is_there_after_a_restart(history: History, tmp_path: Path) -> None:
    ids = [new_id() for _ in range(50)]
    sent = messages(one for id_ in ids for one in life(id_))
    told = history.write(sent)
    assert len(told) == 200
    assert history.tasks == 50
    history.close()
    again = History(tmp_path)
    assert again.tasks == 50
    assert again.position == (sent[-1][0], crc32(sent[-1][1]))
    assert again.position is not None
    assert again.position.is_of(*sent[-1])
    assert not again.position.is_of(sent[-1][0], b"another log's")
    # And what comes again is recognised.
    assert again.write(sent) == []
    assert again.tasks == 50
    checked(again)
    again.close()


def test_however_events_are_divided_into_transactions_the_history_is_the_same(tmp_path: Path) -> None:
    lives = [
        life(f"task-{number}", number / 7, end) for number in range(30) for end in ("succeeded", "failed", "retried")
    ]
    every = sorted((one for each in lives for one in each), key=lambda one: float(one["timestamp"]))
    shown = []
    for size in (1, 7, 1000):
        folder = tmp_path / str(size)
        folder.mkdir()
        history = History(folder)
        sent = messages(every, batch=5)
        for start in range(0, len(sent), size):
            history.write(sent[start : start + size])
        reader = Reader(folder / FILE)
        shown.append((reader.task("task-3"), reader.task("task-29"), reader.names(), reader.counts()))
        checked(history)
        history.close()
        reader.close()
    assert shown[0] == shown[1] == shown[2]


def test_an_error_in_what_else_is_written_leaves_nothing(history: History, tmp_path: Path) -> None:
    take(history, *life("kept"), heartbeat(1))
    before, position = everything(tmp_path), history.position
    known = {name: copy(one) for name, one in history.workers.known.items()}

    def fail(told: list[Told]) -> None:
        assert len(told) == 6
        history.connection.execute("INSERT INTO outbox (handler, event) VALUES ('a', 'b')")
        raise RuntimeError("no")

    unheard = [*life("new", name="never.heard", worker="celery@new"), heartbeat(2, "celery@new"), heartbeat(5)]
    with pytest.raises(RuntimeError):
        history.write(messages(unheard, 7, batch=6), fail)
    assert everything(tmp_path) == before
    assert (history.position, history.tasks) == (position, 1)
    assert history.workers.known == known
    # The numbers of its words were given to nobody, and must not be remembered.
    take(history, *life("other", name="other.name", worker="celery@other"))
    history.write(messages(unheard, 9, batch=6))
    reader = Reader(tmp_path / FILE)
    shown = {id_: (reader.task(id_) or {}) for id_ in ("kept", "other", "new")}
    assert [(one["name"], one["worker"]) for one in shown.values()] == [
        ("app.tasks.add", "celery@one"),
        ("other.name", "celery@other"),
        ("never.heard", "celery@new"),
    ]
    assert history.tasks == 3
    reader.close()
    checked(history)


def test_minutes_of_a_transaction_that_failed_are_not_counted(history: History, tmp_path: Path) -> None:
    def fail(_: list[Told]) -> None:
        raise RuntimeError

    for _ in range(3):
        with pytest.raises(RuntimeError):
            history.write(messages(life("a")), fail)
    history.write(messages(life("a")))
    assert [row[3] for row in everything(tmp_path)["minute"]] == [1]


def test_what_is_malformed_is_counted_once_however_often_it_is_tried(history: History) -> None:
    def fail(_: list[Told]) -> None:
        raise RuntimeError

    counts = history.decoder.malformed
    history.write([(0, b"hello")])
    for _ in range(3):
        with pytest.raises(RuntimeError):
            history.write([(1, b"hello"), (2, b"5")], fail)
    assert counts == {"not JSON": 1}
    history.write([(1, b"hello"), (2, b"5")])
    assert counts == {"not JSON": 2, "not an object": 1}
    assert history.decoder.malformed is counts


def test_the_position_moves_past_messages_without_events(history: History) -> None:
    history.write([(3, b"hello"), (7, b"[]")])
    assert history.position == (7, crc32(b"[]"))
    history.write([])
    assert history.position == (7, crc32(b"[]"))


def test_a_log_that_starts_over_doubles_nothing(history: History) -> None:
    take(history, *life("a"))
    history.start_over()
    assert history.position is None
    told = history.write(messages([*life("a"), *life("b")], batch=8))
    assert {one.event.uuid for one in told} == {"b"}


def test_ids_of_all_kinds_are_different_tasks(history: History, tmp_path: Path) -> None:
    uuid = new_id()
    ids = [
        uuid,
        uuid.upper(),
        uuid.replace("-", ""),
        "x" * 500,
        "x" * 499,
        "order 7",
        "\x00",
        "a\x00b",
        "a",
        "ö",
        "日本",
        "a" * 36,
    ]
    take(history, *(one for id_ in ids for one in life(id_)))
    assert history.tasks == len(ids)
    reader = Reader(tmp_path / FILE)
    assert [(reader.task(id_) or {}).get("id") for id_ in ids] == ids
    reader.close()
    # Each is found again.
    assert take(history, *(one for id_ in ids for one in life(id_))) == []
    checked(history)


def test_a_name_that_comes_late(history: History) -> None:
    first = take(history, event("started", 2, "a"))
    assert [one.name for one in first] == ["unknown"]
    later = take(history, event("succeeded", 3, "a"), event("received", 1, "a", name="app.tasks.add"))
    assert [one.name for one in later] == ["unknown", "app.tasks.add"]


@pytest.mark.parametrize(
    "fields",
    [
        {"traceback": "only this"},
        {"exception": "", "traceback": "T"},
        {"exception": "E", "traceback": ""},
        {"exception": None, "traceback": None},
        {"exception": "\x00", "traceback": "a\x00b"},
        {"exception": "ß" * 5000, "traceback": "日本" * 9000},
    ],
)
def test_the_index_of_texts_stays_in_step(history: History, fields: dict[str, Any]) -> None:
    take(history, event("failed", 1, "a", **fields))
    checked(history)
    take(history, event("received", 0.5, "a", args="(1,)"))
    checked(history)
    take(history, event("received", 5, "a"), event("succeeded", 6, "a", result="fine"))
    checked(history)


def test_many_ids_at_once(history: History) -> None:
    ids = [new_id() if number % 2 else f"id {number}" for number in range(25_000)]
    take(history, *(event("sent", number, id_) for number, id_ in enumerate(ids)))
    told = take(history, *(event("received", number + 1, id_) for number, id_ in enumerate(ids)))
    assert len(told) == len(ids)
    assert history.tasks == len(ids)


def test_more_words_than_are_kept_in_memory(history: History) -> None:
    words = Words(history.connection)
    keys = [words.key(f"name {number}") for number in range(WORDS_KEPT + 10)]
    assert len(set(keys)) == len(keys)
    assert words.text(keys[0]) == "name 0"
    assert words.key("name 1") == keys[1]
    assert (words.key(None), words.text(0), words.text(None), words.text(10**9)) == (0, None, None, None)


def test_a_message_with_the_limits_of_everything(history: History, tmp_path: Path) -> None:
    long = "x" * 300_000
    fields = dict.fromkeys(("args", "kwargs", "result", "exception", "traceback", "eta", "expires", "queue"), long)
    odd: Event = {**event("failed", 1, "y" * 500, "h" * 500, name="n" * 500, retries=2**53, **fields)}
    decoder = Decoder()
    assert len(decoder.events(0, body(odd))) == 1
    take(history, odd)
    take(history, event("succeeded", 2, "y" * 500, runtime=1e308), event("succeeded", 1.5, "y" * 500, runtime=1e308))
    reader = Reader(tmp_path / FILE)
    assert (reader.task("y" * 500) or {})["time"] is not None
    reader.close()
    checked(history)


def test_offsets_and_times_fit(history: History) -> None:
    history.write([(2**62, body(event("sent", BASE, "a")))])
    assert history.position is not None
    assert history.position.offset == 2**62
