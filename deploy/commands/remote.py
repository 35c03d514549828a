"""What is said to workers and about single tasks, by Celery's own means: call, result, revoke, ping."""

from __future__ import annotations

import contextlib
import difflib
import functools
import json
import math
import signal as signals
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from amqp.exceptions import AccessRefused, NotAllowed, NotFound
from kombu.exceptions import OperationalError

from deploy import management
from deploy.errors import ExitCode, WarrenError, reason
from deploy.output import note, print_json, say, table
from deploy.session import Session

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["busy_nodes", "call", "ping", "result", "revoke"]

# Seconds that a worker gets to answer. One that is there answers in a few hundredths.
REPLY_PATIENCE = 1.0

# Seconds that the broker gets to confirm a task. It takes thousandths; an alarm makes it wait for ever.
CONFIRM_PATIENCE = 5


@contextlib.contextmanager
def broker(s: Session, role: str) -> Iterator[None]:
    """Turns what can go wrong with the broker into its line and exit code."""
    where = f"the broker at {s.endpoints.host}:{s.endpoints.amqp}"
    try:
        yield
    except (AccessRefused, NotAllowed) as error:
        if "ACCESS_REFUSED - Login" in str(error) or (error.reply_code == 403 and "PLAIN" in str(error)):
            raise WarrenError(
                f"{where} refuses the password of user {role} in .warren/secrets/{role}; is this another stack's broker? "
                "`invoke up` gives this one the passwords of .warren/secrets",
                ExitCode.BROKER,
            ) from error
        raise WarrenError(f"{where} refuses this to user {role}: {reason(error)}", ExitCode.BROKER) from error
    except NotFound as error:
        raise WarrenError(
            f"{where} lacks a queue or exchange ({reason(error)}); `invoke restart rabbitmq` loads the definitions again",
            ExitCode.BROKER,
        ) from error
    except (OperationalError, ConnectionError, TimeoutError, OSError) as error:
        raise WarrenError(
            f"{where} does not answer ({reason(error)}); `invoke status` shows what runs, `invoke up` starts it",
            ExitCode.BROKER,
        ) from error


# --- workers


def nodes(s: Session) -> list[str]:
    """The workers' nodes that listen to remote control now: each has its own queue for it."""
    suffix = ".celery.pidbox"
    names = [queue["name"] for queue in management.queues(s.endpoints, s.secrets)]
    return [name.removesuffix(suffix) for name in names if name.endswith(suffix) and "@" in name]


def ask(s: Session, app: Celery, method: str, *, limit: int, **arguments: Any) -> dict[str, Any]:
    """What the workers answer to a command of remote control, by node; waits for ``limit`` answers at most."""
    s.runner.show(f"celery -A app inspect {method}  # as user ops")
    replies = app.control.broadcast(method, arguments=arguments, reply=True, limit=limit, timeout=REPLY_PATIENCE)
    return {node: answer for reply in replies or [] for node, answer in reply.items()}


def busy_nodes(s: Session, workers: int) -> set[str]:
    """The nodes that run a task now."""
    with broker(s, "ops"):
        answers = ask(s, s.client("ops"), "active", limit=workers)
    return {node for node, tasks in answers.items() if tasks}


def ping(s: Session, as_json: bool) -> None:
    refuse_under_alarm(s)
    with broker(s, "ops"):
        known = nodes(s)
        app = s.client("ops")
        answers = ask(s, app, "ping", limit=len(known)) if known else {}
    silent = sorted(set(known) - set(answers))
    if as_json:
        print_json({"pong": sorted(answers), "silent": silent})
    else:
        for node in sorted(answers):
            say(f"{node}: pong")
        for node in silent:
            say(f"{node}: silent for {REPLY_PATIENCE:g} s")
    if not known:
        raise WarrenError(
            "no worker is connected to the broker; `invoke status` shows why, `invoke scale-workers 1` starts one",
            ExitCode.UNKNOWN,
        )
    if silent:
        raise WarrenError(
            f"{len(silent)} of {len(known)} workers did not answer; see `invoke logs worker`", ExitCode.TIMEOUT
        )


