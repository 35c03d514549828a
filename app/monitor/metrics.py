"""The monitor's metrics, in Prometheus' conventions. Counters begin at zero with the process."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from time import time

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from app.events.status import Status
from app.monitor.handlers.delivery import HandlerStats
from app.monitor.history.store import Told
from app.monitor.history.workers import Worker
from app.monitor.lines import STATES

__all__ = ["Metrics"]

# Seconds: from a task that does nothing to one that runs for hours, in steps that tell a slow day from a bad one.
RUNTIMES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
WAITS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
# Names of tasks that get series of their own, the first heard of; all others share one. Whoever puts an id into the name
# of each task must not fill Prometheus.
NAMES = 200
OTHER = "other"
# Workers that get series of their own, those heard of last; names of pods are new with each.
WORKERS = 500
# Seconds after which a worker that fell silent has no series any more: long enough for an alert to fire.
STALE = 900.0
# Seconds without a heartbeat (one every 2 s) until a worker counts as down.
DOWN = 15.0


class Histogram:
    """Counts of values by upper bound."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulated, as Prometheus wants them, and the sum."""
        total = 0
        found = []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found, self._sum


class Metrics(Collector):
    """Counts what the history is told, and shows it with what others know.

    :meth:`count` is called by the thread that follows the log, all else by any.

    Args:
        workers: the workers now.
        attention: how many tasks need it, by kind.
        handlers: what became of the handlers' events.
    """

    def __init__(
        self,
        status: Status,
        workers: Callable[[], Iterable[Worker]],
        attention: Callable[[], Mapping[str, int]],
        handlers: Callable[[], Mapping[str, HandlerStats]],
    ) -> None:
        self._status = status
        self._workers = workers
        self._attention = attention
        self._handlers = handlers
        self._names: set[str] = set()
        self._events: Counter[tuple[str, str]] = Counter()
        self._runtimes: dict[str, Histogram] = {}
        self._waits: dict[str, Histogram] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def count(self, told: Sequence[Told]) -> None:
        """Adds events that the history had not heard before."""
        kinds = Counter((name, event.type) for event, task, name, _ in told if task is not None)
        for (name, kind), count in kinds.items():
            self._events[self._label(name), kind] += count
        for event, task, name, _ in told:
            if event.runtime is not None and event.type == "task-succeeded":
                self._of(self._runtimes, self._label(name), RUNTIMES).add(event.runtime)
            elif task is not None and task.wait is not None and event.type == "task-received":
                self._of(self._waits, self._label(name), WAITS).add(task.wait)

    def text(self) -> bytes:
        """The metrics as Prometheus reads them."""
        return generate_latest(self._registry)

    def _label(self, name: str) -> str:
        if name in self._names:
            return name
        if len(self._names) >= NAMES:
            return OTHER
        self._names.add(name)
        return name

    @staticmethod
    def _of(histograms: dict[str, Histogram], label: str, bounds: tuple[float, ...]) -> Histogram:
        found = histograms.get(label)
        if found is None:
            found = histograms[label] = Histogram(bounds)
        return found

    def collect(self) -> Iterator[Metric]:
        yield from self._collect_tasks()
        yield from self._collect_workers()
        yield from self._collect_monitor()
        yield from self._collect_handlers()

    def _collect_tasks(self) -> Iterator[Metric]:
        # How often tasks came into a state; how many are in it now is the history's to say.
        events = CounterMetricFamily("warren_tasks", "Times that a task came into a state.", labels=("name", "state"))
        for (name, kind), count in sorted(self._events.copy().items()):
            events.add_metric((name, STATES[kind]), count)
        yield events
        for metric, text, histograms in (
            ("warren_task_runtime_seconds", "How long tasks ran that succeeded.", self._runtimes),
            (
                "warren_task_queue_wait_seconds",
                "From when a task could be taken to when a worker received it.",
                self._waits,
            ),
        ):
            family = HistogramMetricFamily(metric, text, labels=("name",))
            for name, histogram in sorted(histograms.copy().items()):
                family.add_metric((name,), *histogram.buckets())
            yield family
        attention = GaugeMetricFamily("warren_tasks_attention", "Tasks that need attention now.", labels=("kind",))
        for kind, count in self._attention().items():
            attention.add_metric((kind,), count)
        yield attention

    def _collect_workers(self) -> Iterator[Metric]:
        now = time()
        known = sorted(self._workers(), key=lambda one: -one.heartbeat)
        alive = [one for one in known if not one.gone and one.heartbeat > now - DOWN]
        yield GaugeMetricFamily("warren_workers_up", "Workers whose heartbeats arrive.", len(alive))
        busy = sum(1 for one in alive if one.active)
        yield GaugeMetricFamily("warren_workers_busy", "Workers that run at least one task.", busy)
        up = GaugeMetricFamily("warren_worker_up", "Whether the worker's heartbeats arrive.", labels=("worker",))
        active = GaugeMetricFamily("warren_worker_active_tasks", "Tasks that the worker runs.", labels=("worker",))
        for one in [one for one in known if one.heartbeat > now - STALE and not one.gone][:WORKERS]:
            up.add_metric((one.name,), float(one.heartbeat > now - DOWN))
            active.add_metric((one.name,), one.active or 0)
        yield up
        yield active

    def _collect_monitor(self) -> Iterator[Metric]:
        status = self._status
        for name, text, value in (
            ("warren_monitor_connected", "Whether the monitor reads the event log.", status.connected),
            ("warren_monitor_lag_events", "Events in the log that are not yet in the history.", status.lag_events),
            ("warren_monitor_lag_seconds", "How far the history is behind the log.", status.lag_seconds),
            ("warren_monitor_history_tasks", "Tasks in the history.", status.tasks),
        ):
            yield GaugeMetricFamily(name, text, float(value))
        skipped = CounterMetricFamily(
            "warren_monitor_events_skipped", "Malformed events that were skipped.", labels=("kind",)
        )
        for kind, count in sorted(status.malformed.items()):
            skipped.add_metric((kind,), count)
        yield skipped

    def _collect_handlers(self) -> Iterator[Metric]:
        delivered = CounterMetricFamily("warren_handler_deliveries", "Events delivered.", labels=("handler",))
        failed = CounterMetricFamily("warren_handler_failures", "Attempts that failed.", labels=("handler",))
        lost = CounterMetricFamily(
            "warren_handler_events_lost", "Events given up or dropped because too many waited.", labels=("handler",)
        )
        waiting = GaugeMetricFamily("warren_handler_waiting", "Events that wait for delivery.", labels=("handler",))
        for name, stats in sorted(self._handlers().items()):
            delivered.add_metric((name,), stats.delivered)
            failed.add_metric((name,), stats.failed)
            lost.add_metric((name,), stats.given_up + stats.dropped)
            waiting.add_metric((name,), stats.waiting)
        yield from (delivered, failed, lost, waiting)
