"""A snapshot as lines that fit a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from app.monitor.history.clock import read_time
from deploy.commands import looks
from deploy.commands.looks import Column, line, one_line
from deploy.commands.watch.snapshot import Snapshot

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["frame"]

# Characters. From here on workers and queues stand beside each other.
WIDE = 120
# Lines. Two tables that get fewer would show hardly more than how much they leave out.
FEW = 8
FEW_WIDE = 5
# Seconds. A snapshot that is older is said to be old.
OLD = 3
# Between what stands beside each other.
MARGIN = 4

# Since its last heartbeat; then a worker that has gone is of the past.
GONE = timedelta(minutes=5)

BARS = " ▁▂▃▄▅▆▇█"


def frame(of: Snapshot, width: int, height: int | None, keys: bool = True, age: int = 0) -> list[Text]:
    """At most ``height`` lines of at most ``width`` characters; all of it where there is no height.

    ``age`` is that of the snapshot, in seconds.

    What needs somebody comes before what is only good to know, and has the room first.
    """
    lines = [*head(of, width, keys, age), *troubles(of, width)]
    lines += numbers(of, width)
    workers, queues = section("workers", worker_columns(of), width), section("queues", queue_columns(of), width)
    room = None if height is None else max(0, height - len(lines))
    attention, failures = of["attention"], of["failures"]
    # A heading, a line of headings and at least one row each, and a line between.
    below = (4 if attention else 0) + (4 if failures else 0)
    share = None if room is None else max(4, room - below if room - below > room // 2 else room // 2)
    wide = width >= WIDE
    wanted = max(len(workers), len(queues)) + 1 if wide else len(workers) + len(queues) + 2
    if share is not None and share < min(wanted, FEW_WIDE if wide else FEW):
        lines += summary(of, width)
    else:
        lines += beside(workers, queues, width, share) if wide else stacked(workers, queues, share)
    for title, tasks, style in (
        ("needs attention", attention, "bold yellow"),
        ("last failures", failures, "bold red"),
    ):
        if tasks:
            left = None if height is None else height - len(lines)
            if title == "needs attention" and failures and left is not None:
                left -= min(left // 2, 2 + len(failures))
            lines += listed(title, tasks, style, width, left, when(of))
    return lines if height is None else lines[:height]


def when(of: Snapshot) -> datetime | None:
    return read_time(of["time"])


def head(of: Snapshot, width: int, keys: bool, age: int) -> list[Text]:
    time = looks.moment(of["time"], today=True)
    said = [(one_line(of["project"]), "bold", None, False), (f"{time} UTC", "", None, False)]
    if age >= OLD:
        said.append((f"{age} s ago", "bold yellow", None, False))
    if of["monitor"]["error"]:
        said.append(("monitor away", "bold red", None, False))
    elif of["monitor"]["behind"]:
        said.append((f"monitor: {one_line(of['monitor']['behind'])}", "yellow", None, False))
    else:
        said.append(("monitor up to date", "green", None, False))
    if of["broker"]["error"]:
        said.append(("broker: see below", "bold red", None, False))
    if keys:
        said.append(("q leaves", "dim", None, False))
    return [line(said, width)]


def troubles(of: Snapshot, width: int) -> list[Text]:
    """What can't be had, and that what is shown of it is old."""
    found = [of[source]["error"] for source in ("monitor", "broker")]
    return [line([(one_line(error), "red", None, False)], width) for error in found if error]


def numbers(of: Snapshot, width: int) -> list[Text]:
    """Rates, the last half hour as a small chart, and how many tasks are in which state."""
    from rich.text import Text

    rates = of["rates"]
    cells = [
        (f"{rate(rates.get(end))} {end}/s", style, None, False)
        for end, style in (("started", "cyan"), ("succeeded", "green"), ("failed", "bold red"), ("retried", "yellow"))
        if end in {"succeeded", "failed"} or rates.get(end)
    ]
    minutes = [int(minute.get("succeeded") or 0) + int(minute.get("failed") or 0) for minute in of["minutes"]]
    if any(minutes):
        cells += [(bars(minutes), "cyan", None, False), (f"up to {max(minutes):,} a minute", "dim", None, False)]
    states = (of["counts"] or {}).get("states") or {}
    counted = [
        (f"{count:,} {state}", looks.STYLES.get(state, ""), None, False) for state, count in states.items() if count
    ]
    lines = [line(cells, width)]
    if counted:
        lines.append(line([("24 h:", "dim", None, False), *counted], width))
    return [*lines, Text("")]


