"""Searches in the history, single tasks, families, charts."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import time
from typing import Any

import pytest

from app.monitor.history import reader as reading
from app.monitor.history import search, vocabulary
from app.monitor.history.filter import Filter
from app.monitor.history.reader import Reader
from app.monitor.history.schema import FILE
from app.monitor.history.store import History
from app.monitor.history.task import ATTENTION, as_id
from tests.support.events import BASE, event, life, new_id, take

NAMES = ("shop.tasks.pay", "shop.tasks.send", "mail.deliver")
ENDS = ("succeeded", "succeeded", "failed", "retried", "started", "received", "sent")
STATE_OF = {
    "succeeded": "SUCCESS",
    "failed": "FAILURE",
    "retried": "RETRY",
    "started": "STARTED",
    "received": "RECEIVED",
    "sent": "PENDING",
}


def moment(at: float) -> datetime:
    return datetime.fromtimestamp(BASE + at, UTC)


class Shop:
    """A history of a few hundred tasks, and what is known of each."""

    def __init__(self, folder: Path, count: int = 300) -> None:
        self.history = History(folder)
        self.known: list[dict[str, Any]] = []
        for number in range(count):
            end = ENDS[number % len(ENDS)]
            one: dict[str, Any] = {
                "id": f"task {number:04}" if number % 2 else new_id(),
                "name": NAMES[number % 3],
                "worker": f"celery@{number % 4}",
                "queue": ("default", "mail")[number % 5 == 0],
                "runtime": (number * 7 % 100) + 0.5,
                "wait": (number * 13 % 50) / 10 + 0.1,
                "attention": number % 9 if number % 9 < len(ATTENTION) else 0,
            }
            events = life(
                one["id"], number * 10, end, **{key: one[key] for key in ("name", "worker", "queue", "runtime", "wait")}
            )
            one |= {"state": STATE_OF[end], "time": max(float(each["timestamp"]) for each in events)}
            if end == "sent":
                one["worker"] = None
            self.known.append(one)
            take(self.history, *events)
            self.history.connection.execute(
                "UPDATE task SET attention = ? WHERE id = ?", (one["attention"], as_id(one["id"]))
            )
        self.reader = Reader(folder / FILE)

    def ids(self, **wanted: Any) -> list[str]:
        """Newest first."""
        matching = [one for one in self.known if all(one[key] in value for key, value in wanted.items())]
        return [one["id"] for one in sorted(matching, key=lambda one: -one["time"])]

    def found(self, **fields: Any) -> list[str]:
        return [one["id"] for one in pages(self.reader, **fields)]


def pages(reader: Reader, **fields: Any) -> list[dict[str, Any]]:
    """What all pages together have."""
    rows, cursor = [], None
    for _ in range(10_000):
        page = reader.tasks(Filter(cursor=cursor, **fields))
        rows += page.tasks
        cursor = page.next
        if cursor is None:
            return rows
    raise AssertionError("the pages have no end")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    made = Shop(tmp_path_factory.mktemp("shop"))
    yield made
    made.reader.close()
    made.history.close()


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    made = History(tmp_path)
    yield made
    made.close()


@pytest.fixture
def reader(history: History, tmp_path: Path) -> Iterator[Reader]:
    made = Reader(tmp_path / FILE)
    yield made
    made.close()


# --- filters

FILTERS: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {
    "states": [
        ({}, {}),
        ({"states": ("FAILURE",)}, {"state": {"FAILURE"}}),
        ({"states": ("SUCCESS",)}, {"state": {"SUCCESS"}}),
        ({"states": ("FAILURE", "REVOKED", "RETRY")}, {"state": {"FAILURE", "REVOKED", "RETRY"}}),
        ({"states": ("RETRY", "PENDING", "SUCCESS")}, {"state": {"RETRY", "PENDING", "SUCCESS"}}),
        ({"states": ("REVOKED",)}, {"state": {"REVOKED"}}),
    ],
    "name": [
        ({}, {}),
        ({"name": "mail.deliver"}, {"name": {"mail.deliver"}}),
        ({"name": "shop.*"}, {"name": set(NAMES[:2])}),
        ({"name": "*.tasks.?ay"}, {"name": {"shop.tasks.pay"}}),
        ({"name": "nothing.*"}, {"name": set()}),
        ({"name": "shop"}, {"name": set()}),
    ],
    "worker": [
        ({}, {}),
        ({"worker": "celery@1"}, {"worker": {"celery@1"}}),
        ({"worker": "celery@*"}, {"worker": {f"celery@{number}" for number in range(4)}}),
        ({"worker": "celery@9"}, {"worker": set()}),
    ],
    "attention": [
        ({}, {}),
        ({"attention": ("stalled",)}, {"attention": {2}}),
        ({"attention": ("orphaned", "unclaimed")}, {"attention": {1, 3}}),
        ({"attention": ("any",)}, {"attention": {1, 2, 3}}),
    ],
    "queue": [({}, {}), ({"queue": "mail"}, {"queue": {"mail"}}), ({"queue": "*a*"}, {"queue": {"mail", "default"}})],
}


@pytest.mark.parametrize("limit", [7, 50, 1000])
def test_every_combination_of_filters(shop: Shop, limit: int) -> None:
    for combination in itertools.product(*FILTERS.values()):
        asked = {key: value for fields, _ in combination for key, value in fields.items()}
        wanted = {key: value for _, fields in combination for key, value in fields.items()}
        assert shop.found(**asked, limit=limit) == shop.ids(**wanted), asked
        backwards = shop.found(**asked, limit=limit, sort="time")
        assert backwards == shop.ids(**wanted)[::-1], asked


def test_a_name_of_its_own_for_each_task(history: History, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "WORDS", 20)
    take(history, *(one for number in range(30) for one in life(str(number), name=f"report.{number:02}")))
    assert reader.names() == [f"report.{number:02}" for number in range(20)]
    assert len(pages(reader, name="report.1*")) == 10
    with pytest.raises(ValueError, match=r"name: 'report\.\*' stands for more than 20; write more of it"):
        reader.tasks(Filter(name="report.*"))


def test_from_and_until(shop: Shop) -> None:
    times = sorted(one["time"] - BASE for one in shop.known)
    for since, until in ((None, None), (times[50], None), (None, times[200]), (times[50], times[200]), (1e6, None)):
        # From `since` on, but not `until` itself.
        wanted = [
            one["id"]
            for one in sorted(shop.known, key=lambda one: -one["time"])
            if (since is None or one["time"] >= BASE + since) and (until is None or one["time"] < BASE + until)
        ]
        span = {"since": None if since is None else moment(since), "until": None if until is None else moment(until)}
        assert shop.found(**span) == wanted
        failed = [id_ for id_ in wanted if id_ in shop.ids(state={"FAILURE"})]
        assert shop.found(**span, states=("FAILURE",)) == failed
        named = [id_ for id_ in wanted if id_ in shop.ids(name={"mail.deliver"}, worker={"celery@2"})]
        assert shop.found(**span, name="mail.deliver", worker="celery@2", limit=3) == named


@pytest.mark.parametrize("column", ["runtime", "wait"])
@pytest.mark.parametrize("down", [True, False])
@pytest.mark.parametrize("limit", [10, 1000])
def test_by_runtime_and_wait(shop: Shop, column: str, down: bool, limit: int) -> None:
    rows = pages(shop.reader, sort=f"-{column}" if down else column, limit=limit)
    values = [row[column] for row in rows]
    assert values == sorted(values, reverse=down)
    assert None not in values
    has = {"runtime": {"SUCCESS", "FAILURE"}, "wait": {"SUCCESS", "FAILURE", "RETRY", "STARTED", "RECEIVED"}}[column]
    assert sorted(row["id"] for row in rows) == sorted(shop.ids(state=has))
    slowest = pages(shop.reader, sort="-runtime", name="mail.deliver", states=("SUCCESS",), limit=3)
    assert sorted(row["id"] for row in slowest) == sorted(shop.ids(name={"mail.deliver"}, state={"SUCCESS"}))


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"limit": 0}, "limit must be 1 to 1000"),
        ({"limit": 1001}, "limit must be 1 to 1000"),
        ({"sort": "name"}, "sort must be one of -time"),
        ({"states": ("FAILED",)}, "'FAILED' is no state"),
        ({"attention": ("bored",)}, "attention must be any"),
        ({"text": "a", "sort": "time"}, "leave out sort"),
        *(
            ({"cursor": cursor}, "cursor must be")
            for cursor in ("x", "1_2", "nan_1_0", "1_2_3_4", "1e300_1_0", "1_-1_0")
        ),
        ({"cursor": f"1_{2**63}_0"}, "cursor must be"),
        ({"cursor": "1_1_99999999"}, "cursor must be"),
    ],
)
def test_what_makes_no_sense_is_said(shop: Shop, fields: dict[str, Any], part: str) -> None:
    with pytest.raises(ValueError, match=part) as caught:
        shop.reader.tasks(Filter(**fields))
    assert "\n" not in str(caught.value)


# --- pages


def test_pages_while_others_write(history: History, reader: Reader) -> None:
    ids = [f"task {number:04}" for number in range(400)]
    take(history, *(one for number, id_ in enumerate(ids) for one in life(id_, number)))
    # These change all the time, and what changes goes to the front; the others must come once each.
    restless = set(ids[::7])
    chance = random.Random(4)
    seen: list[str] = []
    cursor, number = None, 0
    while True:
        page = reader.tasks(Filter(limit=9, cursor=cursor))
        seen += [one["id"] for one in page.tasks]
        cursor = page.next
        if cursor is None:
            break
        number += 1
        take(history, event("received", 1000 + number, chance.choice(sorted(restless))), *life(new_id(), 2000 + number))
    calm = [id_ for id_ in seen if id_ in ids and id_ not in restless]
    assert calm == [id_ for id_ in ids[::-1] if id_ not in restless]


def test_tasks_that_changed_at_the_same_moment(history: History, reader: Reader) -> None:
    ids = {f"task {number}" for number in range(100)}
    take(history, *(one for id_ in ids for one in life(id_)))
    for sort in ("-time", "time"):
        for fields in (
            {},
            {"states": ("SUCCESS",)},
            {"name": "app.tasks.add"},
            {"worker": "celery@one", "queue": "default"},
        ):
            found = [one["id"] for one in pages(reader, limit=7, sort=sort, **fields)]
            assert len(found) == 100
            assert set(found) == ids


def test_a_search_that_takes_too_long_goes_on_by_its_cursor(
    history: History, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "BUDGET", -1.0)
    monkeypatch.setattr(search, "STRETCH", 20)
    monkeypatch.setattr(search, "STRETCH_LIMIT", 20)
    rare = [f"rare {number}" for number in range(5)]
    for number in range(500):
        id_ = rare[number // 100] if number % 100 == 50 else f"task {number}"
        take(
            history,
            *life(id_, number, args="'needle'" if id_ in rare else "'hay'", queue="rare" if id_ in rare else "q"),
        )
    first = reader.tasks(Filter(queue="rare", worker="celery@one", limit=3))
    assert first.tasks == []
    assert first.next is not None
    for fields in ({"queue": "rare"}, {"queue": "rare", "states": ("SUCCESS", "FAILURE"), "worker": "celery@one"}):
        assert [one["id"] for one in pages(reader, limit=3, **fields)] == rare[::-1]
        assert [one["id"] for one in pages(reader, limit=3, sort="time", **fields)] == rare
    history.connection.execute("UPDATE task SET attention = 1 + key % 3")
    kinds: dict[str, Any] = {"attention": ("any",), "queue": "rare"}
    first = reader.tasks(Filter(**kinds))
    # Each kind is looked through as far as the others.
    assert [one["id"] for one in first.tasks] == rare[:3:-1]
    assert first.next is not None
    assert [one["id"] for one in pages(reader, limit=3, **kinds)] == rare[::-1]
    assert [one["id"] for one in pages(reader, limit=3, sort="time", **kinds)] == rare
    for fields in ({"text": "needle"}, {"text": "ed"}, {"text": "needle", "queue": "rare"}):
        assert [one["id"] for one in pages(reader, limit=3, **fields)] == rare[::-1], fields


# --- texts

TEXTS = {
    "plain": "the Quick brown fox",
    "quotes": """it's "quoted" here""",
    "signs": "100% of a_b*c?[d] \\ (e) -f NEAR(g h) AND OR NOT",
    "umlauts": "Größe Ärger ÉCOLE",
    "kanji": "日本語のテキスト",
    "cyrillic": "Привет МИР",
    "emoji": "ready \U0001f680 go",
    "lines": "first\nsecond\tthird",
    "markup": "<script>alert(1)</script>",
    "long": "x" * 3000 + "needle" + "y" * 3000,
}
FIELDS = ("args", "kwargs", "result", "exception", "traceback")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("library")
    history = History(folder)
    for number, (id_, text) in enumerate(TEXTS.items()):
        field = FIELDS[number % len(FIELDS)]
        kind = {"result": "succeeded", "exception": "failed", "traceback": "failed"}.get(field, "received")
        take(history, event(kind, number, id_, **{field: text}))
    history.close()
    reader = Reader(folder / FILE)
    yield reader
    reader.close()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        *(
            ("quick", ["plain"]),
            ("QUICK BROWN", ["plain"]),
            ("k b", ["plain"]),
            ("x", ["plain", "long"]),
        ),
        *(('"quoted"', ["quotes"]), ("it's", ["quotes"]), ("'", ["quotes"]), ('"', ["quotes"]), ('s "q', ["quotes"])),
        *(
            ("100%", ["signs"]),
            ("%", ["signs"]),
            ("a_b", ["signs"]),
            ("_", ["signs"]),
            ("b*c", ["signs"]),
            ("*", ["signs"]),
        ),
        *(
            ("\\", ["signs"]),
            ("NEAR(", ["signs"]),
            ("AND OR", ["signs"]),
            ("-f n", ["signs"]),
            ("a%b", []),
            ("axb", []),
        ),
        *(("größe", ["umlauts"]), ("GRÖ", ["umlauts"]), ("är", ["umlauts"]), ("école", ["umlauts"])),
        *(
            ("日本", ["kanji"]),
            ("本語の", ["kanji"]),
            ("日", ["kanji"]),
            ("привет", ["cyrillic"]),
            ("мир", ["cyrillic"]),
        ),
        *(("\U0001f680", ["emoji"]), ("y \U0001f680 g", ["emoji"]), ("first\nsecond", ["lines"]), ("d\tt", ["lines"])),
        *(("<script>", ["markup"]), ("xneedley", ["long"]), ("NEEDLE", ["long"]), ("absent", []), ("zzz", [])),
        *(("  quick  ", ["plain"]), ("kanji", ["kanji"]), ("signs", ["signs"])),
    ],
)
def test_any_part_of_any_text_is_found(library: Reader, text: str, wanted: list[str]) -> None:
    assert sorted(one["id"] for one in pages(library, text=text, limit=2)) == sorted(wanted)


