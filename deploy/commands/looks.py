"""How tasks look on a terminal: times, durations, colours, and lists that fit its width.

What stands in events comes from whoever sends tasks. Nothing of it reaches the terminal but characters that only show
themselves.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from app.monitor.history.clock import read_time
from app.monitor.lines import printable
from deploy import output

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["STYLES", "Column", "console", "duration", "listing", "moment", "one_line", "task_columns", "trouble"]

STYLES = {
    "PENDING": "dim",
    "RECEIVED": "blue",
    "STARTED": "cyan",
    "RETRY": "yellow",
    "SUCCESS": "green",
    "FAILURE": "bold red",
    "REVOKED": "magenta",
    "REJECTED": "red",
    "CANCELLED": "yellow",
    "UNCLAIMED": "bold yellow",
    "STALLED": "bold yellow",
    "ORPHANED": "bold yellow",
}

GAP = 2
# Characters. Below, a name says nothing any more, and goes to a line of its own with what went wrong.
NAME_LEAST = 14
# Below, what went wrong goes to a line of its own.
NOTE_LEAST = 28


def console() -> Console:
    """Standard output, for lines that fit it already."""
    return output.console(soft_wrap=True)


def moment(time: str | None, today: bool) -> str:
    """The time of day in UTC, with the date unless all that is shown is of ``today``."""
    when = read_time(time)
    return "-" if when is None else f"{when:%H:%M:%S}" if today else f"{when:%m-%d %H:%M:%S}"


def duration(seconds: float | None) -> str:
    """In the unit that a person would choose."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.001 else f"{seconds * 1000:.1f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if minutes < 60:
        return f"{minutes}m {int(seconds) % 60:02d}s"
    return f"{hours}h {minutes % 60:02d}m" if hours < 48 else f"{days}d {hours % 24:02d}h"


def one_line(text: Any) -> str:
    return printable(" ".join(str(text).split()))


def trouble(task: dict[str, Any]) -> str:
    """What is wrong with a task, in one line; empty where nothing is."""
    attention = task.get("attention")
    said = ""
    if attention == "unclaimed":
        said = f"unclaimed: no worker took it from {one_line(task.get('queue') or 'its queue')}"
    elif attention == "stalled":
        said = "stalled: it runs for longer than it should"
    elif attention == "orphaned":
        said = f"orphaned: {one_line(task.get('worker') or 'its worker')} fell silent"
    elif task.get("state") in {"FAILURE", "RETRY", "REJECTED"}:
        said = one_line(task.get("exception") or "")
    return said


@dataclass(frozen=True)
class Column:
    """A column of a list, from its cells, each with its style."""

    heading: str
    cells: Sequence[tuple[str, str]]
    right: bool = False

    @property
    def width(self) -> int:
        from rich.cells import cell_len

        return max((cell_len(text) for text in (self.heading, *(text for text, _ in self.cells))), default=0)


def task_columns(tasks: Sequence[dict[str, Any]], now: datetime | None = None) -> dict[str, Column]:
    """The columns of a list of tasks, by name."""
    day = (now or datetime.now(UTC)).date()
    today = all(when.date() == day for task in tasks if (when := read_time(task.get("time"))))
    plain = ""
    return {
        "time": Column("UTC", [(moment(task.get("time"), today), "dim") for task in tasks]),
        "state": Column("state", [(str(task["state"]), STYLES.get(str(task["state"]), "")) for task in tasks]),
        "name": Column("name", [(one_line(task.get("name") or "unknown"), plain) for task in tasks]),
        "id": Column("id", [(one_line(task["id"]), plain) for task in tasks]),
        "worker": Column("worker", [(one_line(task.get("worker") or ""), plain) for task in tasks]),
        "took": Column("took", [(duration(task.get("runtime")), plain) for task in tasks], right=True),
        "trouble": Column(
            "what went wrong",
            [(trouble(task), STYLES["STALLED"] if task.get("attention") else "red") for task in tasks],
        ),
    }


def listing(tasks: Sequence[dict[str, Any]], width: int | None, now: datetime | None = None) -> list[Text]:
    """``tasks`` as lines below headings, none wider than ``width``; without one (a pipe), as wide as it takes.

    Ids are never cut, since they are what one copies. Where there is little room the worker goes first, then what went
    wrong moves to a line below its task, then the name does.
    """
    columns = task_columns(tasks, now)
    if not any(text for text, _ in columns["trouble"].cells):
        del columns["trouble"]
    order, below = fitted(columns, width)
    sizes = {name: columns[name].width for name in order}
    if width is not None:
        spare = width - sum(sizes.values()) - GAP * (len(order) - 1)
        for name in ("trouble", "name"):
            if name in sizes and spare < 0:
                least = NAME_LEAST if name == "name" else NOTE_LEAST
                taken = min(-spare, max(0, sizes[name] - least))
                sizes[name], spare = sizes[name] - taken, spare + taken
    if "name" in sizes:
        columns["name"] = Column("name", [(tail(text, sizes["name"]), style) for text, style in columns["name"].cells])
    lines = [line([(columns[name].heading, "dim", sizes[name], columns[name].right) for name in order], width)]
    for row in range(len(tasks)):
        lines.append(line([(*columns[name].cells[row], sizes[name], columns[name].right) for name in order], width))
        extra = [columns[name].cells[row] for name in below if columns[name].cells[row][0]]
        if extra:
            indent = ("", "", columns["time"].width, False)
            lines.append(line([indent, *((text, style, None, False) for text, style in extra)], width))
    return lines


def tail(text: str, size: int) -> str:
    """The end of a name that is too long: what tells it from others."""
    from rich.cells import cell_len

    if cell_len(text) <= size:
        return text
    while cell_len(text) > size - 1:
        text = text[1:]
    return f"…{text}"


def fitted(columns: dict[str, Column], width: int | None) -> tuple[list[str], list[str]]:
    """Which columns stand beside each other, and which go to a line below."""
    order: list[str] = list(columns)
    below: list[str] = []

    def least() -> int:
        small = {"name": NAME_LEAST, "trouble": NOTE_LEAST}
        widths = [min(columns[name].width, small.get(name, 10_000)) for name in order]
        return sum(widths) + GAP * (len(order) - 1)

    for name in ("trouble", "worker", "took", "name"):
        if width is not None and name in order and least() > width:
            order.remove(name)
            if name in {"trouble", "name"}:
                below.insert(0, name)
    return order, below


def line(cells: Iterable[tuple[str, str, int | None, bool]], width: int | None) -> Text:
    from rich.text import Text

    made = Text(no_wrap=True)
    for number, (text, style, size, right) in enumerate(cells):
        cell = Text(text, style)
        if size is not None and cell.cell_len > size:
            cell.truncate(size, overflow="ellipsis")
        if number:
            made.append(" " * GAP)
        spare = 0 if size is None else size - cell.cell_len
        made.append(" " * spare * right).append_text(cell).append(" " * spare * (not right))
    made.rstrip()
    if width is not None:
        made.truncate(width, overflow="ellipsis")
    return made


def terminal_width() -> int | None:
    """The width of standard output; None where it is no terminal, so that nothing is cut for a program."""
    return console().width if sys.stdout.isatty() else None
