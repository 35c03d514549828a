"""app/factory.py and app/__init__.py: the Celery app of a process, our own or the user's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery._state import _get_current_app, set_default_app

import app as package
from app import config, factory
from app.environment import Mistake
from app.results import RPCBackend
from app.settings import AppSettings
from deploy.paths import ROOT


@pytest.fixture(autouse=True)
def celery_as_it_was() -> Iterator[None]:
    before = _get_current_app()
    yield
    before.set_current()
    set_default_app(before)


SHOP = """
from celery import Celery

app = Celery("shop", broker="amqp://else.where//")
app.conf.task_acks_late = False
app.conf.result_backend = "cache+memory://"
app.conf.task_default_queue = "shop"
app.conf.timezone = "Europe/Berlin"


@app.task(shared=False)
def send(): ...


number = 3
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "celery.py").write_text(SHOP)
    (folder / "empty.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "shop"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def made_for(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Celery:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return factory.from_environment()


# --- our own


def test_our_own_app_has_our_settings_and_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    app = made_for(
        monkeypatch,
        CELERY_BROKER_URL="amqp://u:p@h:1/v",
        WARREN_QUEUES="mail,default",
        WARREN_TASK_TIME_LIMIT="100",
        WARREN_WORKER_CONCURRENCY="3",
    )
    assert app.conf.broker_url == "amqp://u:p@h:1/v"
    assert [queue.name for queue in app.conf.task_queues] == ["mail", "default"]
    assert (app.conf.task_default_queue, app.conf.task_default_routing_key) == ("mail", "mail")
    # A sender has none, which would go before those of the pool that runs its tasks.
    assert (app.conf.task_time_limit, app.conf.task_soft_time_limit) == (None, None)
    factory.join_pool(SimpleNamespace(app=app))
    assert (app.conf.task_time_limit, app.conf.task_soft_time_limit) == (100, 90)
    assert app.conf.worker_concurrency == "3"
    app.loader.import_default_modules()
    assert {"app.tasks.add", "app.tasks.sleep", "app.tasks.fail", "app.tasks.retry"} <= set(app.tasks)


def test_settings_that_keep_tasks_safe() -> None:
    conf = factory.make(AppSettings()).conf
    for name, value in config.own_settings(AppSettings()).items():
        assert conf[name] == value, name
    assert conf.task_acks_late and conf.task_reject_on_worker_lost and conf.worker_prefetch_multiplier == 1
    assert conf.broker_transport_options["confirm_publish"] is True
    assert conf.task_create_missing_queues is False
    assert conf.accept_content == ["json"]


def test_every_setting_is_one_that_celery_knows() -> None:
    from celery.app.defaults import NAMESPACES, flatten

    known = {name for name, _ in flatten(NAMESPACES)}
    made = (config.own_settings, config.platform_settings, config.worker_settings)
    settings = {name: value for settings in made for name, value in settings(AppSettings()).items()}
    assert set(settings) - known == set()


def test_delayed_delivery_is_on_as_celery_sees_it() -> None:
    from celery.utils.quorum_queues import detect_quorum_queues

    assert detect_quorum_queues(factory.make(AppSettings()), "amqp") == (True, "default")


def test_the_backend_and_the_health_steps_are_ours() -> None:
    from app.steps import Alive, Ready

    app = factory.make(AppSettings())
    assert isinstance(app.backend, RPCBackend)
    assert Alive in app.steps["worker"]
    assert Ready in app.steps["consumer"]
    assert factory.make(AppSettings(result_backend="cache+memory://")).backend.__class__.__name__ == "CacheBackend"


def test_events_go_to_an_exchange_that_nobody_declares() -> None:
    factory.make(AppSettings())
    from celery.events.event import event_exchange

    assert event_exchange.no_declare


def test_a_commands_app_gives_up_soon() -> None:
    conf = factory.client(AppSettings(broker_url="amqp://h/v"), task_ignore_result=True).conf
    assert (conf.broker_connection_retry, conf.broker_connection_max_retries, conf.task_publish_retry) == (
        False,
        0,
        False,
    )
    assert 0 < conf.broker_connection_timeout <= 5
    assert (conf.broker_url, conf.task_ignore_result) == ("amqp://h/v", True)


# --- the user's own


def test_a_foreign_app_gets_the_platforms_settings_and_keeps_its_own(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = made_for(monkeypatch, CELERY_APP="shop.celery:app", CELERY_BROKER_URL="amqp://h/v", WARREN_QUEUES="mail")
    assert app.main == "shop"
    assert "shop.celery.send" in app.tasks
    # The platform's:
    assert (app.conf.broker_url, app.conf.task_default_queue) == ("amqp://h/v", "mail")
    assert [queue.name for queue in app.conf.task_queues] == ["mail"]
    assert app.conf.task_send_sent_event and app.conf.worker_send_task_events
    # Its own:
    assert (app.conf.task_acks_late, app.conf.result_backend) == (False, "cache+memory://")
    assert app.conf.timezone == "Europe/Berlin"
    # Where it says nothing:
    assert app.conf.task_reject_on_worker_lost is True
    assert app.conf.worker_prefetch_multiplier == 1


@pytest.mark.parametrize("place", ["shop", "shop.celery", "shop.celery:app", "shop.celery.app"])
def test_ways_to_name_an_app(shop: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    assert made_for(monkeypatch, CELERY_APP=place).main == "shop"


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (
            "nowhere.celery:app",
            r"CELERY_APP=nowhere.celery:app can't be imported \(No module named 'nowhere'\); is WARREN_",
        ),
        (
            "shop.nothing",
            r"CELERY_APP=shop.nothing can't be imported \(.*nothing.*\); is WARREN_APP_CONTEXT its folder\?",
        ),
        (
            "shop.celery:nothing",
            r"CELERY_APP=shop.celery:nothing can't be imported \(.*nothing.*\); is WARREN_APP_CONTEXT",
        ),
        ("shop.empty", r"CELERY_APP=shop.empty can't be imported \(.*\); is WARREN_APP_CONTEXT its folder\?"),
        ("shop.celery:number", r"CELERY_APP=shop.celery:number is a int, not a Celery app"),
        ("shop.celery:send", r"CELERY_APP=shop.celery:send is a .*, not a Celery app"),
        ("app.celery", r"CELERY_APP=app.celery: the package name 'app' is Warren's own; rename yours or add a module"),
        ("app.mine:app", r"CELERY_APP=app.mine:app: the package name 'app' is Warren's own; "),
        ("app:celery", r"CELERY_APP=app:celery: the package name 'app' is Warren's own; "),
    ],
)
def test_an_app_that_there_is_not(shop: Path, place: str, line: str) -> None:
    with pytest.raises(Mistake, match=f"^{line}") as caught:
        factory.foreign(place)
    assert len(caught.value.lines) == 1


def test_a_mistake_ends_the_process_with_its_lines_and_code_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        made_for(monkeypatch, WARREN_QUEUES="A.b", WARREN_TASK_TIME_LIMIT="x")
    assert caught.value.code == 3
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("=")[0] for line in lines] == ["error: WARREN_QUEUES", "error: WARREN_TASK_TIME_LIMIT"]


