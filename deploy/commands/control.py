"""What is said to workers by remote control, and what can go wrong with the broker on the way."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from amqp.exceptions import AccessRefused, NotAllowed, NotFound
from kombu.exceptions import OperationalError

from deploy import management
from deploy.errors import ExitCode, WarrenError, reason
from deploy.output import print_json, say
from deploy.services import worker_services
from deploy.session import Session

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["ask", "busy_nodes", "connected", "logs_of", "nodes", "ping", "refuse_under_alarm", "task_id"]

# Seconds that a worker gets to answer. One that is there answers in a few hundredths.
REPLY_PATIENCE = 1.0


@contextlib.contextmanager
def connected(s: Session, role: str) -> Iterator[None]:
    """Turns what can go wrong with the broker into its line and exit code."""
    where = f"the broker at {s.endpoints.broker}"
    try:
        yield
    except (AccessRefused, NotAllowed) as error:
        if "ACCESS_REFUSED - Login" in str(error) or (error.reply_code == 403 and "PLAIN" in str(error)):
            raise WarrenError(
                f"{where} refuses the password of user {role} {s.endpoints.refused(role, 'rabbitmq')}",
                ExitCode.BROKER,
            ) from error
        raise WarrenError(f"{where} refuses this to user {role}: {reason(error)}", ExitCode.BROKER) from error
    except NotFound as error:
        raise WarrenError(
            f"{where} lacks a queue or exchange ({reason(error)}); {s.endpoints.definitions_again}",
            ExitCode.BROKER,
        ) from error
    except (OperationalError, OSError) as error:
        raise WarrenError(
            f"{where} does not answer ({reason(error)}); {s.endpoints.no_answer}",
            ExitCode.BROKER,
        ) from error


def logs_of(s: Session, nodes: Collection[str]) -> str:
    """The command that shows what the workers ``nodes`` wrote; where they can't be told apart, what all wrote."""
    every = list(worker_services(s.settings))
    found: set[str] = set()
    # There is nothing to tell apart where there is one pool.
    if len(every) > 1:
        with contextlib.suppress(WarrenError):
            found = {one.service for one in s.platform.status() if one.node in nodes}
    return f"`invoke logs {' '.join([one for one in every if one in found] or every)}`"


def refuse_under_alarm(s: Session) -> None:
    """An alarm makes the broker read no more from who publishes: what is sent now would wait unseen, and may run later."""
    found = management.alarms(s.endpoints, s.secrets)
    if found:
        what = " and ".join(found)
        raise WarrenError(
            f"the broker takes no messages: its {what} alarm is on. Free {what}, or "
            f"{'lower WARREN_DISK_FREE_LIMIT_MB' if 'disk' in what else 'raise WARREN_RABBITMQ_MEMORY_MB'}; nothing was done",
            ExitCode.BROKER,
        )


def nodes(s: Session) -> list[str]:
    """The workers' nodes that listen to remote control now: each has its own queue for it."""
    suffix = ".celery.pidbox"
    names = management.bound(s.endpoints, s.secrets, "celery.pidbox")
    return [name.removesuffix(suffix) for name in names if name.endswith(suffix)]


def ask(s: Session, app: Celery, method: str, *, limit: int, **arguments: Any) -> dict[str, Any]:
    """What the workers answer to a command of remote control, by node; waits for ``limit`` answers at most."""
    s.runner.show(f"celery -A app inspect {method}  # as user ops")
    replies = app.control.broadcast(method, arguments=arguments, reply=True, limit=limit, timeout=REPLY_PATIENCE)
    return by_node(replies)


def by_node(replies: list[dict[str, Any]] | None) -> dict[str, Any]:
    """The answers of workers, which Celery gives as a list of one-entry tables, or as None where none was asked for."""
    return {node: answer for reply in replies or [] for node, answer in reply.items()}


def busy_nodes(s: Session, workers: int) -> set[str]:
    """The nodes that run a task now."""
    with connected(s, "ops"):
        answers = ask(s, s.client("ops"), "active", limit=workers)
    return {node for node, tasks in answers.items() if tasks}


def ping(s: Session, as_json: bool) -> None:
    with connected(s, "ops"):
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
        refuse_under_alarm(s)
        raise WarrenError(
            "no worker is connected to the broker; `invoke status` shows why, `invoke scale-workers 1` starts one",
            ExitCode.UNKNOWN,
        )
    if silent:
        refuse_under_alarm(s)
        raise WarrenError(
            f"{len(silent)} of {len(known)} workers did not answer; see `invoke logs worker`", ExitCode.TIMEOUT
        )


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