# --- sending tasks


def as_json_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        quoted = json.dumps(text)
        raise WarrenError(
            f"the argument {text} is not JSON; a text needs quotes of its own: '{quoted}'", ExitCode.USAGE
        ) from None


def as_json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
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
    app.loader.import_default_modules()
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
    if queue and queue not in s.settings.queues:
        raise WarrenError(
            f"there is no queue {queue!r}; the queues are {', '.join(s.settings.queues)} (WARREN_QUEUES)",
            ExitCode.UNKNOWN,
        )
    refuse_under_alarm(s)
    with broker(s, "ops"):
        name = full_name(s, name)
    options: dict[str, Any] = {"queue": queue} if queue else {}
    if delay:
        # Celery's delayed delivery counts whole seconds; never earlier than asked.
        options["countdown"] = math.ceil(delay)
    shown = json.dumps(values)
    if not s.runner.acts(
        f"celery -A app call {name} --args='{shown}' --kwargs='{json.dumps(named)}'  # as user producer, {options}"
    ):
        return
    with broker(s, "producer"):
        app = s.client("producer")
        try:
            sent = app.send_task(
                name,
                args=values,
                kwargs=named,
                # Nobody will read the reply of a task that is not waited for; its queue would stay for a day.
                ignore_result=not wait,
                confirm_timeout=CONFIRM_PATIENCE,
                **options,
            )
        except TimeoutError as error:
            raise WarrenError(
                "the broker did not confirm the task, which may or may not run; `invoke status` shows what ails it",
                ExitCode.BROKER,
            ) from error
        if not wait:
            if as_json:
                print_json({"id": sent.id, "name": name, "state": "PENDING"})
            else:
                say(sent.id)
            return
        if not as_json:
            note(f"sent {name} as {sent.id}; waiting for its result")
        waited(sent, name, patience + delay, functools.partial(show_as_json, name) if as_json else show_as_text)


def value_of(s: Session, name: str, args: list[Any]) -> Any:
    """The result of a task that is sent and waited for now."""
    with broker(s, "producer"):
        app = s.client("producer")
        sent = app.send_task(name, args=args, confirm_timeout=CONFIRM_PATIENCE)
        return waited(sent, name, patience=60)


def refuse_under_alarm(s: Session) -> None:
    """An alarm makes the broker read no more from who publishes: what is sent now would wait unseen, and may run later."""
    found = management.alarms(s.endpoints, s.secrets)
    if found:
        what = " and ".join(found)
        raise WarrenError(
            f"the broker takes no messages: its {what} alarm is on. Free {what}, or lower "
            f"{'WARREN_DISK_FREE_LIMIT_MB' if 'disk' in found else 'the load'}; nothing was sent",
            ExitCode.BROKER,
        )


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
        say(json.dumps(sent.result))
    elif sent.traceback:
        note(sent.traceback.rstrip())


# --- single tasks


def task_id(text: str) -> str:
    """``text`` as a task's id.

    Raises:
        WarrenError: it is none (exit code 2).
    """
    try:
        # Accepts other spellings too (braces, no dashes), which no task has: only the canonical one is an id.
        if str(uuid.UUID(text)) == text.lower():
            return text.lower()
    except ValueError:
        pass
    raise WarrenError(f"{text!r} is no task id; one looks like 5b6c9e0a-8f2d-4a51-9c0e-3d1f7a2b4c6d", ExitCode.USAGE)