# --- as programs


def celery(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CELERY_", "WARREN_"))}
    return subprocess.run(
        [sys.executable, "-m", "celery", "-A", "app", *words],
        cwd=ROOT,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_celery_finds_the_app() -> None:
    done = celery("report", CELERY_BROKER_URL="amqp://u:s3cret@h:1/v", WARREN_QUEUES="mail")
    assert done.returncode == 0, done.stderr
    assert "task_default_queue: 'mail'" in done.stdout
    assert "s3cret" not in done.stdout


def test_celery_with_a_wrong_app_is_one_line_and_code_3() -> None:
    done = celery("report", CELERY_APP="nowhere:app")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        "error: CELERY_APP=nowhere:app can't be imported (No module named 'nowhere'); is WARREN_APP_CONTEXT its folder?\n"
    )


def test_the_package_is_light_until_the_app_is_asked_for() -> None:
    code = (
        "import json, sys, app.settings, app.health; before = 'celery' in sys.modules; import app; made = app.celery;"
        "print(json.dumps([before, type(made).__name__, made is app.celery]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [False, "Celery", True]


def test_the_package_has_no_other_attributes() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'app'"):
        getattr(package, "app")  # noqa: B009


# --- the rpc backend


class Asked:
    """Notes which of Celery's own methods were asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        for name in ("get_task_meta", "mark_as_revoked"):
            monkeypatch.setattr(f"celery.backends.rpc.RPCBackend.{name}", self.note(name))

    def note(self, name: str) -> Any:
        def method(*_: Any, **__: Any) -> dict[str, Any]:
            self.names.append(name)
            return {"status": "SUCCESS", "result": 5}

        return method


@pytest.mark.parametrize("pid", [None, -1])
def test_outside_a_worker_the_backend_is_celerys(monkeypatch: pytest.MonkeyPatch, pid: int | None) -> None:
    monkeypatch.setattr(RPCBackend, "worker_pid", pid)
    asked = Asked(monkeypatch)
    backend = factory.make(AppSettings()).backend
    backend.get_task_meta("id")
    backend.mark_as_revoked("id")
    assert asked.names == ["get_task_meta", "mark_as_revoked"]


def test_a_workers_main_process_leaves_no_queue_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RPCBackend, "worker_pid", os.getpid())
    asked = Asked(monkeypatch)
    backend = factory.make(AppSettings()).backend
    assert backend.get_task_meta("id")["status"] == "PENDING"
    assert backend.mark_as_revoked("id", "revoked") is None
    assert asked.names == []
    backend.mark_as_revoked("id", request=object())
    assert asked.names == ["mark_as_revoked"]


def test_a_client_asks_the_broker_that_it_was_made_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "amqp://elsewhere:1/v")
    app = factory.client(AppSettings(broker_url="amqp://ops@h:5/v"))
    assert app.connection_for_read().hostname == app.connection_for_write().hostname == "h"
