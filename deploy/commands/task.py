"""One task: where it was when, what came of it, and what it belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from app.monitor.history.clock import read_time
from app.monitor.history.family import walk
from app.monitor.lines import printable
from deploy import monitor_api, where
from deploy.commands import looks
from deploy.commands.control import task_id
from deploy.errors import ExitCode, WarrenError
from deploy.output import note, print_json, say
from deploy.session import Session
from deploy.where import Answer

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["known", "show"]

FINAL = {"SUCCESS", "FAILURE", "REVOKED", "REJECTED"}

# Lines of a family that are shown; who needs more has --json, or the monitor's page.
FAMILY = 50
# Levels of it that are indented; a chain of hundreds would leave the screen.
MOST_INDENTED = 20

# What is told beside the state, in this order, under the names of the API.
FIELDS = (
    *("args", "kwargs", "queue", "worker", "sender", "retries", "attempts", "eta", "expires"),
    *("wait", "runtime", "result", "exception"),
)


def show(s: Session, asked: str, as_json: bool) -> None:
    id_ = spelled(asked)
    answers, facts = where.look(s, [id_])
    answer, task = answers[id_], facts.tasks.get(id_)
    if as_json:
        print_json({"answer": answer.as_json(), **(task or {"id": id_})})
    elif not task and answer.kind != "unknown":
        say(answer.line)
    if not task:
        if answer.kind == "unknown":
            raise SystemExit(ExitCode.UNKNOWN) if as_json else WarrenError(answer.line, ExitCode.UNKNOWN)
        return
    if not as_json:
        tell(s, answer, task)


def tell(s: Session, answer: Answer, task: dict[str, Any]) -> None:
    from rich.text import Text

    relatives = family(s, task)
    console = looks.console()
    console.print(Text(answer.line, "bold"))
    console.print()
    for line in lines(task):
        console.print(line)
    if relatives:
        console.print("\nfamily", style="bold")
        for line in tree(relatives, task["id"]):
            console.print(line)
    if task.get("traceback"):
        console.print("\ntraceback", style="bold")
        for text in str(task["traceback"]).rstrip().splitlines():
            console.print(f"  {printable(text)}")


def spelled(asked: str) -> str:
    """``asked`` as it stands in events: UUIDs in lower case; an id of the user's own as it is."""
    try:
        return task_id(asked)
    except WarrenError:
        if not asked.strip() or len(asked) > 500:
            raise
        return asked


def known(s: Session, id_: str) -> dict[str, Any] | None:
    """What the monitor tells of a task; None, with the reason on standard error, where the log has to be asked."""
    s.endpoints.soon("monitor")
    try:
        found = monitor_api.task(s.endpoints, s.secrets, id_)
        # The end of a task is the end, whatever the monitor has not read yet.
        why = None if found and found["state"] in FINAL else monitor_api.behind(s.endpoints)
    except WarrenError as error:
        if error.code is not ExitCode.MONITOR:
            raise
        why = str(error).partition(";")[0]
    else:
        if found and not why:
            return found
        why = f"the monitor is not up to date ({why})" if why else "the monitor does not know this task"
    note(f"{why}; reading the event log instead")
    return None


def family(s: Session, task: dict[str, Any]) -> list[dict[str, Any]]:
    """All tasks that came of the same first one, if there are others than ``task``."""
    root = str(task.get("root") or task["id"])
    if root == task["id"] and not task.get("parent") and not task.get("children"):
        return []
    try:
        answer = monitor_api.get(s.endpoints, s.secrets, f"/tasks/{quote(root, safe='')}/family", missing={"tasks": []})
    except WarrenError as error:
        if error.code is not ExitCode.MONITOR:
            raise
        # Said where the task was asked for.
        return []
    found: list[dict[str, Any]] = answer["tasks"]
    return found if len(found) > 1 else []


def lines(task: dict[str, Any]) -> Iterator[Text]:
    from rich.text import Text

    state = str(task["state"])
    yield Text.assemble(
        (looks.one_line(task.get("name") or "unknown"), "bold"), "  ", (state, looks.STYLES.get(state, ""))
    )
    yield Text(looks.one_line(task["id"]))
    if task.get("attention"):
        yield Text(looks.trouble(task), looks.STYLES["STALLED"])
    yield Text("")
    for key in FIELDS:
        value = in_words(key, task.get(key))
        if value:
            yield Text(f"{key:<10} {value}")
    yield Text("\ntimeline", "bold")
    before: datetime | None = None
    for step in task.get("steps") or []:
        when = read_time(step["time"])
        yield step_line(step, when, before, task)
        before = when or before


def in_words(key: str, value: Any) -> str:
    """``value`` as people read it; empty for what goes without saying."""
    if value is None or (key in {"retries", "attempts"} and value <= (key == "attempts")):
        return ""
    if key in {"args", "kwargs"} and value in {"()", "[]", "{}"}:
        return ""
    if key in {"wait", "runtime"}:
        return looks.duration(value)
    return "\n".join(printable(line) for line in str(value).rstrip().splitlines()).replace("\n", "\n" + " " * 11)


def step_line(step: dict[str, Any], when: datetime | None, before: datetime | None, task: dict[str, Any]) -> Text:
    from rich.text import Text

    stamp = f"{when:%Y-%m-%d %H:%M:%S}.{when.microsecond // 1000:03d}" if when else "-"
    later = looks.duration(max(0.0, (when - before).total_seconds())) if when and before else ""
    state = str(step["state"])
    said = [looks.one_line(step["worker"])] if step.get("worker") else []
    if state == "PENDING" and task.get("queue"):
        said.append(f"to {looks.one_line(task['queue'])}")
    if step.get("note"):
        said.append(looks.one_line(step["note"]))
    return Text.assemble(
        (f"  {stamp}", "dim"),
        (f" {'+' + later if later else '':>9}  ", "dim"),
        (f"{state:<9}", looks.STYLES.get(state, "")),
        f"  {', '.join(said)}".rstrip(),
    )


def tree(tasks: list[dict[str, Any]], this: str) -> Iterator[Text]:
    """A family, each task below the one that sent it, in the order of time."""
    from rich.text import Text

    for depth, task in islice(walk(tasks), FAMILY):
        state = str(task["state"])
        yield Text.assemble(
            "  " * (min(depth, MOST_INDENTED) + 1),
            (looks.one_line(task.get("name") or "unknown"), "bold" if task["id"] == this else ""),
            "  ",
            (state, looks.STYLES.get(state, "")),
            "  ",
            (looks.one_line(task["id"]), "dim"),
            "  (this one)" if task["id"] == this else "",
        )
    if len(tasks) > FAMILY:
        yield Text(f"  ... and {len(tasks) - FAMILY} more; --json has them all", "dim")
