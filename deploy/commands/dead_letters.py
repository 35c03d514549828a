"""`dead-letters`: what no worker could run, and what is to become of it."""

from __future__ import annotations

import contextlib
import fnmatch
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.monitor.lines import printable
from deploy import management
from deploy.commands import looks
from deploy.commands.control import connected, refuse_under_alarm
from deploy.commands.stack import confirm
from deploy.dead_letters import QUEUE, Letter, Letters
from deploy.dead_letters.sending import Sender
from deploy.dead_letters.words import as_json as letter_json
from deploy.dead_letters.words import in_words, line_of
from deploy.definitions import TASKS
from deploy.errors import ExitCode, WarrenError, reason
from deploy.output import note, print_json, say, table
from deploy.session import Session

__all__ = ["ACTIONS", "Choice", "dead_letters"]

ACTIONS = ("list", "show", "requeue", "drop", "export")
REASONS = ("rejected", "delivery_limit", "expired", "maxlen", "unroutable")


@dataclass(frozen=True)
class Choice:
    """Which letters are meant."""

    ids: tuple[str, ...] = ()
    """Empty: all of them."""
    reason: str = ""
    name: str = ""

    def has(self, letter: Letter) -> bool:
        return (
            (not self.ids or letter.id in self.ids)
            and (not self.reason or letter.reason == self.reason)
            and (not self.name or fnmatch.fnmatchcase(letter.name or "", self.name))
        )


def dead_letters(
    s: Session,
    words: list[str],
    *,
    every: bool = False,
    reason: str = "",
    name: str = "",
    queue: str = "",
    limit: int = 50,
    as_json: bool = False,
    yes: bool = False,
) -> None:
    action, rest = (words[0], words[1:]) if words else ("list", [])
    if action not in ACTIONS:
        raise WarrenError(
            f"{action!r} is nothing to do with dead letters; choose from {', '.join(ACTIONS)}", ExitCode.USAGE
        )
    if reason and reason not in REASONS:
        raise WarrenError(f"--reason is one of {', '.join(REASONS)}, not {reason!r}", ExitCode.USAGE)
    choice = Choice(tuple(dict.fromkeys(looks_like_id(one) for one in rest)), reason, name)
    refuse_misuse(action, rest, every, queue)
    with connected(s, "ops"):
        if action == "list":
            show_list(s, choice, limit, as_json)
        elif action == "show":
            show(s, choice, as_json)
        elif action == "requeue":
            requeue(s, choice, queue, as_json)
        elif action == "drop":
            drop(s, choice, as_json, yes)
        else:
            export(s, Choice(reason=reason, name=name), rest[0])


def looks_like_id(text: str) -> str:
    return text.lower() if len(text) == 36 else text


def refuse_misuse(action: str, rest: list[str], every: bool, queue: str) -> None:
    example = {
        "list": "invoke dead-letters list --reason rejected",
        "show": "invoke dead-letters show ID",
        "requeue": "invoke dead-letters requeue ID...",
        "drop": "invoke dead-letters drop ID...",
        "export": "invoke dead-letters export letters.jsonl",
    }[action]
    trouble = ""
    if action in {"requeue", "drop"}:
        if not rest and not every:
            trouble = "which letters? Ids, or --all"
        elif rest and every:
            trouble = "either ids or --all"
    elif action == "list" and rest:
        trouble = "list takes no ids"
    elif action in {"show", "export"} and len(rest) != 1:
        trouble = "which letter" if action == "show" else "into which file (- is standard output)"
    if queue and action != "requeue":
        trouble = "--queue goes with requeue"
    if every and action not in {"requeue", "drop"}:
        trouble = "--all goes with requeue and drop"
    if trouble:
        raise WarrenError(f"{trouble}: {example}", ExitCode.USAGE)


def show_list(s: Session, choice: Choice, limit: int, as_json: bool) -> None:
    # The newest, however many there are: memory is for as many as are shown.
    newest: deque[dict[str, Any]] = deque(maxlen=limit)
    count = 0
    with Letters(s) as letters:
        for letter in letters:
            if choice.has(letter):
                count += 1
                newest.append(letter_json(letter, full=False))
        total = letters.total
    rows = list(reversed(newest))
    if as_json:
        print_json({"letters": rows, "more": count - len(rows)})
        return
    if not rows:
        note(f"none of {total} dead letters matches" if total else "there are no dead letters")
        return
    headings = ("UTC", "reason", "queue", "count", "name", "id")
    table(headings, [line_of(row) for row in rows], right=("count",))
    if count > len(rows):
        note(f"and {count - len(rows)} older ones: --limit {min(count, limit * 10)}")


def show(s: Session, choice: Choice, as_json: bool) -> None:
    with Letters(s) as letters:
        found = [letter for letter in letters if choice.has(letter)]
    if not found:
        raise missing(choice.ids)
    if as_json:
        print_json([letter_json(letter) for letter in found])
        return
    history = told(s, found[0].id)
    for number, letter in enumerate(found):
        if number:
            say()
        for line in in_words(letter):
            say(line)
    if history.get("exception"):
        say(f"\nlast error  {looks.one_line(history['exception'])}")
        for line in str(history.get("traceback") or "").rstrip().splitlines():
            say(f"  {printable(line)}")


def told(s: Session, id_: str) -> dict[str, Any]:
    """What the monitor knows of the task; nothing where it can't be asked."""
    from deploy import monitor_api

    try:
        return monitor_api.task(s.endpoints, s.secrets, id_) or {}
    except WarrenError:
        return {}