def test_texts_in_a_row_are_no_text(history: History, reader: Reader) -> None:
    # Its three letters are all there, but not in this order.
    take(history, *life("a", args="abcd bcde", end="received"))
    assert reader.tasks(Filter(text="abcde")).tasks == []
    assert len(reader.tasks(Filter(text="abcd b")).tasks) == 1


def test_text_with_other_filters(shop: Shop) -> None:
    assert shop.found(text="valueerror") == shop.ids(state={"FAILURE"})
    assert shop.found(text="valueerror", name="shop.*", worker="celery@2", limit=4) == shop.ids(
        state={"FAILURE"}, name=set(NAMES[:2]), worker={"celery@2"}
    )
    assert shop.found(text="valueerror", states=("SUCCESS",)) == []
    assert shop.found(text="no", queue="mail") == shop.ids(state={"FAILURE"}, queue={"mail"})
    span = {"since": moment(1000), "until": moment(2000)}
    in_time = {one["id"] for one in shop.known if BASE + 1000 <= one["time"] < BASE + 2000}
    assert set(shop.found(text="valueerror", **span)) == in_time & set(shop.ids(state={"FAILURE"}))


def test_a_text_that_changed_is_found_as_it_is_now(history: History, reader: Reader) -> None:
    take(history, event("retried", 1, "a", exception="OldError()", traceback="old trace"))
    take(history, event("failed", 2, "a", exception="NewError()", traceback="new trace"))
    assert reader.tasks(Filter(text="OldError")).tasks == []
    assert reader.tasks(Filter(text="old trace")).tasks == []
    assert [one["id"] for one in reader.tasks(Filter(text="newerr")).tasks] == ["a"]


