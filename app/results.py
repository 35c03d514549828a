"""The rpc:// result backend, with its flaws mended."""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import time
from contextlib import suppress
from typing import Any, ClassVar
from weakref import WeakSet

import kombu
from celery import states, uuid
from celery._state import task_join_will_block
from celery.backends.asynchronous import Drainer
from celery.backends.rpc import ResultConsumer as CeleryResultConsumer
from celery.backends.rpc import RPCBackend as CeleryRPCBackend
from kombu.utils.functional import LRUCache

__all__ = ["RPCBackend"]

# Tasks under way whose last state ("started") is remembered for whoever asks; of the others it is "pending".
REMEMBERED = 10_000
# Seconds. What has arrived is there at once; without any limit py-amqp would wait for more.
GLANCE = 0.001
# Seconds that a queue of results outlives its process, where the app says nothing of `result_expires`.
DAY = 86_400.0
# Seconds that a queue stays that is deleted at once, if something comes between.
MINUTE = 60.0
# Seconds that a process which ends waits for a broker that may hang.
GOODBYE = 1.0

logger = logging.getLogger("warren.results")

priorities = itertools.count()


class Consumer(kombu.Consumer):
    """Kombu's, but a result has arrived when it was handled: what a connection was given that broke comes again."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "no_ack": False})

    def receive(self, body: Any, message: Any) -> None:
        super().receive(body, message)
        message.ack()

    def on_decode_error(self, message: Any, error: Exception) -> None:
        # It would come again with each connection.
        message.reject()
        raise error


class ResultConsumer(CeleryResultConsumer):
    """Celery's own, but no result is lost with a connection, and what was received can be seen without waiting.

    It is started by the first `get()` and from then on receives every result. Celery handles those only during another
    `get()` and looks for them in the queue meanwhile, so a `ready()` in between would be False for ever.

    A connection that broke is replaced while somebody waits for a result. Celery 5.7 tries that for four seconds; where
    it fails, `get()` raises an error, and from then on reads from a connection that consumes nothing.
    """

    Consumer = Consumer

    _connection: Any = None
    _consumer: Any = None
    _pid = 0
    _consumed = False
    _away = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.under_way: LRUCache = LRUCache(limit=REMEMBERED)

    def consume_from(self, task_id: str) -> None:
        if self._connection is None:
            self._connection = self.app.connection()
            self._pid = os.getpid()
            consumers.add(self)

    def drain_events(self, timeout: float | None = None) -> Any:
        """Handles a result.

        Raises:
            TimeoutError: within ``timeout`` seconds there was none, or no broker.
        """
        if self._connection is None:
            return super().drain_events(timeout)
        limit = time.monotonic() + (timeout or 0)
        try:
            if self._consumer is None:
                self._consume(timeout)
            return self._connection.drain_events(timeout=timeout)
        except (*self._connection.connection_errors, *self._connection.channel_errors) as error:
            if self._consumer is not None and isinstance(error, TimeoutError) and error.errno is None:
                raise
            # What never worked may be a mistake.
            if not self._consumed and not isinstance(error, self._connection.recoverable_connection_errors):
                raise
            if not self._away:
                logger.warning("results can't be received (%s); looking for the broker", error)
            self._away = True
            self._connection.collect()
            if self._consumer is None:
                time.sleep(max(0.0, limit - time.monotonic()))
            self._consumer = None
        raise TimeoutError

    def _consume(self, timeout: float | None) -> None:
        self._connection.ensure_connection(timeout=timeout, reraise_as_library_errors=False)
        queue = self.backend.binding
        # The broker may not know for minutes that the connection before this one broke.
        queue.consumer_arguments = {"x-priority": next(priorities)}
        consumer = self.Consumer(
            self._connection.default_channel, [queue], callbacks=[self.on_state_change], accept=self.accept
        )
        consumer.consume()
        if self._away:
            logger.info("results are received again")
        self._consumer, self._consumed, self._away = consumer, True, False

    def leave(self) -> None:
        """Removes the queue, which nobody else can use."""
        if self._consumer is None or self._pid != os.getpid():
            return
        with suppress(Exception):
            self._connection.connection.sock.settimeout(GOODBYE)
            self._consumer.cancel()
            self._consumer.channel.queue_delete(self.backend.oid, if_unused=True)

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


consumers: WeakSet[ResultConsumer] = WeakSet()


@atexit.register
def leave() -> None:
    for one in tuple(consumers):
        one.leave()


class RPCBackend(CeleryRPCBackend):
    """Celery's own, but for results that it loses or overlooks, and for a worker's main process that is told to revoke a task.

    There Celery asks the backend for the task's state and stores a new one (celery/worker/control.py). With rpc:// the
    main process has no reply queue and no request to answer: asking declares a durable queue that stays for a day, and
    storing logs an error. Whoever waits for the task is told when the worker discards or ends it.
    """

    ResultConsumer = ResultConsumer

    worker_pid: int | None = None
    lasting: ClassVar[set[str]] = set()

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Makes the queue of results, as Celery's own does.

        RabbitMQ 3.10 and 4.0 say that a queue is there before they know it on their disk: if they are killed then, the last
        thing that they made may be gone, and results that come before somebody asks for one vanish. So this is not the last.
        """
        super().on_task_call(producer, task_id)
        if self.oid in self.lasting or task_join_will_block():
            return
        self.lasting.add(self.oid)
        last = self.Queue(uuid(), durable=True, auto_delete=True, expires=MINUTE).bind(producer.channel)
        # A connection that breaks here is looked after by whoever sends the task.
        with suppress(*producer.connection.connection_errors, *producer.connection.channel_errors):
            last.declare()
            last.delete()

    @property
    def binding(self) -> Any:
        """The queue of this process's results.

        Celery's goes with its last consumer, that is, with a connection that breaks: results in it are lost, and so are
        those that come before the next one.
        """
        return self.Queue(
            self.oid, self.exchange, self.oid, durable=True, auto_delete=False, expires=self.expires or DAY
        )

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
