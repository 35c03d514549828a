"""Celery's settings, each non-obvious value with its reason.

Facts on Celery, Kombu and RabbitMQ here hold for Celery 5.7, Kombu 5.7 and RabbitMQ 3.10 to 4.3; the integration tests
hold them against real brokers.
"""

from __future__ import annotations

from typing import Any

from kombu import Exchange, Queue

from app.settings import AppSettings

__all__ = [
    "DELAYED_EXCHANGE",
    "TASKS_EXCHANGE",
    "PoolLimit",
    "own_settings",
    "platform_settings",
    "task_queues",
    "worker_settings",
]

TASKS_EXCHANGE = "tasks"
# Where Celery's native delayed delivery takes tasks with a countdown or ETA (kombu/transport/native_delayed_delivery.py).
DELAYED_EXCHANGE = "celery_delayed_27"


class PoolLimit(int):
    """A time limit that nobody gave a task: that of the pool of this worker.

    Tasks that a worker imports late have a copy of it; :mod:`app.limits` tells by this type what is not to be sent.
    """


def task_queues(names: tuple[str, ...]) -> tuple[Queue, ...]:
    """The task queues: quorum, so that no task is lost with a node, on a topic exchange.

    Topic, not direct: native delayed delivery leaves direct exchanges out, and a countdown would then block a worker
    until its time, since RabbitMQ 4 has no global prefetch.

    ``no_declare``: the broker's definitions made them, and a declaration would need rights that neither producers nor
    workers should have (who may declare a queue may also delete it).
    """
    exchange = Exchange(TASKS_EXCHANGE, type="topic", durable=True, no_declare=True)
    return tuple(
        Queue(
            name, exchange, routing_key=name, durable=True, no_declare=True, queue_arguments={"x-queue-type": "quorum"}
        )
        for name in names
    )


def platform_settings(settings: AppSettings) -> dict[str, Any]:
    """What the platform decides, also for an app that brings its own configuration: where the broker is, and its queues."""
    return {
        "broker_url": settings.broker_url,
        "task_queues": task_queues(settings.every_queue),
        "task_default_queue": settings.queues[0],
        "task_default_exchange": TASKS_EXCHANGE,
        "task_default_exchange_type": "topic",
        "task_default_routing_key": settings.queues[0],
        # A task for a queue that does not exist is an error at its sender, not a message that no worker ever sees.
        "task_create_missing_queues": False,
        # Without confirms a publish that the broker refuses (full disk, missing exchange) vanishes without an error.
        "broker_transport_options": {"confirm_publish": True},
        # The monitor, Flower and the event log live on events: all of them, also that a task was sent.
        "worker_send_task_events": True,
        "task_send_sent_event": True,
        # Read by the command `celery worker` before there is a worker.
        "worker_concurrency": settings.own_pool.concurrency,
        # Limits are a worker's matter: Celery copies these into tasks, and from there into each message that is sent, where
        # they would go before those of the pool that runs it.
        "task_time_limit": None,
        "task_soft_time_limit": None,
    }


def worker_settings(settings: AppSettings) -> dict[str, Any]:
    """The limits of a worker, which are those of its pool."""
    pool = settings.own_pool
    return {
        # One number drives time limits, stop grace and the broker's consumer timeout.
        "task_time_limit": PoolLimit(pool.time_limit),
        "task_soft_time_limit": PoolLimit(pool.soft_time_limit),
    }


def own_settings(settings: AppSettings) -> dict[str, Any]:
    """Kill-safe defaults. An app that brings its own configuration keeps what it sets itself."""
    return {
        "result_backend": settings.result_backend,
        # rpc:// results survive a broker restart, and wait a day for whoever asked.
        "result_persistent": True,
        "result_expires": 86_400,
        # json only: pickle in a message runs what its sender likes.
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        # A task is acknowledged when it has ended, so a killed worker's tasks go to another one ...
        "task_acks_late": True,
        # ... also when only the pool process died (out of memory, segmentation fault). Each such return counts towards
        # the queue's delivery limit, beyond which the task goes to `dead_letters` instead of round for ever.
        "task_reject_on_worker_lost": True,
        # A worker holds just what it runs; the rest stays in the queue for whoever is free.
        "worker_prefetch_multiplier": 1,
        # After a lost connection the broker gives unacknowledged tasks to others: ending them here avoids running twice.
        "worker_cancel_long_running_tasks_on_connection_loss": True,
        # "Started" is told to the caller, and tells a revoke that a task is no longer waiting.
        "task_track_started": True,
        # A broker that is away is waited for, however long, at start and later.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # After a lost connection the broker may hold the worker's exclusive control queue for a moment still; without
        # this the worker would exit with `405 RESOURCE_LOCKED` where it only has to try again.
        "broker_channel_error_retry": True,
        # Half of RabbitMQ's default of 60 s: that control queue, and tasks of a host that vanished, are free sooner. Not less:
        # a worker under an alarm of the broker, and one whose only thread runs a task, answer none for a while.
        "broker_heartbeat": 30,
        # Pool processes that import a large app take longer than the default 4 s on a busy host.
        "worker_proc_alive_timeout": 60,
    }