def test_ids_are_found_as_text(shop: Shop) -> None:
    uuid, words = shop.known[0]["id"], shop.known[1]["id"]
    assert shop.found(text=uuid) == [uuid]
    assert shop.found(text=f" {words} ") == [words]


# --- single tasks


def test_everything_of_one_task(history: History, reader: Reader) -> None:
    id_ = new_id()
    take(history, *life(id_, end="failed"))
    found = reader.task(id_)
    assert found is not None
    assert {key: found[key] for key in ("id", "name", "state", "queue", "worker", "sender", "root", "parent")} == {
        "id": id_,
        "name": "app.tasks.add",
        "state": "FAILURE",
        "queue": "default",
        "worker": "celery@one",
        "sender": "gen1@client",
        "root": id_,
        "parent": None,
    }
    assert found["traceback"].startswith("Traceback:")
    assert (found["sent"], found["finished"]) == ("2023-11-14T22:13:20.000Z", "2023-11-14T22:13:23.250Z")
    assert [step["state"] for step in found["steps"]] == ["PENDING", "RECEIVED", "STARTED", "FAILURE"]
    assert reader.task("another") is None
    assert reader.task("") is None
    # Of another writing it is another id.
    assert reader.task(id_.upper()) is None


def test_a_family(history: History, reader: Reader) -> None:
    root, child, grandchild, other = (new_id() for _ in range(4))
    take(
        history,
        *life(root, 0),
        *life(child, 10, root_id=root, parent_id=root),
        *life(grandchild, 20, root_id=root, parent_id=child, end="failed"),
        *life(other, 30),
    )
    assert [one["id"] for one in reader.family(root)] == [root, child, grandchild]
    assert [(one["root"], one["parent"]) for one in reader.family(root)] == [(root, None), (root, root), (root, child)]
    assert [one["id"] for one in (reader.task(root) or {})["children"]] == [child]
    assert [one["id"] for one in (reader.task(child) or {})["children"]] == [grandchild]
    assert [one["id"] for one in pages(reader, root=root, limit=1)] == [grandchild, child]
    assert [one["id"] for one in reader.family(other)] == [other]
    assert reader.family("nobody") == []


