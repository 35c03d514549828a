"""Sending tasks again, with the arguments that the history knows."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from deploy import monitor_api
from deploy.commands import history, looks
from deploy.commands.stack import confirm
from deploy.commands.task import spelled
from deploy.errors import ExitCode, WarrenError
from deploy.output import note, print_json, say
from deploy.session import Session

__all__ = ["retry"]

# Tasks of one command. More are soon more than somebody has looked at.
MOST = 1000


def retry(s: Session, ids: list[str], name: str, since: str, queue: str, yes: bool, as_json: bool) -> None:
    if bool(ids) == bool(name or since or queue):
        raise WarrenError(
            "give ids of tasks, or which failed ones: invoke retry ID..., invoke retry --name 'shop.*' --since 1h",
            ExitCode.USAGE,
        )
    tasks = [known(s, spelled(one)) for one in dict.fromkeys(ids)] if ids else failed(s, name, since, queue)
    if not tasks:
        if as_json:
            print_json([])
        note("no failed task matches")
        return
    if not s.acts("".join(f"POST /tasks/{task['id']}/retry  # of the monitor\n" for task in tasks).rstrip()):
        return
    if not yes:
        ask(s, tasks, bool(ids))
    done: list[dict[str, Any]] = []
    try:
        for task in tasks:
            done.append(sent_again(s, task))
            if done[-1]["id"] and not as_json:
                say(f"{task['id']}: sent again as {done[-1]['id']}")
    finally:
        # Also where the monitor went away half-way: what was sent is sent.
        if as_json:
            print_json(done)
    wrong = [one for one in done if one["error"]]
    if wrong:
        raise WarrenError("\n".join(f"{one['retry_of']}: {one['error']}" for one in wrong), ExitCode.FAILED)


def known(s: Session, id_: str) -> dict[str, Any]:
    """A task of the history.

    Raises:
        WarrenError: the monitor does not know it (exit code 7).
    """
    task = monitor_api.task(s.endpoints, s.secrets, id_)
    if task is None:
        raise WarrenError(f"the monitor does not know the task {id_}; nothing was sent", ExitCode.UNKNOWN)
    return task


def failed(s: Session, name: str, since: str, queue: str) -> list[dict[str, Any]]:
    """Failed tasks, the oldest first, so that they are sent in the order in which they were."""
    query = history.query(state="FAILURE", name=name, since=since, queue=queue)
    tasks, more = history.search(s, query, MOST)
    if more:
        raise WarrenError(
            f"more than {MOST} failed tasks match; narrow it with --name, --queue or --since", ExitCode.USAGE
        )
    return tasks[::-1]


def ask(s: Session, tasks: list[dict[str, Any]], named: bool) -> None:
    """Lists what is to be sent and asks; ids that somebody typed are sent without, unless the task went well."""
    if named and not any(task["state"] == "SUCCESS" for task in tasks):
        return
    console = looks.console()
    for line in looks.listing(tasks, looks.terminal_width()):
        console.print(line)
    good = sum(task["state"] == "SUCCESS" for task in tasks)
    count = f"{len(tasks)} task{'' if len(tasks) == 1 else 's'}"
    confirm(s, f"`retry` sends {count} again{f', {good} of which succeeded' if good else ''}")


def sent_again(s: Session, task: dict[str, Any]) -> dict[str, Any]:
    try:
        answer = monitor_api.post(s.endpoints, s.secrets, f"/tasks/{quote(task['id'], safe='')}/retry")
    except WarrenError as error:
        if error.code is not ExitCode.FAILED:
            raise
        return {"retry_of": task["id"], "id": None, "name": task["name"], "queue": task["queue"], "error": str(error)}
    return {**answer, "error": None}
