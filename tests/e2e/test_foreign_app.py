"""A Celery project that never heard of Warren gets the same platform."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.errors import ExitCode
from tests.support.checkout import Checkout
from tests.support.eventually import eventually

PROJECT = {
    "requirements.txt": "celery>=5\ninflection==0.5.1\n",
    "shop/__init__.py": "",
    "shop/main.py": """
from celery import Celery

celery_app = Celery("shop", broker="redis://nowhere", include=["shop.orders"])
celery_app.conf.task_routes = {"shop.orders.mail": {"queue": "mail"}}
""",
    "shop/orders.py": """
import os

import inflection

from shop.main import celery_app


@celery_app.task
def title(text):
    return inflection.titleize(text)


@celery_app.task(bind=True)
def mail(self):
    return [self.request.delivery_info["routing_key"], os.environ["SHOP_KEY"]]


@celery_app.task
def broken():
    raise ValueError("no rabbits")
""",
    "shop/alerts.py": """
import os
import sys

import inflection
from app.monitor.handlers import on


@on("task-failed", name="shop.*")
def tell(event):
    said = inflection.titleize(event["exception"])
    print("told of", event["id"], said, os.environ["SHOP_KEY"], file=sys.stderr, flush=True)
""",
}


@pytest.fixture
def shop(stack: Checkout, platform: str, tmp_path: Path) -> Iterator[Checkout]:
    """A stack of its own for the project, with the installed packages of the first one."""
    for name, text in PROJECT.items():
        (tmp_path / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "project" / name).write_text(text)
    (tmp_path / "warren").mkdir()
    checkout = Checkout(
        tmp_path / "warren",
        platform,
        CELERY_APP="shop.main:celery_app",
        WARREN_APP_CONTEXT=str(tmp_path / "project"),
        WARREN_QUEUES="default,mail",
        MONITOR_HANDLERS="shop.alerts",
    )
    (checkout.folder / ".venv").symlink_to(stack.folder / ".venv")
    (checkout.folder / "app.env").write_text("SHOP_KEY=of its own\n")
    try:
        yield checkout
    finally:
        checkout.invoke("down", "--volumes", "--yes", check=False)


def test_its_tasks_run_with_its_packages_routes_and_variables(shop: Checkout) -> None:
    printed = shop.invoke("up", "--try-it").stdout
    assert "pong" in printed
    assert shop.invoke("call", "title", '"order_of_rabbits"', "--wait").stdout == '"Order Of Rabbits"\n'
    assert (
        shop.invoke("call", "shop.orders.mail", "--queue", "mail", "--wait", "--json").stdout.count("of its own") == 1
    )
    queues = {queue["queue"]: queue for queue in shop.json("queues")}
    assert queues["mail"]["type"] == "quorum"
    eventually(lambda: "Status: SUCCESS[shop.orders.title] ID" in shop.invoke("logs", "monitor").stdout, 60)
    # So do its handlers.
    task = shop.invoke("call", "broken").stdout.strip()
    told = f"told of {task} Value Error('No Rabbits') of its own"
    eventually(lambda: told in shop.invoke("logs", "monitor").stdout, 60, lambda: shop.invoke("logs", "monitor").stdout)


def test_handlers_that_cannot_be_imported_are_said_in_one_line(shop: Checkout) -> None:
    shop.set(MONITOR_HANDLERS="shop.alarms", WARREN_UP_TIMEOUT="30")
    done = shop.invoke("up", check=False)
    assert done.returncode == ExitCode.SETTINGS
    assert "MONITOR_HANDLERS: there is no module shop.alarms" in done.stderr


def test_what_cannot_be_imported_is_said_in_one_line(shop: Checkout) -> None:
    shop.set(CELERY_APP="shop.missing:celery_app", WARREN_UP_TIMEOUT="30")
    done = shop.invoke("up", check=False)
    assert done.returncode == ExitCode.SETTINGS
    assert "CELERY_APP=shop.missing:celery_app can't be imported" in done.stderr
