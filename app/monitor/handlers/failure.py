"""What went wrong with a handler, in one line that may stand in a log."""

from __future__ import annotations

import traceback
from pathlib import Path

__all__ = ["Failure", "place", "reason", "tidy"]

# Characters of one reason: more is for the handler's own log.
LIMIT = 300

OWN = str(Path(__file__).parent)


class Failure(Exception):
    """An event was not delivered. The text says why, without secrets."""


def tidy(text: str) -> str:
    """``text`` as one line without anything that could start another one or move a cursor."""
    line = " ".join(text.split())
    line = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)
    return line if len(line) <= LIMIT else f"{line[: LIMIT * 2 // 3]} ... {line[-LIMIT // 4 :]}"


def place(error: BaseException) -> str:
    """File and line of the user's code that ``error`` comes from, or nothing where no such code took part."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename} line {error.lineno}"
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if not frame.f_code.co_filename.startswith((OWN, "<frozen")):
            return f"{frame.f_code.co_filename} line {line}"
    return ""


def reason(error: BaseException) -> str:
    """Kind, text and place of ``error``; of a :class:`Failure` the text, which says it all."""
    if isinstance(error, Failure):
        return tidy(str(error))
    try:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
    except Exception:
        # Of the user's making, like the error.
        text = ""
    said = tidy(f"{type(error).__name__}: {text}" if text else type(error).__name__)
    return f"{said} ({where})" if (where := place(error)) else said
