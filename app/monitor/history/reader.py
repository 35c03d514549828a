"""The reading side of the history: searches, single tasks, families, workers, charts.

Each search does a bounded amount of work. What it did not get to comes by the page's cursor.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from time import monotonic, time
from typing import Any, TypeAlias

import msgspec

from app.monitor.history import shape
from app.monitor.history.aggregates import COUNTED
from app.monitor.history.clock import rfc3339
from app.monitor.history.schema import connect
from app.monitor.history.store import COLUMNS, SELECT, task_of
from app.monitor.history.task import ATTENTION, FAILURE, RETRY, REVOKED, STATES, SUCCESS, Task, as_id

__all__ = ["Filter", "Page", "Reader"]

Row: TypeAlias = dict[str, Any]

# KiB of pages: the upper levels of the indexes that searches go through.
CACHE = 6_000
# Seconds that a search goes on looking for more where little matches; half of what people take for at once, with the
# answer still to be written.
BUDGET = 0.025
# Entries of an index that are looked through between two looks at the clock: 1 to 6 ms of work.
STRETCH = 4_000
STRETCH_LIMIT = 20_000
# Tasks counted one by one; there are more than that only while something is very wrong.
COUNT_LIMIT = 200_000
# Tasks among which a search by runtime or wait sorts: those that match and changed last.
SORTED_AMONG = 5_000
# Letters that the index of texts needs; shorter texts are looked for in the rows themselves.
TRIGRAM = 3
# Names that a pattern may stand for, and that are listed. There are more only where each task has a name of its own; and
# SQLite takes no more than 32,766 values in a question.
WORDS = 10_000
# Tasks of a family, and children of a task, that are shown.
FAMILY = 500
CHILDREN = 100
LIMIT = 1_000
# Seconds without a heartbeat after which a worker is not taken for alive: as Celery, two of its 2 s, and as much again
# for a monitor that lags a little.
ALIVE = 8.0

SORTS = ("-time", "time", "-runtime", "runtime", "-wait", "wait")


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks, and in which order. What is empty filters nothing."""

    states: tuple[str, ...] = ()
    attention: tuple[str, ...] = ()
    """Any of unclaimed, stalled, orphaned; "any" for all of them."""
    name: str | None = None
    """Exact, or a pattern with ``*``."""
    worker: str | None = None
    queue: str | None = None
    since: datetime | None = None
    """Changed last at this time or later; ``until``: before it."""
    until: datetime | None = None
    text: str | None = None
    """A part of arguments, result, exception or traceback in any case; or a whole id."""
    root: str | None = None
    sort: str = "-time"
    """``-time`` or ``time``; by runtime or wait among the 5,000 that changed last."""
    limit: int = 50
    cursor: str | None = None


class Page(msgspec.Struct):
    """What was found, and where to go on; a page that is not full may have more behind it."""

    tasks: list[Row]
    next: str | None


class Place(msgspec.Struct, array_like=True, frozen=True):
    """Where a search goes on: behind a task (time, key), or behind so many of a sorted list."""

    time: float
    key: int
    skip: int = 0