def test_a_large_family_is_cut(history: History, reader: Reader) -> None:
    root = new_id()
    for number in range(reading.FAMILY + 20):
        take(history, event("sent", number, f"child {number:04}", root_id=root, parent_id=root))
    assert len(reader.family(root)) == reading.FAMILY
    take(history, *life(root))
    children = (reader.task(root) or {})["children"]
    assert [one["id"] for one in children] == [f"child {number:04}" for number in range(reading.CHILDREN)]


def test_a_task_that_is_its_own_parent(history: History, reader: Reader) -> None:
    take(history, event("sent", 1, "a", root_id="a", parent_id="a"))
    assert [one["id"] for one in (reader.task("a") or {})["children"]] == ["a"]
    assert [one["id"] for one in reader.family("a")] == ["a"]


# --- counts and charts


def test_counts(history: History, reader: Reader) -> None:
    now = time() - 60
    for number, end in enumerate(
        ("succeeded", "succeeded", "failed", "revoked", "rejected", "retried", "started", "sent")
    ):
        take(history, *life(f"task {number}", now - 100, end))
    take(history, *life("old", now - 3 * 86_400), *life("old and waiting", now - 3 * 86_400, "sent"))
    assert reader.counts() == {
        "states": {
            "PENDING": 2,
            "RECEIVED": 0,
            "STARTED": 1,
            "RETRY": 1,
            "SUCCESS": 2,
            "FAILURE": 1,
            "REVOKED": 1,
            "REJECTED": 1,
        },
        "attention": {"unclaimed": 0, "stalled": 0, "orphaned": 0},
    }


