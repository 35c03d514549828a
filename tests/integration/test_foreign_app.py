"""A Celery project that never heard of Warren runs on it unchanged, with CELERY_APP alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from app import eventlog, health
from deploy.paths import ROOT
from tests.integration.conftest import MakeWorker
from tests.support.brokers import Broker
from tests.support.eventually import eventually
from tests.support.processes import PYTHON, Process

# As it stands in somebody's repository: another broker, its own settings, and queues by task.
SHOP = """
from celery import Celery

celery = Celery("shop", broker="redis://nowhere.invalid:6379/0", include=["shop.orders"])
celery.conf.update(
    task_routes={"shop.orders.mail_*": {"queue": "mail"}},
    task_acks_late=False,
    timezone="Europe/Paris",
)
"""

ORDERS = """
from shop.main import celery

@celery.task
def total(prices):
    return sum(prices)

@celery.task
def mail_receipt(to):
    return f"sent to {to}"
"""

CLIENT = """
from app import celery
from shop.orders import mail_receipt, total

assert (celery.main, celery.conf.timezone, celery.conf.task_acks_late) == ("shop", "Europe/Paris", False)
sent = total.delay([1, 2, 3]), mail_receipt.delay("you@example.org")
print(*(one.id for one in sent), *(one.get(timeout=60) for one in sent), sep=chr(10))
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """The folder of the project."""
    folder = tmp_path / "project"
    (folder / "shop").mkdir(parents=True)
    (folder / "shop" / "__init__.py").touch()
    (folder / "shop" / "main.py").write_text(SHOP)
    (folder / "shop" / "orders.py").write_text(ORDERS)
    return folder


def test_another_project_runs_unchanged(
    broker: Broker, make_worker: MakeWorker, shop: Path, tmp_path: Path, processes: list[Process]
) -> None:
    values = {"CELERY_APP": "shop.main:celery", "PYTHONPATH": f"{ROOT}:{shop}"}
    before = broker.queues()
    worker = make_worker(concurrency=2, values=values, cwd=shop)
    assert "shop.orders.total" in worker.text
    assert "redis" not in worker.text
    assert health.ready(str(worker.health))

    client = Process(
        [PYTHON, "-c", CLIENT],
        {**values, "CELERY_BROKER_URL": broker.url("producer"), "WARREN_QUEUES": ",".join(broker.settings.queues)},
        tmp_path / "client.log",
        shop,
    )
    processes.append(client)
    assert client.popen.wait(120) == 0, client.tail()
    total, mail, *results = client.lines
    assert results == ["6", "sent to you@example.org"]

    for task_id, queue in ((total, "default"), (mail, "mail")):
        life = {"task-sent", "task-received", "task-started", "task-succeeded"}
        eventually(
            lambda task_id=task_id, life=life: life == set(events(broker, task_id)),  # type: ignore[misc]
            20,
            lambda task_id=task_id: str(events(broker, task_id)),  # type: ignore[misc]
        )
        assert events(broker, task_id)["task-sent"]["queue"] == queue
    # All of it went through what the definitions made.
    made = {name for name in broker.queues() - before if "pidbox" not in name and not name.startswith("celeryev.")}
    assert made == set()


def events(broker: Broker, task_id: str) -> dict[str, eventlog.Event]:
    return {event["type"]: event for event in eventlog.find(broker.url("ops"), task_id)}
