"""Sends a task, and knows whether the broker has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu.exceptions import EncodeError, OperationalError

if TYPE_CHECKING:
    from celery import Celery
    from celery.result import AsyncResult

__all__ = ["CONFIRM_PATIENCE", "Unconfirmed", "publish"]

# Seconds that the broker gets to confirm a task. It takes thousandths; an alarm makes it wait for ever.
CONFIRM_PATIENCE = 5


class Unconfirmed(Exception):
    """The broker was given a task, and did not say that it has it."""

    def __str__(self) -> str:
        return "the broker did not confirm the task, which may or may not run; `invoke status` shows what ails it"


def publish(app: Celery, name: str, **options: Any) -> AsyncResult[Any]:
    """Sends a task, and returns its result-to-be when the broker has confirmed it.

    Args:
        options: of Celery's ``send_task``.

    Raises:
        Unconfirmed: within some seconds the broker did not.
        kombu.exceptions.EncodeError: the arguments can't be written; nothing was sent.
        kombu.exceptions.OperationalError, amqp.AMQPError, OSError: the broker is not there, or refuses it.
    """
    connection = app.connection_for_write()
    connection.connect()
    try:
        sent = app.send_task(name, connection=connection, confirm_timeout=CONFIRM_PATIENCE, **options)
    except (TimeoutError, OperationalError) as error:
        # A broker that reads no more does not answer a goodbye either: closing would wait for that without end.
        connection.collect()
        if not isinstance(error, TimeoutError) and not isinstance(error.__cause__, TimeoutError):
            raise
        raise Unconfirmed from error
    except EncodeError:
        connection.release()
        raise
    connection.release()
    return sent