class Reader:
    """One read-only connection to a history, for one thread at a time.

    Raises:
        sqlite3.DatabaseError: there is no history, or it is damaged; open another Reader then.
    """

    def __init__(self, path: Path) -> None:
        self._connection = connect(path, readonly=True, cache=CACHE)
        self._words: dict[int, str] = {}

    def close(self) -> None:
        self._connection.close()

    # --- searches

    def tasks(self, filter: Filter) -> Page:
        """Tasks that match.

        Raises:
            ValueError: the filter makes no sense; the text says which part of it.
        """
        check(filter)
        place = decode_cursor(filter.cursor)
        keys = self._keys_of(filter)
        if keys is None:
            return Page([], None)
        if filter.text:
            return self._by_text(filter, keys, place)
        if filter.sort not in {"time", "-time"}:
            return self._sorted(filter, keys, place)
        return self._by_time(filter, keys, place)

    def _keys_of(self, filter: Filter) -> dict[str, list[Any]] | None:
        """The filter in the numbers that the tables have, by column; None where nothing can match."""
        keys: dict[str, list[Any]] = {}
        if filter.states:
            keys["state"] = [STATES.index(state) for state in filter.states]
        if filter.attention:
            wanted = ATTENTION[1:] if "any" in filter.attention else filter.attention
            keys["attention"] = [ATTENTION.index(one) for one in wanted]
        for column in ("name", "worker", "queue"):
            if asked := getattr(filter, column):
                keys[column] = self._word_keys(column, asked)
        if filter.root:
            keys["root"] = [as_id(filter.root)]
        return None if any(not values for values in keys.values()) else keys

    def _word_keys(self, column: str, asked: str) -> list[int]:
        if "*" not in asked and "?" not in asked:
            row = self._connection.execute("SELECT key FROM word WHERE text = ?", (asked,)).fetchone()
            return [row[0]] if row else []
        # Queues are not worth an index of their own; there are few words that look like one.
        words = self._connection.execute("SELECT key, text FROM word") if column == "queue" else self._distinct(column)
        found = [key for key, text in words if fnmatch.fnmatchcase(text, asked)]
        if len(found) > WORDS:
            raise ValueError(f"{column}: {asked!r} stands for more than {WORDS:,}; write more of it")
        return found

    def _distinct(self, column: str) -> Iterator[tuple[int, str]]:
        """The words that ``column`` has, by hopping through its index."""
        query = f"""
            WITH RECURSIVE hop (value) AS (
                SELECT min({column}) FROM task
                UNION ALL SELECT (SELECT min({column}) FROM task WHERE {column} > value) FROM hop WHERE value IS NOT NULL
            )
            SELECT key, text FROM hop JOIN word ON key = value
        """  # noqa: S608 - columns of our own
        yield from self._connection.execute(query)

    def _conditions(self, filter: Filter, keys: dict[str, list[Any]]) -> tuple[list[str], list[Any]]:
        conditions, values = [], []
        for column, wanted in keys.items():
            conditions.append(f"{column} IN ({','.join('?' * len(wanted))})")
            values += wanted
        if filter.since is not None:
            conditions.append("time >= ?")
            values.append(filter.since.timestamp())
        if filter.until is not None:
            conditions.append("time < ?")
            values.append(filter.until.timestamp())
        return conditions, values

    def _by_time(self, filter: Filter, keys: dict[str, list[Any]], place: Place | None) -> Page:
        """By the index that leaves the least to look through; no further than the budget."""
        down = filter.sort == "-time"
        found, last, more = self._look(filter, keys, place, filter.limit + 1, down)
        if len(found) > filter.limit:
            found = found[: filter.limit]
            last, more = found[-1], True
        return Page(self._summaries(key for _, key in found), encode_cursor(Place(*last)) if more and last else None)

    def _look(
        self,
        filter: Filter,
        keys: dict[str, list[Any]],
        place: Place | None,
        limit: int,
        down: bool,
        parts: int = 1,
    ) -> tuple[list[tuple[float, int]], tuple[float, int] | None, bool]:
        """Times and keys of what matches, where looking ended, and whether there may be more; of so many ``parts`` one."""
        index = self._index(keys)
        lead = LEADS.get(index)
        if lead in {"attention", "state"} and len(keys[lead]) > 1:
            return self._one_by_one(filter, keys, lead, place, limit, down)
        conditions, values = self._conditions(filter, keys)
        # SQLite sees only from this that the index has all that is asked for.
        conditions += PARTIAL.get(index, ())
        order = "DESC" if down else "ASC"
        if place is not None:
            conditions.append(f"(time, key) {'<' if down else '>'} (?, ?)")
            values += [place.time, place.key]
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        if index == "task_root" or not (keys.keys() - {lead}):
            # Every entry of the index that is looked at matches, or there are few of them.
            query = f"SELECT time, key FROM task INDEXED BY {index} {where} ORDER BY time {order}, key {order} LIMIT ?"  # noqa: S608
            found = self._connection.execute(query, (*values, limit)).fetchall()
            return found, found[-1] if found else None, len(found) >= limit
        return self._bounded(filter, keys, place, limit, index, order, parts)

    def _one_by_one(
        self,
        filter: Filter,
        keys: dict[str, list[Any]],
        lead: str,
        place: Place | None,
        limit: int,
        down: bool,
    ) -> tuple[list[tuple[float, int]], tuple[float, int] | None, bool]:
        """As :meth:`_look`, for each value of ``lead`` by itself: only so is what its index finds in the order of time."""
        values = keys[lead]
        looks = [self._look(filter, {**keys, lead: [one]}, place, limit, down, len(values)) for one in values]
        ends = [last for _, last, more in looks if more and last is not None]
        # Behind where the first of them ended, it may have more.
        edge = (max(ends) if down else min(ends)) if ends else None
        found = sorted((one for some, _, _ in looks for one in some), reverse=down)
        if edge is not None:
            found = [one for one in found if (one >= edge if down else one <= edge)]
        return (found[:limit], found[limit - 1], True) if len(found) > limit else (found, edge, edge is not None)

    def _bounded(
        self,
        filter: Filter,
        keys: dict[str, list[Any]],
        place: Place | None,
        limit: int,
        index: str,
        order: str,
        parts: int,
    ) -> tuple[list[tuple[float, int]], tuple[float, int] | None, bool]:
        """As :meth:`_look`, in growing stretches of the index while the budget lasts."""
        lead = LEADS.get(index)
        inner, inner_values = self._conditions(filter, {lead: keys[lead]} if lead in keys else {})
        inner += PARTIAL.get(index, ())
        outer, outer_values = self._conditions(Filter(), {column: keys[column] for column in keys if column != lead})
        beyond, within = ("<", ">=") if order == "DESC" else (">", "<=")
        source = f"SELECT time, key FROM task INDEXED BY {index} WHERE"  # noqa: S608 - names of our own, values are bound
        by_time = f"ORDER BY time {order}, key {order} LIMIT"
        end = monotonic() + BUDGET / parts
        found: list[tuple[float, int]] = []
        last: tuple[float, int] | None = (place.time, place.key) if place else None
        stretch = STRETCH
        while True:
            rest, values = [*inner, "1"], [*inner_values]
            if last is not None:
                rest.append(f"(time, key) {beyond} (?, ?)")
                values += last
            # Where the stretch ends is found first; a search without an end could not be interrupted and gone on with.
            edge = self._connection.execute(
                f"{source} {' AND '.join(rest)} {by_time} 1 OFFSET {stretch}", values
            ).fetchone()
            if edge is not None:
                rest.append(f"(time, key) {within} (?, ?)")
                values += edge
            query = f"{source} {' AND '.join([*rest, *outer])} {by_time} ?"
            found += self._connection.execute(query, (*values, *outer_values, limit - len(found))).fetchall()
            if len(found) >= limit:
                return found, found[-1], True
            if edge is None or monotonic() > end:
                return found, edge, edge is not None
            last = edge
            stretch = min(2 * stretch, STRETCH_LIMIT)

    def _index(self, keys: dict[str, list[Any]]) -> str:
        if "root" in keys:
            return "task_root"
        if "attention" in keys:
            return "task_attention"
        if "name" in keys and len(keys["name"]) == 1:
            return "task_name"
        if "state" in keys and SUCCESS not in keys["state"] and len(keys) == 1:
            return "task_state"
        if "worker" in keys and len(keys["worker"]) == 1:
            return "task_worker"
        return "task_time"

    def _sorted(self, filter: Filter, keys: dict[str, list[Any]], place: Place | None) -> Page:
        column = filter.sort.removeprefix("-")
        found, _, _ = self._look(filter, keys, None, SORTED_AMONG, True)
        order = "DESC" if filter.sort.startswith("-") else "ASC"
        skip = place.skip if place else 0
        query = f"""
            SELECT key FROM task WHERE key IN (SELECT value FROM json_each(?)) AND {column} IS NOT NULL
            ORDER BY {column} {order}, key LIMIT ? OFFSET ?
        """  # noqa: S608
        values = (msgspec.json.encode([key for _, key in found]).decode(), filter.limit + 1, skip)
        chosen = [row[0] for row in self._connection.execute(query, values)]
        more = len(chosen) > filter.limit
        skipped = Place(0.0, 0, skip + filter.limit)
        return Page(self._summaries(chosen[: filter.limit]), encode_cursor(skipped) if more else None)

    def _by_text(self, filter: Filter, keys: dict[str, list[Any]], place: Place | None) -> Page:
        """Newest first: in the order in which tasks were first heard of."""
        text = (filter.text or "").strip()
        exact = self._connection.execute(f"{SELECT} WHERE id = ?", (as_id(text),)).fetchone()
        if exact is not None:
            return Page([self._summary(task_of(exact))], None)
        # Only the text is asked of the database: with more, it would go on looking for as long as nothing matches.
        conditions: list[str] = []
        values: list[Any] = []
        source, row = "task", "task.key"
        if len(text) >= TRIGRAM:
            source, row = "task_text JOIN task ON task.key = task_text.rowid", "task_text.rowid"
            conditions.append("task_text MATCH ?")
            values.append(trigrams(text))
        if place is not None:
            conditions.append(f"{row} < ?")
            values.append(place.key)
        columns = ", ".join(f"task.{column}" for column in COLUMNS)
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        query = f"SELECT {columns} FROM {source} {where} ORDER BY {row} DESC"  # noqa: S608
        return self._sift(self._connection.execute(query, values), filter, keys, text.casefold())

    def _sift(self, rows: Iterable[Any], filter: Filter, keys: dict[str, list[Any]], text: str) -> Page:
        end = monotonic() + BUDGET
        since = filter.since.timestamp() if filter.since else 0.0
        until = filter.until.timestamp() if filter.until else float("inf")
        found: list[Task] = []
        for number, row in enumerate(rows):
            task = task_of(row)
            if len(found) == filter.limit or (number % 64 == 63 and monotonic() > end):
                # This one is looked at again by who goes on.
                return Page([self._summary(one) for one in found], encode_cursor(Place(task.time, task.key + 1)))
            if (
                since <= task.time < until
                and all(getattr(task, column) in wanted for column, wanted in keys.items())
                and has_text(task, text)
            ):
                found.append(task)
        return Page([self._summary(task) for task in found], None)

    # --- single tasks

    def task(self, id: str) -> Row | None:
        """Everything of one task, or None."""
        row = self._connection.execute(f"{SELECT} WHERE id = ?", (as_id(id),)).fetchone()
        if row is None:
            return None
        task = task_of(row)
        query = f"{SELECT} WHERE parent = ? ORDER BY time LIMIT {CHILDREN}"
        children = [task_of(one) for one in self._connection.execute(query, (task.id,))]
        return shape.full(task, self._word) | {"children": [self._summary(child) for child in children]}

    def family(self, root_id: str) -> list[Row]:
        """The tasks that began with ``root_id``, itself included, in the order of their last changes."""
        root = as_id(root_id)
        query = f"{SELECT} WHERE id = ? UNION ALL {SELECT} WHERE root = ? LIMIT {FAMILY}"
        tasks = [task_of(row) for row in self._connection.execute(query, (root, root))]
        return [self._summary(task) for task in sorted(tasks, key=lambda task: task.time)]

    # --- workers, counts, charts

    def workers(self) -> list[Row]:
        """Workers of the last day."""
        now = time()
        rows = self._connection.execute(
            "SELECT name, heartbeat, online, offline, active, processed, pid, software, load FROM worker ORDER BY name"
        )
        return [
            {
                "name": name,
                "alive": offline is None and heartbeat > now - ALIVE,
                "heartbeat": rfc3339(heartbeat),
                "active": active,
                "processed": processed,
                "pid": pid,
                "software": software,
                "load": [float(value) for value in load.split()] if load else None,
                "since": rfc3339(online),
            }
            for name, heartbeat, online, offline, active, processed, pid, software, load in rows
        ]

    def counts(self) -> Row:
        """How many tasks ended in which state in the last 24 hours, are on their way, and need attention."""
        since = int(time()) // 60 - 24 * 60
        states = dict.fromkeys(STATES, 0)
        query = "SELECT state, sum(count) FROM minute WHERE minute >= ? GROUP BY state"
        for state, count in self._connection.execute(query, (since,)):
            if state in COUNTED and state != RETRY:
                states[STATES[state]] = count
        for state in ("PENDING", "RECEIVED", "STARTED", "RETRY"):
            query = (
                "SELECT count(*) FROM (SELECT 1 FROM task INDEXED BY task_state WHERE state = ? AND state <> 4 LIMIT ?)"
            )
            states[state] = self._connection.execute(query, (STATES.index(state), COUNT_LIMIT)).fetchone()[0]
        attention = dict.fromkeys(ATTENTION[1:], 0)
        query = "SELECT attention, count(*) FROM task INDEXED BY task_attention WHERE attention > 0 GROUP BY attention"
        for one, count in self._connection.execute(query):
            attention[ATTENTION[one]] = count
        return {"states": states, "attention": attention}

    def chart(self, since: datetime, until: datetime, points: int, name: str | None = None) -> list[Row]:
        """How tasks ended over time, in ``points`` steps of whole minutes.

        Raises:
            ValueError: ``name`` is a pattern that stands for too many.
        """
        start, end = int(since.timestamp()) // 60, -(-int(until.timestamp()) // 60)
        step = max(1, -(-(end - start) // max(1, points)))
        conditions, values = "minute >= ? AND minute < ?", [start, end]
        if name:
            keys = self._word_keys("name", name)
            conditions += f" AND name IN ({','.join('?' * len(keys))})"
            values += keys
        query = f"""
            SELECT (minute - {start}) / {step}, state, sum(count), sum(runtime), max(longest) FROM minute
            WHERE {conditions} GROUP BY 1, 2
        """  # noqa: S608
        found = {(place, state): rest for place, state, *rest in self._connection.execute(query, values)}
        rows = []
        for place in range(-(-(end - start) // step)):
            count = {state: found.get((place, state), (0, 0.0, 0.0)) for state in COUNTED}
            ran = count[SUCCESS][0] + count[FAILURE][0]
            rows.append(
                {
                    "time": rfc3339((start + place * step) * 60.0),
                    "succeeded": count[SUCCESS][0],
                    "failed": count[FAILURE][0],
                    "retried": count[RETRY][0],
                    "revoked": count[REVOKED][0],
                    "runtime_mean": (count[SUCCESS][1] + count[FAILURE][1]) / ran if ran else None,
                    "runtime_max": max(count[SUCCESS][2], count[FAILURE][2]) if ran else None,
                }
            )
        return rows

    def names(self) -> list[str]:
        """The names of the tasks in the history, those heard of first where there are more than 10,000."""
        return sorted(text for _, text in islice(self._distinct("name"), WORDS))

    def queues(self) -> list[str]:
        """The queues that tasks of the last day were sent to."""
        since = (datetime.now(UTC) - timedelta(days=1)).timestamp()
        query = f"SELECT DISTINCT queue FROM (SELECT queue FROM task WHERE time >= ? ORDER BY time DESC LIMIT {COUNT_LIMIT})"  # noqa: S608
        found = (self._word(row[0]) for row in self._connection.execute(query, (since,)))
        return sorted(name for name in found if name)

    # --- pieces

    def _summaries(self, keys: Iterable[int]) -> list[Row]:
        rows = (self._connection.execute(f"{SELECT} WHERE key = ?", (key,)).fetchone() for key in keys)
        return [self._summary(task_of(row)) for row in rows if row is not None]

    def _summary(self, task: Task) -> Row:
        return shape.summary(task, self._word)

    def _word(self, key: int | None) -> str | None:
        if not key:
            return None
        text = self._words.get(key)
        if text is None:
            row = self._connection.execute("SELECT text FROM word WHERE key = ?", (key,)).fetchone()
            text = str(row[0]) if row else ""
            if len(self._words) > LIMIT:
                self._words.clear()
            self._words[key] = text
        return text


# The column by which an index finds its entries.
LEADS = {
    "task_name": "name",
    "task_worker": "worker",
    "task_state": "state",
    "task_attention": "attention",
    "task_root": "root",
}

PARTIAL = {
    "task_state": ("state <> 4",),
    "task_attention": ("attention > 0",),
    "task_root": ("root IS NOT NULL",),
}


def check(filter: Filter) -> None:
    """Raises ValueError with one line for the first part of ``filter`` that makes no sense."""
    if not 1 <= filter.limit <= LIMIT:
        raise ValueError(f"limit must be 1 to {LIMIT}")
    if filter.sort not in SORTS:
        raise ValueError(f"sort must be one of {', '.join(SORTS)}")
    for state in filter.states:
        if state not in STATES:
            raise ValueError(f"{state!r} is no state; they are {', '.join(STATES)}")
    for one in filter.attention:
        if one not in {"any", *ATTENTION[1:]}:
            raise ValueError(f"attention must be any, {', '.join(ATTENTION[1:])}; not {one!r}")
    if filter.text and filter.sort != "-time":
        raise ValueError("a search for text is always newest first: leave out sort")


def encode_cursor(place: Place) -> str:
    return f"{place.time!r}_{place.key}_{place.skip}"


def decode_cursor(text: str | None) -> Place | None:
    if not text:
        return None
    try:
        stamp, key, skip = text.split("_")
        place = Place(float(stamp), int(key), int(skip))
    except ValueError:
        raise ValueError("cursor must be what `next` of the page before said") from None
    if not (abs(place.time) < 1e12 and 0 <= place.key < 2**62 and 0 <= place.skip <= SORTED_AMONG):
        raise ValueError("cursor must be what `next` of the page before said")
    return place


def trigrams(text: str) -> str:
    """What asks the index of texts for rows that may have ``text``: runs of three letters that together cover it.

    All runs would find hardly fewer, and each that is common costs a look through all its rows.
    """
    places = [*range(len(text) - TRIGRAM, 0, -TRIGRAM), 0]
    runs = dict.fromkeys(text[place : place + TRIGRAM] for place in places)
    return " AND ".join('"' + run.replace('"', '""') + '"' for run in runs)


def has_text(task: Task, text: str) -> bool:
    parts = (task.args, task.kwargs, task.result, task.exception, task.traceback)
    return any(part is not None and text in part.casefold() for part in parts)
