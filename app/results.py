"""The rpc:// result backend, with its flaws mended."""

from __future__ import annotations

import os
from typing import Any

from celery import states
from celery.backends.asynchronous import Drainer
from celery.backends.rpc import ResultConsumer as CeleryResultConsumer
from celery.backends.rpc import RPCBackend as CeleryRPCBackend
from kombu.utils.functional import LRUCache

__all__ = ["RPCBackend"]

# Tasks under way whose last state ("started") is remembered for whoever asks; of the others it is "pending".
REMEMBERED = 10_000
# Seconds. What has arrived is there at once; without any limit py-amqp would wait for more.
GLANCE = 0.001


class ResultConsumer(CeleryResultConsumer):
    """Celery's own, but results that it has received can be seen without waiting for one.

    It is started by the first `get()` and from then on receives every result. Celery handles those only during another
    `get()` and looks for them in the queue meanwhile, so a `ready()` in between would be False for ever.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.under_way: LRUCache = LRUCache(limit=REMEMBERED)

    def on_state_change(self, meta: dict[str, Any], message: Any) -> None:
        super().on_state_change(meta, message)
        if meta["status"] in states.READY_STATES:
            self.under_way.pop(meta["task_id"], None)
        else:
            self.under_way[meta["task_id"]] = self.backend.meta_from_decoded(dict(meta))

    def glance(self) -> None:
        """Handles what has arrived."""
        # With gevent and eventlet a greenlet does so all the time.
        if self._connection is None or type(self.drainer) is not Drainer:
            return
        try:
            while True:
                self.drain_events(timeout=GLANCE)
        except TimeoutError:
            return


class RPCBackend(CeleryRPCBackend):
    """Celery's own, but for the results that it overlooks, and for a worker's main process that is told to revoke a task.

    There Celery asks the backend for the task's state and stores a new one (celery/worker/control.py). With rpc:// the
    main process has no reply queue and no request to answer: asking declares a durable queue that stays for a day, and
    storing logs an error. Whoever waits for the task is told when the worker discards or ends it.
    """

    ResultConsumer = ResultConsumer

    worker_pid: int | None = None

    def in_worker(self) -> bool:
        return self.worker_pid == os.getpid()

    def get_task_meta(self, task_id: str, *args: Any, **kwargs: Any) -> Any:
        if self.in_worker():
            return {"status": "PENDING", "result": None}
        self.result_consumer.glance()
        meta = super().get_task_meta(task_id, *args, **kwargs)
        return self.result_consumer.under_way.get(task_id, meta) if meta["status"] == states.PENDING else meta

    def mark_as_retry(self, task_id: str, exc: BaseException, *args: Any, **kwargs: Any) -> Any:
        # A task is cancelled since its broker was lost: there is nobody to be told. An attempt would take seconds and fail,
        # and Celery would then take the task for revoked.
        if self.in_worker():
            return None
        return super().mark_as_retry(task_id, exc, *args, **kwargs)

    def mark_as_revoked(self, task_id: str, reason: str = "", request: Any = None, **kwargs: Any) -> Any:
        if request is None and self.in_worker():
            return None
        return super().mark_as_revoked(task_id, reason, request=request, **kwargs)
