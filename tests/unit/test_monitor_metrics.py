"""The monitor's metrics, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.events.status import Status
from app.monitor.handlers.delivery import HandlerStats
from app.monitor.history.store import History
from app.monitor.history.workers import Worker
from app.monitor.metrics import DOWN, NAMES, OTHER, STALE, WORKERS, Metrics
from tests.support.events import event, heartbeat, life, take

Sample = dict[tuple[str, ...], float]


class Site:
    """Metrics of a history, and what others tell them."""

    def __init__(self, folder: Path) -> None:
        self.history = History(folder)
        self.status = Status()
        self.workers: list[Worker] = []
        self.attention = {"unclaimed": 2, "stalled": 0, "orphaned": 1}
        self.handlers: dict[str, HandlerStats] = {}
        self.metrics = Metrics(self.status, lambda: self.workers, lambda: self.attention, lambda: self.handlers)

    def take(self, *events: dict[str, object]) -> None:
        self.metrics.count(take(self.history, *events))

    def sample(self, name: str) -> Sample:
        """Values of a series by the values of its labels, the name first."""
        return {
            tuple(sample.labels[label] for label in sorted(sample.labels, key="name".__ne__)): sample.value
            for family in text_string_to_metric_families(self.metrics.text().decode())
            for sample in family.samples
            if sample.name == name
        }


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.history.close()


def test_tasks_by_name_and_state(site: Site) -> None:
    site.take(*life("a"), *life("b"), *life("c", end="failed", name="mail.send"), heartbeat(9))
    found = site.sample("warren_tasks_total")
    assert found["app.tasks.add", "SUCCESS"] == 2
    assert found["mail.send", "FAILURE"] == 1
    assert found["mail.send", "PENDING"] == 1
    assert len(found) == 8
    # What was heard before is not counted again.
    site.take(*life("a"))
    assert site.sample("warren_tasks_total") == found


def test_histograms_of_runtime_and_wait(site: Site) -> None:
    for number, runtime in enumerate((0.001, 0.005, 0.006, 3.0, 100_000.0)):
        site.take(*life(str(number), number, runtime=runtime, wait=0.125))
    buckets = {key[-1]: value for key, value in site.sample("warren_task_runtime_seconds_bucket").items()}
    # Each counts what took at most so long, itself included.
    assert (buckets["0.005"], buckets["0.01"], buckets["2.5"], buckets["5.0"]) == (2, 3, 3, 4)
    assert (buckets["7200.0"], buckets["+Inf"]) == (4, 5)
    assert site.sample("warren_task_runtime_seconds_count") == {("app.tasks.add",): 5}
    assert site.sample("warren_task_runtime_seconds_sum")["app.tasks.add",] == pytest.approx(100_003.012)
    waits = {key[-1]: value for key, value in site.sample("warren_task_queue_wait_seconds_bucket").items()}
    assert (waits["0.1"], waits["0.5"], waits["+Inf"]) == (0, 5, 5)
    assert site.sample("warren_task_queue_wait_seconds_sum")["app.tasks.add",] == pytest.approx(0.625)


def test_names_are_bounded(site: Site) -> None:
    site.take(*(one for number in range(NAMES + 100) for one in life(str(number), name=f"task-{number}")))
    found = site.sample("warren_tasks_total")
    names = {name for name, _ in found}
    assert len(names) == NAMES + 1
    assert found[OTHER, "SUCCESS"] == 100
    assert sum(found.values()) == 4 * (NAMES + 100)
    assert len({name for name, *_ in site.sample("warren_task_runtime_seconds_count")}) == NAMES + 1
    assert site.sample("warren_task_runtime_seconds_count")[OTHER,] == 100


def test_names_of_any_kind_are_labels(site: Site) -> None:
    names = ['a"b', "new\nline", "back\\slash", "ünïcode", "", " ", "{}", "\x00"]
    site.take(*(event("received", number, str(number), name=name) for number, name in enumerate(names)))
    assert {name for name, _ in site.sample("warren_tasks_total")} >= {
        'a"b',
        "new\nline",
        "back\\slash",
        "ünïcode",
    }


def worker(name: str, ago: float, **fields: object) -> Worker:
    return Worker(name, time() - ago, **fields)  # type: ignore[arg-type]


def test_workers_up_and_busy(site: Site) -> None:
    site.workers = [
        worker("idle", 1, active=0),
        worker("busy", 1, active=2),
        worker("silent", DOWN + 5, active=1),
        worker("stale", STALE + 5, active=1),
        worker("gone", 1, offline=time()),
    ]
    assert site.sample("warren_workers_up") == {(): 2}
    assert site.sample("warren_workers_busy") == {(): 1}
    assert site.sample("warren_worker_up") == {("idle",): 1, ("busy",): 1, ("silent",): 0}
    assert site.sample("warren_worker_active_tasks") == {("idle",): 0, ("busy",): 2, ("silent",): 1}


def test_workers_are_bounded(site: Site) -> None:
    site.workers = [worker(f"pod-{number:04}", number / 100) for number in range(WORKERS + 100)]
    found = site.sample("warren_worker_up")
    assert len(found) == WORKERS
    # Those heard of last.
    assert ("pod-0000",) in found
    assert (f"pod-{WORKERS:04}",) not in found
    assert site.sample("warren_workers_up") == {(): WORKERS + 100}


def test_attention(site: Site) -> None:
    assert site.sample("warren_tasks_attention") == {("unclaimed",): 2, ("stalled",): 0, ("orphaned",): 1}


def test_how_the_monitor_is(site: Site) -> None:
    assert site.sample("warren_monitor_connected") == {(): 0}
    site.status.connected, site.status.lag_events, site.status.lag_seconds, site.status.tasks = True, 7, 1.5, 9
    site.status.malformed = {"not JSON": 3, "no uuid": 1}
    assert site.sample("warren_monitor_connected") == {(): 1}
    assert site.sample("warren_monitor_lag_events") == {(): 7}
    assert site.sample("warren_monitor_lag_seconds") == {(): 1.5}
    assert site.sample("warren_monitor_history_tasks") == {(): 9}
    assert site.sample("warren_monitor_events_skipped_total") == {("not JSON",): 3, ("no uuid",): 1}


def test_handlers(site: Site) -> None:
    site.handlers = {"shop.tell": HandlerStats(5, 4, 3, 2, 1, "no")}
    stats = site.handlers["shop.tell"]
    assert site.sample("warren_handler_deliveries_total") == {("shop.tell",): stats.delivered}
    assert site.sample("warren_handler_failures_total") == {("shop.tell",): stats.failed}
    assert site.sample("warren_handler_events_lost_total") == {("shop.tell",): stats.given_up + stats.dropped}
    assert site.sample("warren_handler_waiting") == {("shop.tell",): stats.waiting}


def test_every_series_says_what_it_is_in_prometheus_own_conventions(site: Site) -> None:
    site.take(*life("a"))
    site.workers = [worker("a", 1)]
    site.handlers = {"a": HandlerStats(5, 4, 3, 2, 1, None)}
    site.status.malformed = {"not JSON": 1}
    text = site.metrics.text().decode()
    for family in text_string_to_metric_families(text):
        assert family.name.startswith("warren_")
        assert family.documentation.endswith(".")
        assert family.type in {"counter", "gauge", "histogram"}
        assert all(sample.name.endswith("_total") for sample in family.samples if family.type == "counter")
    for line in text.splitlines():
        assert "\r" not in line


def test_metrics_while_nothing_was_heard(site: Site) -> None:
    assert site.sample("warren_tasks_total") == {}
    assert site.sample("warren_workers_up") == {(): 0}
