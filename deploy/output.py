"""What commands print: tables for people, JSON for programs, each on standard output; notes go to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console", "note", "print_json", "say", "table"]


def say(text: str = "") -> None:
    print(text, flush=True)  # noqa: T201


def note(text: str) -> None:
    """Something beside the answer: progress, a hint."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def print_json(value: Any) -> None:
    say(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def console(**options: Any) -> Console:
    """Standard output as Rich writes to it: nothing that it is given is taken for markup."""
    from rich.console import Console  # 50 ms that --json need not wait for

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            # Rich's own ends the process with code 1; to the menu a reader who has enough is no error.
            raise BrokenPipeError

    return Plain(highlight=False, markup=False, emoji=False, **options)


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[str] = ()) -> None:
    """Prints ``rows``; the columns named in ``right`` hold numbers."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in headings:
        made.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*[("" if cell is None else str(cell)) for cell in row])
    # A pipe has no width: nothing is to be folded or cut for it.
    console(width=None if sys.stdout.isatty() else 200).print(made)
