"""Revoke and retry. Celery is imported when the first is asked for: the monitor does without its 40 MB until then."""

from __future__ import annotations

import ast
import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace

from app.monitor.web.errors import Refused
from app.monitor.web.sources import FINAL, Json
from app.settings import AppSettings

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["Actions", "retry_refusal", "revoke_refusal"]

T = TypeVar("T")

# Seconds that a worker gets to answer. One that is there answers in a few hundredths.
REPLY_PATIENCE = 1.0
# Actions that wait for the one before: each may take some seconds while the broker is away.
MOST_WAITING = 16
# Characters of arguments that are read back. Celery writes down 1,024; Python's parser takes a hundred times the text.
ARGUMENTS_LIMIT = 20_000

logger = logging.getLogger("warren.monitor")


def revoke_refusal(task: Json) -> str | None:
    """Why a task can't be revoked, or None."""
    if task["state"] in FINAL:
        return f"the task has ended as {task['state']}; there is nothing left to revoke"
    return None


def retry_refusal(task: Json) -> str | None:
    """Why a task can't be sent again, or None."""
    try:
        arguments(task)
    except Refused as refused:
        return refused.text
    return None


def arguments(task: Json) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and the named arguments of a task, read back from what the history shows of them.

    Raises:
        Refused: 409, they can't be, or the task may still run.
    """
    if not task.get("name") or task["name"] == "unknown":
        raise Refused(409, "the history does not know this task's name, so it can't be sent again")
    if task["state"] not in FINAL and task.get("attention") != "orphaned":
        raise Refused(409, f"the task has not ended ({task['state']}); sent again it would run twice. Revoke it first")
    args, kwargs = literal(task.get("args"), "positional"), literal(task.get("kwargs"), "named")
    if (
        not isinstance(args, list | tuple)
        or not isinstance(kwargs, dict)
        or not all(isinstance(k, str) for k in kwargs)
    ):
        raise Refused(409, "the history's arguments are not those of a call, so the task can't be sent again from here")
    return tuple(args), kwargs


def literal(text: str | None, which: str) -> Any:
    if text is None:
        raise Refused(
            409, f"the history does not know the {which} arguments, so the task can't be sent again from here"
        )
    if "..." in text or len(text) > ARGUMENTS_LIMIT:
        raise Refused(
            409, f'the {which} arguments are cut in the events (at "..."), so the task can\'t be sent again from here'
        )
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise Refused(
            409,
            f"the {which} arguments hold objects that can't be made from their text, so the task can't be sent again "
            "from here",
        ) from None


class Actions:
    """What is asked of the broker, one thing at a time, in a thread of its own."""

    def __init__(self, settings: AppSettings) -> None:
        self._settings = settings
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="actions")
        self._waiting = 0

    @property
    def can_revoke(self) -> bool:
        return bool(self._settings.monitor_ops_url)

    @property
    def can_retry(self) -> bool:
        return bool(self._settings.monitor_producer_url)

    async def revoke(self, id: str, terminate: bool, workers: list[str], by: str) -> Json:
        """Has all workers refuse a task, also those to come, and end it where it runs; says which of ``workers`` answered.

        Args:
            by: who wants it, as it is kept with the revoke.

        Raises:
            Refused: it can't be done now.
        """
        if not self.can_revoke:
            raise Refused(503, "this monitor may not revoke: MONITOR_OPS_URL is not set")
        return await self._run(lambda: self._revoke(id, terminate, workers, by))

    async def retry(self, task: Json) -> Json:
        """Sends a task again, under a new id.

        Raises:
            Refused: it can't be done, or not now.
        """
        args, kwargs = arguments(task)
        if not self.can_retry:
            raise Refused(503, "this monitor may not send tasks: MONITOR_PRODUCER_URL is not set")
        return await self._run(lambda: self._retry(task, args, kwargs))

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= MOST_WAITING:
            raise Refused(503, "too many actions at once; try again in a moment", {"Retry-After": "5"})
        self._waiting += 1
        try:
            # Shielded, since what was asked for is done also if whoever asked does not wait for it.
            return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._pool, work))
        except asyncio.CancelledError:
            raise Refused(503, "cancelled") from None
        finally:
            self._waiting -= 1

    def _client(self, url: str, **overrides: Any) -> Celery:
        from app.factory import client

        return client(replace(self._settings, broker_url=url), **overrides)

    def _revoke(self, id: str, terminate: bool, workers: list[str], by: str) -> Json:
        # Remote control is asked and answered; a confirm would be waited for without end where an alarm is on.
        app = self._client(self._settings.monitor_ops_url, broker_transport_options={})
        app.control.by = by
        try:
            replies = connected(
                lambda: app.control.revoke(
                    [id],
                    terminate=terminate,
                    signal="SIGTERM",
                    reply=bool(workers),
                    limit=len(workers),
                    timeout=REPLY_PATIENCE,
                )
            )
        finally:
            app.close()
        answered = sorted(node for reply in replies or [] for node in reply)
        silent = sorted(set(workers) - set(answered))
        return {"id": id, "terminate": terminate, "answered": answered, "silent": silent}

    def _retry(self, task: Json, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Json:
        app = self._client(self._settings.monitor_producer_url)
        try:
            queue = task.get("queue") or self._settings.queues[0]
            known = self._settings.every_queue
            if queue not in known:
                raise Refused(409, f"its queue {queue} is none of this platform's ({', '.join(known)})")
            new = connected(lambda: publish(app, task["name"], args, kwargs, queue))
        finally:
            app.close()
        return {"id": new, "retry_of": task["id"], "name": task["name"], "queue": queue}

    def stop(self) -> None:
        """Ends without waiting for what the broker has not answered."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def publish(app: Celery, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], queue: str) -> str:
    """Sends a task; its id, when the broker has confirmed it.

    Raises:
        Refused: 409, its arguments can't be sent; 504, the broker did not confirm it.
    """
    from kombu.exceptions import EncodeError

    from app import sending

    try:
        # Nobody will read the reply; its queue would stay for a day.
        return str(sending.publish(app, name, args=args, kwargs=kwargs, queue=queue, ignore_result=True).id)
    except EncodeError as error:
        raise Refused(
            409, f"the arguments can't be written as JSON ({error}), so the task can't be sent again"
        ) from error
    except sending.Unconfirmed as error:
        raise Refused(504, str(error)) from error


def connected(work: Callable[[], T]) -> T:
    """Turns what can go wrong with the broker into a line.

    Raises:
        Refused: 502 or 503.
    """
    from amqp.exceptions import AMQPError
    from kombu.exceptions import OperationalError

    try:
        return work()
    except Refused:
        raise
    except AMQPError as error:
        raise Refused(502, f"the broker refuses this ({brief(error)}); the log of the monitor tells more") from error
    except (OperationalError, OSError) as error:
        raise Refused(
            503, f"the broker does not answer ({brief(error)}); try again when it does", {"Retry-After": "5"}
        ) from error


def brief(error: BaseException) -> str:
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return text[:200] or type(error).__name__
