"""How dead letters look: as JSON, as a row of a list, and one with all there is to know."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

from app.monitor.history.clock import read_time, rfc3339
from app.monitor.lines import printable
from deploy.commands.looks import moment, one_line
from deploy.dead_letters.letter import Letter

__all__ = ["as_json", "in_words", "line_of"]

# Bytes of a body that no Celery wrote.
EXCERPT = 500


def as_json(letter: Letter, full: bool = True) -> dict[str, Any]:
    """A letter for programs: with ``full`` all of it, its body as text, or in base64 where it is none."""
    brief = {
        "id": letter.id,
        "name": letter.name,
        "time": rfc3339(letter.time.timestamp()) if letter.time else None,
        "reason": letter.reason,
        "queue": letter.queue,
        "count": letter.count,
    }
    if not full:
        return brief
    arguments = letter.arguments
    body: dict[str, str]
    try:
        body = {"body": letter.body.decode()}
    except UnicodeDecodeError:
        body = {"body_base64": base64.b64encode(letter.body).decode()}
    return {
        **brief,
        "args": arguments[0] if arguments else None,
        "kwargs": arguments[1] if arguments else None,
        "headers": plain(letter.headers),
        "properties": plain(letter.properties),
        **body,
    }


def plain(value: Any) -> Any:
    """Values of AMQP as JSON has them."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("utf-8", "backslashreplace")
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def line_of(row: dict[str, Any]) -> tuple[str, ...]:
    """The cells of a list."""
    return (
        moment(row["time"], False) if row["time"] else "-",
        row["reason"],
        one_line(row["queue"]),
        str(row["count"]),
        one_line(row["name"] or "unknown"),
        one_line(row["id"]),
    )


def in_words(letter: Letter) -> Iterator[str]:
    """All of a letter, line by line."""
    shown = as_json(letter)
    yield one_line(letter.name or "unknown")
    yield one_line(letter.id)
    yield ""
    when = read_time(shown["time"])
    yield f"reason     {letter.reason}" + (f", at {when:%Y-%m-%d %H:%M:%S} UTC" if when else "")
    yield f"queue      {one_line(letter.queue)}"
    yield f"count      {letter.count}"
    arguments = letter.arguments
    if arguments:
        yield f"args       {as_text(arguments[0])}"
        yield f"kwargs     {as_text(arguments[1])}"
    else:
        told = [letter.headers.get(key) for key in ("argsrepr", "kwargsrepr")]
        if any(told):
            yield f"args       {one_line(told[0])}"
            yield f"kwargs     {one_line(told[1])}"
        excerpt = letter.body[:EXCERPT].decode("utf-8", "backslashreplace")
        more = f" ... ({len(letter.body):,} bytes)" if len(letter.body) > EXCERPT else ""
        yield f"body       {one_line(excerpt)}{more}"
    yield "\nheaders"
    for key, value in sorted(shown["headers"].items()):
        if key != "x-death" and value not in (None, "", [], {}):
            yield f"  {one_line(key):<20} {as_text(value)}"
    for key, value in sorted(shown["properties"].items()):
        yield f"  {one_line(key):<20} {as_text(value)}"
    if letter.deaths:
        yield "\nx-death"
        for death in plain(letter.deaths):
            yield (
                f"  {death.get('time')} UTC  {death.get('reason')} {death.get('count')} x  from {one_line(death.get('queue'))}"
            )


def as_text(value: Any) -> str:
    return value if isinstance(value, str) and value.isprintable() else printable(json.dumps(value, ensure_ascii=False))