def rate(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def bars(values: Sequence[int]) -> str:
    most = max(values)
    # Whatever happened at all is seen.
    return "".join(BARS[0 if not value else max(1, round(value / most * (len(BARS) - 1)))] for value in values)


def worker_columns(of: Snapshot) -> list[Column]:
    workers = sorted(
        (one for one in of["workers"] if recent(one, when(of))),
        key=lambda one: (not one["alive"], natural(str(one["name"]))),
    )

    def cells(key: str) -> list[tuple[str, str]]:
        return [(number(one.get(key)), "" if one["alive"] else "dim") for one in workers]

    return [
        Column("worker", [(one_line(one["name"]), "" if one["alive"] else "dim") for one in workers]),
        Column("alive", [("yes", "green") if one["alive"] else ("no", "bold red") for one in workers]),
        Column("active", cells("active"), right=True),
        Column("processed", cells("processed"), right=True),
        Column("load", [(load(one.get("load")), "" if one["alive"] else "dim") for one in workers], right=True),
    ]


def queue_columns(of: Snapshot) -> list[Column]:
    queues = of["queues"]

    def cells(key: str) -> list[tuple[str, str]]:
        return [
            ("-" if row["type"] == "stream" and key == "unacked" else number(row[key]), "" if row[key] else "dim")
            for row in queues
        ]

    return [
        Column("queue", [(one_line(row["queue"]), "") for row in queues]),
        *(Column(key, cells(key), right=True) for key in ("ready", "unacked", "consumers")),
        *(
            Column(heading, [(rate(row[key]), "" if row[key] else "dim") for row in queues], right=True)
            for heading, key in (("in/s", "in_per_second"), ("out/s", "out_per_second"))
        ),
    ]


def recent(worker: dict[str, Any], now: datetime | None) -> bool:
    """Whether a worker is there, or somebody may still ask where it went: containers have new names at each start."""
    heard = read_time(worker.get("heartbeat"))
    return bool(worker["alive"] or worker.get("active")) or not (heard and now) or now - heard < GONE


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts worker-2 before worker-10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def summary(of: Snapshot, width: int) -> list[Text]:
    """Workers and queues where there is no room for tables."""
    from rich.text import Text

    workers = [one for one in of["workers"] if one["alive"]]
    active = sum(one["active"] for one in workers if isinstance(one.get("active"), int))
    ready = ", ".join(f"{one_line(row['queue'])} {row['ready']:,}" for row in of["queues"] if row["type"] != "stream")
    return [
        line([(f"{len(workers)} workers alive, {active:,} tasks active", "", None, False)], width),
        line([(f"ready: {ready or '-'}", "", None, False)], width),
        Text(""),
    ]


def number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "-"


def load(values: Any) -> str:
    """The load average of the last minute."""
    return f"{values[0]:.2f}" if isinstance(values, list) and values and isinstance(values[0], int | float) else "-"


def section(title: str, columns: list[Column], width: int) -> list[Text]:
    """A table; the first column gives way where there is no room."""
    if not columns[0].cells:
        return [line([(f"no {title}", "dim", None, False)], width)]
    sizes = [column.width for column in columns]
    over = sum(sizes) + looks.GAP * (len(sizes) - 1) - width
    if over > 0:
        sizes[0] = max(8, sizes[0] - over)
    made = [
        line([(column.heading, "dim", size, column.right) for column, size in zip(columns, sizes, strict=True)], width)
    ]
    for row in range(len(columns[0].cells)):
        cells = [(*column.cells[row], size, column.right) for column, size in zip(columns, sizes, strict=True)]
        made.append(line(cells, width))
    return made


def cut(lines: list[Text], room: int | None) -> list[Text]:
    """``lines``, or those that fit and how many do not."""
    if room is None or len(lines) <= room:
        return lines
    room = max(room, 1)
    return [*lines[: room - 1], line([(f"... and {len(lines) - room + 1} more", "dim", None, False)], None)]


def beside(left: list[Text], right: list[Text], width: int, room: int | None) -> list[Text]:
    from rich.text import Text

    left, right = cut(left, room and room - 1), cut(right, room and room - 1)
    size = max(one.cell_len for one in left)
    made = []
    for number in range(max(len(left), len(right))):
        one = left[number].copy() if number < len(left) else Text("")
        if number < len(right):
            one.append(" " * (size - one.cell_len + MARGIN)).append_text(right[number])
        one.truncate(width, overflow="ellipsis")
        made.append(one)
    return [*made, Text("")]


def stacked(first: list[Text], second: list[Text], room: int | None) -> list[Text]:
    from rich.text import Text

    half = None if room is None else max(2, room - 2 - min(len(second), (room - 2) // 2))
    above = cut(first, half)
    rest = None if room is None else max(2, room - 2 - len(above))
    return [*above, Text(""), *cut(second, rest), Text("")]


def listed(
    title: str, tasks: list[dict[str, Any]], style: str, width: int, room: int | None, now: datetime | None
) -> list[Text]:
    """A list of tasks below its title, as many as there is room for."""
    from rich.text import Text

    if room is not None:
        if room < 3:
            return []
        # Each may need a second line for what went wrong.
        tasks = tasks[: room - 2]
    else:
        tasks = tasks[:10]
    made = [line([(title, style, None, False)], width), *looks.listing(tasks, width, now), Text("")]
    return made if room is None else made[:room]
