"""The geometry of the page's two charts, drawn on the server as SVG."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from app.monitor.history.clock import read_time
from app.monitor.web.show import duration
from app.monitor.web.sources import Json

__all__ = ["RANGES", "Bar", "Chart", "Range", "range_of", "whole", "window"]

# Width of a bar with its gap (the template draws it 8 wide); the drawing is stretched to its place.
PITCH = 10
HEIGHT = 100
# What is there is seen, however little it is beside the highest.
LEAST = 2.0


class Range(NamedTuple):
    """A span of time that is offered: its age, how it is called, and into how many points it is divided."""

    age: str
    words: str
    span: timedelta
    points: int


# Counts are kept by the minute; points of the same length line up with it.
RANGES = (
    Range("15m", "15 minutes", timedelta(minutes=15), 15),
    Range("1h", "hour", timedelta(hours=1), 60),
    Range("6h", "6 hours", timedelta(hours=6), 72),
    Range("24h", "24 hours", timedelta(hours=24), 96),
    Range("7d", "7 days", timedelta(days=7), 84),
)
DEFAULT = RANGES[1]


def range_of(age: str | None) -> Range | None:
    return next((one for one in RANGES if one.age == age), None)


def whole(moment: datetime) -> datetime:
    """The end of a moment's minute. Counts are kept by the minute, and a part of one more would make each point longer."""
    start = moment.replace(second=0, microsecond=0)
    return start if start == moment else start + timedelta(minutes=1)


def window(since: datetime | None, until: datetime | None, age: str | None) -> tuple[datetime, datetime, int, str]:
    """What the charts show for a search: from, to, number of points, in words."""
    now = whole(datetime.now(UTC))
    if known := range_of(age) if until is None else None:
        return now - known.span, now, known.points, f"Last {known.words}"
    if since is None and until is None:
        return now - DEFAULT.span, now, DEFAULT.points, f"Last {DEFAULT.words}"
    end = whole(until) if until else now
    start = whole(since) if since else end - DEFAULT.span
    if start >= end:
        start = end - DEFAULT.span
    # A point is a minute at least.
    points = max(1, min(60, int((end - start).total_seconds() // 60)))
    return start, end, points, "Chosen time"


class Bar(NamedTuple):
    """One point of time: its parts from the bottom up, and where a click on it leads."""

    x: int
    parts: list[tuple[str, float, float]]
    said: str
    since: str
    until: str

    @property
    def title(self) -> str:
        first, last = read_time(self.since), read_time(self.until)
        return f"{first:%b %d %H:%M} to {last:%H:%M} UTC: {self.said}" if first and last else self.said


class Chart(NamedTuple):
    """A chart: bars, what the top means, and the same in words."""

    bars: list[Bar]
    width: int
    top: str
    legend: list[tuple[str, str, str]]
    words: str


OUTCOMES = (("failed", "failed"), ("retried", "retried"), ("revoked", "revoked"), ("succeeded", "succeeded"))


def ends(points: list[Json], until: datetime) -> list[str]:
    """When each point's span ends: where the next begins."""
    last = until.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return [*(point["time"] for point in points[1:]), last]


def outcomes(points: list[Json], until: datetime) -> Chart:
    """How many tasks ended how: what went wrong stands on the ground, where it can be compared."""
    most = max((sum(point[kind] for kind, _ in OUTCOMES) for point in points), default=0)
    bars = []
    for index, (point, end) in enumerate(zip(points, ends(points, until), strict=True)):
        parts, ground = [], float(HEIGHT)
        for kind, _ in OUTCOMES:
            if point[kind]:
                height = max(LEAST, HEIGHT * point[kind] / most)
                ground -= height
                parts.append((kind, max(0.0, ground), height))
        said = ", ".join(f"{point[kind]:,} {word}" for kind, word in reversed(OUTCOMES) if point[kind]) or "nothing"
        bars.append(Bar(index * PITCH + 1, parts, said, point["time"], end))
    sums = [(kind, word, sum(point[kind] for point in points)) for kind, word in reversed(OUTCOMES)]
    words = ", ".join(f"{count:,} {word}" for _, word, count in sums)
    legend = [(kind, word, f"{count:,}") for kind, word, count in sums]
    return Chart(bars, max(1, len(points)) * PITCH, f"{most:,}", legend, words)


def runtimes(points: list[Json], until: datetime) -> Chart:
    """How long tasks ran: on average, and the longest."""
    longest = max((point["runtime_max"] or 0.0 for point in points), default=0.0)
    bars = []
    for index, (point, end) in enumerate(zip(points, ends(points, until), strict=True)):
        parts = []
        for kind in ("runtime_max", "runtime_mean"):
            if point[kind] is not None and longest:
                height = max(LEAST, HEIGHT * point[kind] / longest)
                parts.append((kind.removeprefix("runtime_"), HEIGHT - height, height))
        said = f"mean {duration(point['runtime_mean'])}, longest {duration(point['runtime_max'])}"
        said = said if parts else "nothing ran"
        bars.append(Bar(index * PITCH + 1, parts, said, point["time"], end))
    ran = [point for point in points if point["runtime_mean"] is not None]
    ended = [(point["succeeded"] + point["failed"]) or 1 for point in ran]
    mean = sum(point["runtime_mean"] * n for point, n in zip(ran, ended, strict=True)) / sum(ended) if ran else None
    legend = [("mean", "mean", duration(mean)), ("max", "longest", duration(longest if ran else None))]
    words = f"mean {duration(mean)}, longest {duration(longest)}" if ran else "nothing ran"
    return Chart(bars, max(1, len(points)) * PITCH, duration(longest if ran else None), legend, words)
