"""Sending a task: its name and arguments as they are typed, and its result where it is waited for."""

from __future__ import annotations

import difflib
import functools
import json
import math
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from app import sending
from deploy import management
from deploy.commands.control import ask, connected, nodes, refuse_under_alarm
from deploy.commands.overlays import has_queue
from deploy.definitions import TASKS
from deploy.errors import ExitCode, WarrenError, reason
from deploy.output import note, print_json, say
from deploy.session import Session

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["call", "value_of"]


def as_json_value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=no_json)
    except ValueError:
        quoted = json.dumps(text)
        raise WarrenError(
            f"the argument {text} is not JSON; a text needs quotes of its own: '{quoted}'", ExitCode.USAGE
        ) from None


def no_json(constant: str) -> None:
    """Python would read NaN and Infinity, which are no JSON and which other readers refuse."""
    raise ValueError(constant)


def as_json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=no_json)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise WarrenError(f"--kwargs takes a JSON object such as '{{\"x\": 2}}', not {text}", ExitCode.USAGE)
    return value


def seconds(text: str, option: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value < 2**28:
        raise WarrenError(f"{option} takes a number of seconds from 0 to {2**28 - 1}, not {text!r}", ExitCode.USAGE)
    return value


def full_name(s: Session, name: str) -> str:
    """The task's whole name for ``name``, which may be its last part; told by a worker, or by our own code.

    Raises:
        WarrenError: there is no such task, with the nearest that are.
    """
    app = s.client("ops")
    # One worker's answer will do for a name that it knows; a name that it does not know is asked of all.
    first = ask(s, app, "registered", limit=1)
    known = names_in(first)
    if first and not matches(name, known):
        known |= names_in(ask(s, app, "registered", limit=max(2, len(nodes(s)))))
    if not known:
        note("no worker is up: the task waits in its queue until one is")
        if s.settings.foreign_app or "." in name:
            return name
        known = own_names(s)
    found = matches(name, known)
    if len(found) == 1:
        return found[0]
    if found:
        raise WarrenError(f"there are several tasks {name}: {', '.join(found)}; give the whole name", ExitCode.USAGE)
    near = difflib.get_close_matches(name, [*known, *(one.rpartition(".")[2] for one in known)], n=3, cutoff=0.5)
    ends = {one.rpartition(".")[2]: one for one in known}
    hint = ", ".join(dict.fromkeys(ends.get(one, one) for one in near)) or ", ".join(sorted(known))
    raise WarrenError(f"no worker knows a task {name}; near: {hint}", ExitCode.UNKNOWN)


def names_in(answers: dict[str, Any]) -> set[str]:
    # Rate limits and the like follow the name in brackets.
    return {entry.split(" ")[0] for entries in answers.values() for entry in entries}


def matches(name: str, known: set[str]) -> list[str]:
    return [name] if name in known else sorted(one for one in known if one.endswith(f".{name}"))


def own_names(s: Session) -> set[str]:
    from msgspec.structs import replace

    from app.factory import make

    app = make(replace(s.settings, broker_url="amqp://"))
    try:
        app.loader.import_default_modules()
    except Exception as error:
        raise WarrenError(
            f"app/tasks.py can't be imported ({type(error).__name__}: {reason(error)}); mend it, or give the task's whole name",
            ExitCode.UNKNOWN,
        ) from error
    return {name for name in app.tasks if not name.startswith("celery.")}


def call(
    s: Session,
    name: str,
    args: list[str],
    *,
    kwargs: str | None,
    wait: bool,
    timeout: str,
    queue: str | None,
    countdown: str | None,
    as_json: bool,
) -> None:
    values = [as_json_value(text) for text in args]
    named = as_json_object(kwargs) if kwargs else {}
    delay = seconds(countdown, "--countdown") if countdown else 0
    patience = seconds(timeout, "--timeout")
    if queue and not has_queue(s, queue):
        raise WarrenError(
            f"there is no queue {queue!r}; the queues are {', '.join(s.settings.every_queue)} "
            f"({', '.join(s.settings.queue_variables)})",
            ExitCode.UNKNOWN,
        )
    s.endpoints.soon("rabbitmq")
    refuse_under_alarm(s)
    if queue:
        require_up(s, queue)
    with connected(s, "ops"):
        name = full_name(s, name)
    options: dict[str, Any] = {"queue": queue} if queue else {}
    if delay:
        # Celery's delayed delivery counts whole seconds; never earlier than asked.
        options["countdown"] = math.ceil(delay)
    line = ["celery", "-A", "app", "call", name, f"--args={json.dumps(values)}", f"--kwargs={json.dumps(named)}"]
    line += [f"--{option}={value}" for option, value in options.items()]
    if not s.acts(f"{shlex.join(line)}  # as user producer"):
        return
    with connected(s, "producer"):
        app = s.client("producer")
        # Nobody will read the reply of a task that is not waited for; its queue would stay for a day.
        sent = publish(app, name, args=values, kwargs=named, ignore_result=not wait, **options)
        if not wait:
            if as_json:
                print_json({"id": sent.id, "name": name, "state": "PENDING"})
            else:
                say(sent.id)
            return
        if not as_json:
            note(f"sent {name} as {sent.id}; waiting for its result")
        waited(sent, name, patience + delay, functools.partial(show_as_json, name) if as_json else show_as_text)


def require_up(s: Session, queue: str) -> None:
    """Raises WarrenError where the broker lacks a queue that the settings name: what is sent would be a dead letter."""
    try:
        there = management.bound(s.endpoints, s.secrets, TASKS)
    except WarrenError:
        return  # Of a broker of others this may not be known.
    if queue not in there:
        raise WarrenError(f"the queue {queue} is not up yet; `invoke up` makes it", ExitCode.FAILED)


def value_of(s: Session, name: str, args: list[Any]) -> Any:
    """The result of a task that is sent and waited for now."""
    with connected(s, "producer"):
        app = s.client("producer")
        return waited(publish(app, name, args=args), name, patience=60)


def publish(app: Celery, name: str, **options: Any) -> Any:
    """As :func:`app.sending.publish`.

    Raises:
        WarrenError: the broker does not confirm it.
    """
    try:
        return sending.publish(app, name, **options)
    except sending.Unconfirmed as error:
        raise WarrenError(str(error), ExitCode.BROKER) from error


def waited(sent: Any, name: str, patience: float, show: Callable[[Any], None] = lambda sent: None) -> Any:
    """The result of ``sent``; ``show`` gets it however it ended.

    Raises:
        WarrenError: it did not succeed, or not within ``patience`` seconds.
    """
    from celery.exceptions import TimeoutError as ResultTimeout

    try:
        sent.get(timeout=patience, propagate=False)
    except ResultTimeout:
        raise WarrenError(
            f"no result within {patience:g} s; the task goes on, ask for it with `invoke result {sent.id}`",
            ExitCode.TIMEOUT,
        ) from None
    show(sent)
    if sent.state != "SUCCESS":
        raise WarrenError(f"{name} ended as {sent.state}: {sent.result!r}", ExitCode.FAILED)
    return sent.result


def show_as_json(name: str, sent: Any) -> None:
    failed = isinstance(sent.result, BaseException)
    print_json(
        {
            "id": sent.id,
            "name": name,
            "state": sent.state,
            "result": None if failed else sent.result,
            "exception": repr(sent.result) if failed else None,
            "traceback": sent.traceback,
        }
    )


def show_as_text(sent: Any) -> None:
    if sent.state == "SUCCESS":
        say(json.dumps(sent.result, ensure_ascii=False))
    elif sent.traceback:
        note(sent.traceback.rstrip())
