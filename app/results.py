"""The rpc:// result backend without what a worker leaves behind on every revoke."""

from __future__ import annotations

import os
from typing import Any

from celery.backends.rpc import RPCBackend as CeleryRPCBackend

__all__ = ["RPCBackend"]


class RPCBackend(CeleryRPCBackend):
    """Celery's own, but for a worker's main process that is told to revoke a task.

    There Celery asks the backend for the task's state and stores a new one (celery/worker/control.py). With rpc:// the
    main process has no reply queue and no request to answer: asking declares a durable queue that stays for a day, and
    storing logs an error. Whoever waits for the task is told when the worker discards or ends it.
    """

    worker_pid: int | None = None

    def in_worker(self) -> bool:
        return self.worker_pid == os.getpid()

    def get_task_meta(self, task_id: str, *args: Any, **kwargs: Any) -> Any:
        if self.in_worker():
            return {"status": "PENDING", "result": None}
        return super().get_task_meta(task_id, *args, **kwargs)

    def mark_as_revoked(self, task_id: str, reason: str = "", request: Any = None, **kwargs: Any) -> Any:
        if request is None and self.in_worker():
            return None
        return super().mark_as_revoked(task_id, reason, request=request, **kwargs)