def requeue(s: Session, choice: Choice, queue: str, as_json: bool) -> None:
    """Sends letters once more, each before it is dropped: whoever dies in between leaves it in both places, not in none."""
    known = management.bound(s.endpoints, s.secrets, TASKS)
    if queue and queue not in known:
        raise WarrenError(f"there is no queue {queue}; choose from {', '.join(known)}", ExitCode.UNKNOWN)
    refuse_under_alarm(s)
    done: list[dict[str, Any]] = []
    left: list[dict[str, Any]] = []

    def send(letters: Letters, letter: Letter, sender: Sender) -> None:
        goes_to = queue or letter.queue
        row = {"id": letter.id, "name": letter.name, "queue": goes_to, "reason": letter.reason}
        if goes_to not in known:
            left.append(row)
        elif s.acts(f"publish {letter.id} to {goes_to} as user producer, then drop it from {QUEUE}"):
            sender.send(letter, goes_to)
            letters.drop(letter)
            done.append(row)

    with connected(s, "producer"), Sender(s) as sender:
        found = each(s, choice, lambda letters, letter: send(letters, letter, sender))
    revoked = revoked_of([row["id"] for row in done], s)
    if as_json:
        print_json({"requeued": done, "no_queue": left, "revoked": revoked})
    else:
        for row in done[: looks_shown(done)]:
            said = "; it is revoked, so a worker will discard it" if row["id"] in revoked else ""
            say(f"{row['id']}: sent to {row['queue']} again{said}")
        if len(done) > looks_shown(done):
            say(f"... {len(done)} in all" + (f", of which {len(revoked)} are revoked" if revoked else ""))
    if left:
        raise WarrenError(
            f"{left[0]['id']}{f' and {len(left) - 1} more' if len(left) > 1 else ''} stayed: there is no queue "
            f"{left[0]['queue']}; add it to {' or '.join(s.settings.queue_variables)}, or send to another: "
            f"invoke dead-letters requeue ID --queue {known[0]}",
            ExitCode.UNKNOWN,
        )
    refuse_missing(s, choice, found)


# Lines that a person reads.
SHOWN = 20


def looks_shown(rows: list[Any]) -> int:
    return len(rows) if len(rows) <= SHOWN else SHOWN - 1


def revoked_of(ids: list[str], s: Session) -> list[str]:
    """Those of the tasks that are revoked, as far as can be told."""
    from app.eventlog import Unavailable
    from deploy.where.facts import revokes_of

    if not ids:
        return []
    try:
        return sorted(revokes_of(s, set(ids)))
    except Unavailable as error:
        note(f"whether they are revoked is not known: {error}")
        return []


def drop(s: Session, choice: Choice, as_json: bool, yes: bool) -> None:
    doomed = {letter_key(letter) for letter in found_by(s, choice)}
    if not doomed:
        refuse_missing(s, choice, set())
        note("no dead letter matches")
        return
    if not yes and not s.runner.dry:
        what = f"{len(doomed)} dead letter{'s' if len(doomed) > 1 else ''}"
        confirm(s, f"`dead-letters drop` deletes {what} for good; `invoke dead-letters export FILE` would keep a copy")
    dropped: list[str] = []

    def take(letters: Letters, letter: Letter) -> None:
        # Those that came after the question are not what was answered.
        if letter_key(letter) in doomed and s.acts(f"drop {letter.id} from {QUEUE}"):
            letters.drop(letter)
            dropped.append(letter.id)

    found = each(s, choice, take)
    if as_json:
        print_json({"dropped": dropped})
    elif not s.runner.dry:
        say(f"{len(dropped)} dead letter{'s' if len(dropped) != 1 else ''} dropped.")
    refuse_missing(s, choice, found)


def letter_key(letter: Letter) -> tuple[str, int, Any]:
    return letter.id, letter.count, letter.time


def found_by(s: Session, choice: Choice) -> list[Letter]:
    from dataclasses import replace

    with Letters(s) as letters:
        # What it says may be large; which one it is, is all that is asked.
        return [replace(letter, body=b"", headers={}, properties={}) for letter in letters if choice.has(letter)]


def each(s: Session, choice: Choice, act: Callable[[Letters, Letter], None]) -> set[str]:
    """Does ``act`` with each letter that is meant; their ids. An error ends it, after what was begun."""
    found: set[str] = set()
    with Letters(s) as letters:
        for letter in letters:
            if choice.has(letter):
                found.add(letter.id)
                act(letters, letter)
    return found


def missing(ids: tuple[str, ...] | list[str]) -> WarrenError:
    return WarrenError(
        f"no dead letter has the id {', '.join(ids)}; `invoke dead-letters` lists them, `invoke task ID` says where a task is",
        ExitCode.UNKNOWN,
    )


def refuse_missing(s: Session, choice: Choice, found: set[str]) -> None:
    if lost := [one for one in choice.ids if one not in found]:
        raise missing(lost)


def export(s: Session, choice: Choice, file: str) -> None:
    """Writes each letter as a line of JSON; the file appears when all of it is on disk."""
    count = 0
    with target(file) as write, Letters(s) as letters:
        for letter in letters:
            if choice.has(letter):
                write(letter_json(letter))
                count += 1
    note(f"{count} dead letter{'s' if count != 1 else ''} written to {'standard output' if file == '-' else file}")


@contextlib.contextmanager
def target(file: str) -> Iterator[Callable[[Any], None]]:
    import json

    def line(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, default=str)

    if file == "-":
        yield lambda value: say(line(value))
        return
    place = Path(file)
    part = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        # Arguments of tasks are nobody else's business.
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:

                def write(value: Any) -> None:
                    stream.write(line(value) + "\n")

                yield write
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(place)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        if error.filename is None:
            raise
        raise WarrenError(f"{file} can't be written: {reason(error)}", ExitCode.USAGE) from error