def test_a_chart(history: History, reader: Reader) -> None:
    start = BASE - BASE % 60 + 60
    for minute in range(10):
        for number in range(minute + 1):
            end = "failed" if number == 9 else "succeeded"
            take(history, *life(f"{minute} {number}", start + minute * 60, end, runtime=float(minute + 1)))
    take(
        history, *life("other", start + 30, "retried", name="other"), *life("gone", start + 30, "revoked", name="other")
    )
    span = (datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(start + 600, UTC))
    points = reader.chart(*span, 10, None)
    assert [one["succeeded"] for one in points] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 9]
    assert [one["failed"] for one in points] == [0] * 9 + [1]
    assert (points[0]["retried"], points[0]["revoked"]) == (1, 1)
    assert [one["runtime_mean"] for one in points] == [pytest.approx(minute + 1.0) for minute in range(10)]
    assert [one["runtime_max"] for one in points] == [minute + 1.0 for minute in range(10)]
    five = reader.chart(*span, 5, "app.*")
    assert [one["succeeded"] for one in five] == [3, 7, 11, 15, 18]
    assert five[0]["retried"] == 0
    assert five[1]["time"] == datetime.fromtimestamp(start + 120, UTC).isoformat(timespec="milliseconds").replace(
        "+00:00", "Z"
    )
    nothing = reader.chart(*span, 5, "nothing")
    assert [one["succeeded"] for one in nothing] == [0] * 5
    assert nothing[0]["runtime_mean"] is None
    assert reader.chart(span[1], span[0], 5, None) == []
    assert len(reader.chart(*span, 1000, None)) == 10


def test_names_and_queues(shop: Shop, history: History, reader: Reader) -> None:
    assert shop.reader.names() == sorted(NAMES)
    # Nobody sent anything lately.
    assert shop.reader.queues() == []
    take(history, *life("a", time() - 60, queue="new"), *life("b", time() - 3 * 86_400, queue="old"))
    assert reader.queues() == ["new"]


def test_an_empty_history(reader: Reader) -> None:
    assert reader.tasks(Filter()).tasks == []
    assert reader.tasks(Filter(text="abc")).next is None
    assert reader.tasks(Filter(name="*", worker="*", states=("SUCCESS",))).tasks == []
    assert (reader.names(), reader.queues(), reader.workers(), reader.family("a")) == ([], [], [], [])
    assert set(reader.counts()["states"].values()) == {0}
    # Eleven whole minutes, in steps of two.
    assert len(reader.chart(moment(0), moment(600), 10, None)) == 6