def revoke(s: Session, ids: list[str], terminate: bool, signal: str, as_json: bool) -> None:
    if not ids:
        raise WarrenError("which task? Give one or more ids: invoke revoke ID...", ExitCode.USAGE)
    ids = [task_id(one) for one in ids]
    if signal not in {one.name for one in signals.Signals}:
        raise WarrenError(f"there is no signal {signal!r}; SIGTERM asks a task to end, SIGKILL ends it", ExitCode.USAGE)
    ending = f"terminate {signal}" if terminate else "revoke"
    if not s.runner.acts(f"celery -A app control {ending} {' '.join(ids)}  # as user ops"):
        return
    refuse_under_alarm(s)
    with broker(s, "ops"):
        known = nodes(s)
        app = s.client("ops")
        replies = app.control.revoke(
            ids, terminate=terminate, signal=signal, reply=bool(known), limit=len(known), timeout=REPLY_PATIENCE
        )
    answers = {node: answer for reply in replies or [] for node, answer in reply.items()}
    if as_json:
        print_json(
            {"ids": ids, "terminate": terminate, "workers": len(known), "answered": sorted(answers), "answers": answers}
        )
    elif answers:
        did = f"terminated with {signal} where it runs, and revoked" if terminate else "revoked"
        for one in ids:
            say(f"{one}: {did}; {len(answers)} of {len(known)} workers know")
    if not known:
        raise WarrenError(
            "no worker is up to hear of it, so the task runs when one is; revoke it again then, or purge its queue",
            ExitCode.FAILED,
        )
    if len(answers) < len(known):
        raise WarrenError(
            f"{len(known) - len(answers)} of {len(known)} workers did not answer; revoke again, or see `invoke ping`",
            ExitCode.TIMEOUT,
        )


def result(s: Session, asked: str, as_json: bool) -> None:
    """The state of a task as the event log tells it: rpc:// results reach only the process that sent the task."""
    from app.eventlog import Unavailable, find

    one = task_id(asked)
    s.runner.show(f"read the stream celery.events for {one}  # as user ops")
    with broker(s, "ops"):
        try:
            events = find(s.broker_url("ops"), one)
        except Unavailable as error:
            raise WarrenError(str(error), ExitCode.BROKER) from error
    if not events:
        raise WarrenError(
            f"no event of the last {s.settings.events_max_age} mentions {one}; was it sent through this broker?",
            ExitCode.UNKNOWN,
        )
    answer = outcome(one, events)
    if as_json:
        print_json(answer)
    else:
        table(("", ""), [(key, value) for key, value in answer.items() if value not in (None, "")])
    if answer["state"] == "FAILURE":
        raise SystemExit(ExitCode.FAILED)


STATES = {
    "task-sent": "PENDING",
    "task-received": "RECEIVED",
    "task-started": "STARTED",
    "task-succeeded": "SUCCESS",
    "task-failed": "FAILURE",
    "task-retried": "RETRY",
    "task-rejected": "REJECTED",
    "task-revoked": "REVOKED",
}


def outcome(one: str, events: list[dict[str, Any]]) -> dict[str, Any]:
    """What ``events`` of a task add up to: its latest state, and what each told."""
    merged: dict[str, Any] = {}
    state = "PENDING"
    ended = {"SUCCESS", "FAILURE", "REVOKED"}
    # Its sender tells of a task after the broker has it: by then a worker may have told more.
    for event in sorted(events, key=lambda one: one.get("type") != "task-sent"):
        new = STATES.get(event.get("type", ""), state)
        # A task that a worker lost runs again: its later events come after an end only if it really ended twice.
        if state not in ended or new in ended:
            state = new
        merged.update({key: value for key, value in event.items() if value is not None})
    return {
        "id": one,
        "name": merged.get("name"),
        "state": state,
        "args": merged.get("args"),
        "kwargs": merged.get("kwargs"),
        "result": merged.get("result"),
        # What an earlier attempt ended with is not how this one ended.
        "exception": merged.get("exception") if state != "SUCCESS" else None,
        "traceback": merged.get("traceback") if state != "SUCCESS" else None,
        "worker": merged.get("hostname") if state != "PENDING" else None,
        "runtime": merged.get("runtime"),
        "timestamp": merged.get("timestamp"),
    }
