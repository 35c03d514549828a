"""Searches in the history. Each does a bounded amount of work; what it did not get to comes by the page's cursor."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from time import monotonic
from typing import Any

import msgspec

from app.monitor.history import shape
from app.monitor.history.filter import (
    SORTED_AMONG,
    Filter,
    Page,
    Place,
    Row,
    check,
    decode_cursor,
    encode_cursor,
)
from app.monitor.history.store import COLUMNS, SELECT, task_of
from app.monitor.history.task import ATTENTION, STATES, SUCCESS, Task, as_id
from app.monitor.history.vocabulary import Vocabulary

__all__ = ["Search"]

# Seconds that a search goes on looking for more where little matches; half of what people take for at once, with the
# answer still to be written.
BUDGET = 0.025
# Entries of an index that are looked through between two looks at the clock: 1 to 6 ms of work.
STRETCH = 4_000
STRETCH_LIMIT = 20_000
# Letters that the index of texts needs; shorter texts are looked for in the rows themselves.
TRIGRAM = 3

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


class Search:
    """Finds tasks, on one connection."""

    def __init__(self, connection: sqlite3.Connection, words: Vocabulary) -> None:
        self._connection = connection
        self._words = words

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
                keys[column] = self._words.keys(column, asked)
        if filter.root:
            keys["root"] = [as_id(filter.root)]
        return None if any(not values for values in keys.values()) else keys

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
            return Page(self._shown([task_of(exact)]), None)
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
                return Page(self._shown(found), encode_cursor(Place(task.time, task.key + 1)))
            if (
                since <= task.time < until
                and all(getattr(task, column) in wanted for column, wanted in keys.items())
                and has_text(task, text)
            ):
                found.append(task)
        return Page(self._shown(found), None)

    def _summaries(self, keys: Iterable[int]) -> list[Row]:
        rows = (self._connection.execute(f"{SELECT} WHERE key = ?", (key,)).fetchone() for key in keys)
        return self._shown(task_of(row) for row in rows if row is not None)

    def _shown(self, tasks: Iterable[Task]) -> list[Row]:
        return [shape.summary(task, self._words.text) for task in tasks]


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
