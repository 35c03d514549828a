"""What app/flower leans on in Flower and Celery. Fails where an upgrade changes it: then read app/flower against theirs."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import celery
import celery.events.state
import flower
import flower.api
import flower.app
import flower.command
import flower.events
import flower.options
import flower.urls
import flower.utils.search
import flower.views.monitor
import pytest

from app.flower.state import State
from deploy.secrets import NAMES, Secrets
from deploy.services import environments
from deploy.settings import Settings

VERSIONS = f"Flower {flower.__version__} and Celery {celery.__version__}; app/flower was written for 2.2.0 and 5.7.0"

SIGNATURES: dict[str, tuple[Any, str]] = {
    "Flower": (
        flower.app.Flower.__init__,
        "(self, options=None, capp=None, events=None, io_loop=None, **kwargs)",
    ),
    "print_banner": (flower.command.print_banner, "(app, ssl, port=None)"),
    "Flower.start": (flower.app.Flower.start, "(self)"),
    "Flower.stop": (flower.app.Flower.stop, "(self)"),
    "Flower.start_http_server": (flower.app.Flower.start_http_server, "(self)"),
    "rewrite_handler": (flower.app.rewrite_handler, "(handler, url_prefix)"),
    "Events": (
        flower.events.Events.__init__,
        "(self, capp, io_loop, db=None, persistent=False, enable_events=True, state_save_interval=0, "
        "*, max_tasks_in_memory, **kwargs)",
    ),
    "Events.start": (flower.events.Events.start, "(self)"),
    "Events.stop": (flower.events.Events.stop, "(self)"),
    "Events.run": (flower.events.Events.run, "(self)"),
    "Events.load_state": (flower.events.Events.load_state, "(self)"),
    "Events.save_state": (flower.events.Events.save_state, "(self)"),
    "EventsState": (flower.events.EventsState.__init__, "(self, *args, **kwargs)"),
    "EventsState.event": (flower.events.EventsState.event, "(self, event)"),
    "PrometheusMetrics.observe_task": (
        flower.events.PrometheusMetrics.observe_task,
        "(self, worker, event, task)",
    ),
    "PrometheusMetrics.observe_worker": (flower.events.PrometheusMetrics.observe_worker, "(self, worker, event)"),
    "PrometheusMetrics.remove_workers": (flower.events.PrometheusMetrics.remove_workers, "(self, worker_names)"),
    "TaskSearchEngine": (flower.utils.search.TaskSearchEngine.__init__, "(self)"),
    "TaskSearchEngine.rebuild": (flower.utils.search.TaskSearchEngine.rebuild, "(self, tasks)"),
    "TaskSearchEngine.upsert": (flower.utils.search.TaskSearchEngine.upsert, "(self, task)"),
    "TaskSearchEngine.remove": (flower.utils.search.TaskSearchEngine.remove, "(self, task_id)"),
    "TaskSearchEngine._clear": (flower.utils.search.TaskSearchEngine._clear, "(self)"),
    "Metrics.get": (flower.views.monitor.Metrics.get, "(self)"),
    "Healthcheck.get": (flower.views.monitor.Healthcheck.get, "(self)"),
    "BaseApiHandler.prepare": (flower.api.BaseApiHandler.prepare, "(self)"),
    "celery Task": (
        celery.events.state.Task.__init__,
        "(self, uuid=None, cluster_state=None, children=None, **kwargs)",
    ),
    "celery Worker": (
        celery.events.state.Worker.__init__,
        "(self, hostname=None, pid=None, freq=60, heartbeats=None, clock=0, active=None, processed=None, loadavg=None, "
        "sw_ident=None, sw_ver=None, sw_sys=None)",
    ),
    "celery Worker._create_event_handler": (celery.events.state.Worker._create_event_handler, "(self)"),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    of, expected = SIGNATURES[name]
    assert str(inspect.signature(of)) == expected, VERSIONS


def source(of: Any) -> str:
    return inspect.getsource(of)


# What no signature tells: the lines that are overridden around, or that make an override work.
LINES: dict[str, tuple[Any, str]] = {
    "the class of the application is a name of the command's module": (
        flower.command,
        "flower_app = Flower(capp=app, options=options, **settings)",
    ),
    "the banner is a name of the command's module": (
        flower.command,
        "print_banner(app, 'ssl_options' in settings, port)",
    ),
    "the banner logs the settings of the command's module": (
        flower.command.print_banner,
        "logger.debug('Settings: %s', pformat(settings))",
    ),
    "options come from variables": (flower.command, "ENV_VAR_PREFIX = 'FLOWER_'"),
    "given events are used": (flower.app.Flower.__init__, "self.events = events or Events("),
    "workers known from inspection": (flower.app.Flower, "return self.inspector.workers"),
    "events start threads": (flower.events.Events.start, "threading.Thread.start(self)"),
    "the state is loaded by a method": (flower.events.Events.__init__, "self.state = self.load_state()"),
    "the state is saved at an interval": (
        flower.events.Events.__init__,
        "self.state_save_timer = PeriodicCallback(self.save_state,",
    ),
    "the state is saved on stop": (flower.events.Events.stop, "if self.persistent:\n            self.save_state()"),
    "events are indexed": (flower.events.EventsState._index_task, "self.search_engine.upsert(task)"),
    "evicted tasks are removed": (flower.events.EventsState._index_task, "self.search_engine.remove(evicted)"),
    "tasks are counted": (flower.events.EventsState.event, "self.metrics.observe_task(worker, event, task)"),
    "a task's event has both times swapped": (
        celery.events.state.State._create_dispatcher,
        "worker.event(None, local_received, timestamp)",
    ),
    "the state's own classes are used": (
        celery.events.state.State._create_dispatcher,
        "tasks, Task = self.tasks, self.Task\n        workers, Worker = self.workers, self.Worker",
    ),
    "a heap stays empty": (celery.events.state.State._create_dispatcher, "insort(taskheap, timetup)"),
    "handlers of fields are asked for by name": (
        celery.events.state.Task.as_dict,
        "self._serializer_handlers.get",
    ),
}


@pytest.mark.parametrize("why", LINES)
def test_lines(why: str) -> None:
    of, line = LINES[why]
    assert line in source(of), f"{why}: {VERSIONS}"


def test_nothing_but_the_banner_logs_settings() -> None:
    """Since there are secrets among them."""
    folder = Path(flower.__file__).parent
    lines = [line.strip() for file in folder.rglob("*.py") for line in file.read_text().splitlines()]
    assert [line for line in lines if re.match(r"logger\..*\b(settings|environ)\b", line)] == [
        "logger.debug('Settings: %s', pformat(settings))"
    ], VERSIONS


def test_nothing_of_flower_asks_for_tasks_in_the_order_of_their_events() -> None:
    """Since the list of them is not kept."""
    folder = Path(flower.__file__).parent
    for file in (*folder.rglob("*.py"), *folder.rglob("*.html")):
        text = file.read_text()
        for word in ("tasks_by_time", "_taskheap", "tasks_by_type(", "tasks_by_worker("):
            assert word not in text, f"{file.name} has {word}: {VERSIONS}"


def test_fields() -> None:
    assert {*celery.events.state.Task._fields} == {
        *("uuid", "name", "state", "received", "sent", "started", "rejected", "succeeded", "failed", "retried"),
        *("revoked", "args", "kwargs", "eta", "expires", "retries", "worker", "result", "exception", "timestamp"),
        *("runtime", "traceback", "exchange", "routing_key", "clock", "client", "root", "root_id", "parent"),
        *("parent_id", "children"),
    }, VERSIONS
    state = State(10, 10)
    for name in ("counter", "event_count", "task_count", "_seen_types", "tasks_by_type", "tasks_by_worker", "workers"):
        assert hasattr(state, name), f"{name}: {VERSIONS}"
    metrics = flower.events.get_prometheus_metrics()
    for name in ("number_of_prefetched_tasks", "worker_number_of_currently_executing_tasks", "worker_online"):
        assert hasattr(metrics, name), f"{name}: {VERSIONS}"


def test_pages() -> None:
    paths = {one.regex.pattern if hasattr(one, "regex") else one[0] for one in flower.urls.handlers}
    # What ours are put before.
    assert {"/metrics", "/healthcheck"} <= {path.rstrip("$") for path in paths}, VERSIONS


def test_every_variable_that_is_set_is_an_option() -> None:
    secrets = Secrets({name: name for name in NAMES})
    oauth = Settings(
        flower_auth_provider="flower.views.auth.GoogleAuth2LoginHandler",
        flower_auth="a@example.org",
        flower_oauth2_key="key",
        flower_oauth2_secret="secret",
        flower_oauth2_redirect_uri="https://example.org/login",
    )
    ours = {"ready_seconds", "deaf_seconds", "metrics_token"}
    for settings in (Settings(), oauth):
        values = environments(settings, secrets, "rabbitmq", 5672, 15672)["flower"]
        names = {name.removeprefix("FLOWER_").lower() for name in values if name.startswith("FLOWER_")}
        assert (
            names
            - ours
            - {*flower.options.options._options}.union(
                name.replace("-", "_") for name in flower.options.options._options
            )
            == set()
        ), VERSIONS
        # One way in, never both and never none.
        assert ("basic_auth" in names) is not ("auth" in names)
        assert ("auth_provider" in names) is ("auth" in names)
