"""Makes the Celery app of this process: our own, or one that ``CELERY_APP`` names, adopted to the platform."""

from __future__ import annotations

import sys
from typing import Any

from celery import Celery, signals
from celery.app.utils import find_app
from celery.events import event as celery_event

from app import config, limits
from app.connection import Connection
from app.environment import Mistake
from app.revokes.control import Control
from app.settings import AppSettings
from app.settings import from_environment as settings_from_environment
from app.steps import Alive, Ready

__all__ = ["adopt", "client", "from_environment", "make"]


def make(settings: AppSettings, include: tuple[str, ...] = ("app.tasks",)) -> Celery:
    """Our own app, with the tasks of ``include``."""
    return adopt(Celery("app", include=list(include), set_as_current=True), settings)


def client(settings: AppSettings, **overrides: Any) -> Celery:
    """An app without tasks for one short command: it fails soon where a worker would wait for its broker."""
    app = adopt(Celery("warren", set_as_current=False), settings)
    app.conf.update(
        # Named twice more: Celery takes a CELERY_BROKER_URL of the environment for broker_url, whatever it is set to.
        broker_read_url=settings.broker_url,
        broker_write_url=settings.broker_url,
        broker_connection_retry=False,
        broker_connection_max_retries=0,
        broker_connection_timeout=4,
        task_publish_retry=False,
        **overrides,
    )
    return app


def adopt(app: Celery, settings: AppSettings) -> Celery:
    """``app`` with the platform's broker, queues, events and health; what it sets for itself beyond that, it keeps."""
    app.add_defaults(config.own_settings(settings))
    app.conf.update(config.platform_settings(settings))
    app.amqp.Connection = app.amqp.BrokerConnection = Connection
    # rpc:// stays what users write; see app/results.py for what ours does differently.
    app.loader.override_backends = {**app.loader.override_backends, "rpc": "app.results:RPCBackend"}
    # The definitions made `celeryev` too. Celery has no setting for this, only this module-wide exchange.
    celery_event.event_exchange.no_declare = True
    app.steps["worker"].add(Alive)
    app.steps["worker"].update(("app.handover:Handover", "app.watchdog:Watchdog"))
    app.steps["consumer"].add(Ready)
    app.steps["consumer"].update(("app.rejects:Rejects", "app.dispatcher:Farewell"))
    app.steps["consumer"].add(limits.Limits)
    signals.celeryd_init.connect(add_revokes, dispatch_uid="warren revokes")
    signals.celeryd_init.connect(join_pool, dispatch_uid="warren pool")
    signals.before_task_publish.connect(limits.leave_to_the_pool, dispatch_uid="warren limits")
    signals.celeryd_init.connect(mend_remote_control, dispatch_uid="warren remote control")
    app.control_cls = Control
    app.events_cls = "app.dispatcher:Events"
    # Where the app's own code has asked for them before.
    vars(app).pop("control", None)
    vars(app).pop("events", None)
    return app


def add_revokes(**_: Any) -> None:
    """Has workers read what was revoked before they take a task. A step can only say what it comes after, so Tasks says it.

    Called when a worker begins: importing its parts takes twice as long as all that a short command needs.
    """
    from celery.worker.consumer.tasks import Tasks

    from app.revokes.step import Revokes

    if Revokes not in Tasks.requires:
        Tasks.requires = (*Tasks.requires, Revokes)


def join_pool(instance: Any, **_: Any) -> None:
    """Gives a worker the limits of its pool, and has it consume the pool's queues; it knows the others, to send to.

    Options of its command line go before both.
    """
    settings = settings_from_environment()
    instance.app.conf.update(config.worker_settings(settings))
    instance.app.amqp.queues.select(settings.own_pool.queues)


def mend_remote_control(**_: Any) -> None:
    from app import remote

    remote.mend()


def from_environment() -> Celery:
    """The app of this process's environment.

    Settings that are wrong and an app that can't be imported end the process with a line each and exit code 3: this
    runs while a command such as ``celery -A app worker`` starts, where a traceback would hide what is to be done.
    """
    try:
        settings = settings_from_environment()
        if settings.celery_app == "app":
            return make(settings)
        return adopt(foreign(settings.celery_app), settings)
    except Mistake as mistake:
        for line in mistake.lines:
            print(f"error: {line}", file=sys.stderr)  # noqa: T201 - logging is not set up yet
        raise SystemExit(3) from None


def foreign(place: str) -> Celery:
    """The app at ``package.module:attribute``.

    Raises:
        Mistake: nothing that can be imported stands there, or it is no Celery app.
    """
    package = place.partition(":")[0].partition(".")[0]
    if package == "app":
        raise Mistake(
            [f"CELERY_APP={place}: the package name 'app' is Warren's own; rename yours or add a module beside it"]
        )
    try:
        found = find_app(place)
    except (ImportError, AttributeError) as error:
        raise Mistake([f"CELERY_APP={place} can't be imported ({error}); is WARREN_APP_CONTEXT its folder?"]) from error
    if not isinstance(found, Celery):
        raise Mistake([f"CELERY_APP={place} is a {type(found).__name__}, not a Celery app"])
    return found
