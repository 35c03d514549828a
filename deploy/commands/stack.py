"""The stack as a whole: up, down, restart, status, logs, scaling, settings."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

from msgspec.structs import replace

from app.environment import as_text
from app.pools import DEFAULT, Pool
from deploy.commands.overlays import has_service, learn
from deploy.errors import ExitCode, WarrenError
from deploy.output import note, print_json, say, table
from deploy.platforms.base import Autoscaler, Endpoints
from deploy.private import without_secrets
from deploy.run import INTERRUPTED
from deploy.services import EDGE, FLOWER_LOGIN, MONITOR_LOGINS, is_worker, of_pool, worker_services
from deploy.services import services as all_services
from deploy.session import Session

__all__ = [
    "build",
    "config",
    "down",
    "execute",
    "logs",
    "open_page",
    "restart",
    "scale_workers",
    "shell",
    "status",
    "up",
]


def up(s: Session, workers: int | None, try_it: bool = False, edge: bool | None = None) -> None:
    s.edge = edge
    require_edge(s)
    was_up = bool(s.platform.status())
    with remembering_platform(s, was_up), remembering_edge(s):
        s.platform.up(workers)
    if s.runner.dry:
        return
    if try_it:
        first_task(s)
    addresses(s)


@contextmanager
def remembering_platform(s: Session, was_up: bool) -> Iterator[None]:
    """Later commands use the platform of this one, unless it leaves nothing there."""
    from deploy.platforms import forget, remember, remembered

    if s.runner.dry:
        yield
        return
    # By another `up` perhaps, which is at it just now.
    before = remembered()
    remember(s.platform.name)

    def as_before() -> None:
        forget() if before is None else remember(before)

    try:
        yield
    except KeyboardInterrupt:
        if not was_up and left(s) <= {"stopped"}:
            as_before()
            note("stopped what had been started; nothing is left running")
        elif not was_up:
            note("interrupted; what is there may go on: `invoke status` shows it, `invoke down` stops it")
        raise
    except WarrenError:
        if not left(s):
            as_before()
        raise
    # A `down` that it waited for has forgotten it.
    remember(s.platform.name)


def left(s: Session) -> set[str]:
    """The states of what is there of the stack; that of something unknown, where it can't be told."""
    try:
        # Not status(): what is to have instances, and has none that the platform lets start, is something, too.
        return {one.state for one in s.platform.overview()[0]}
    except WarrenError:
        return {"unknown"}


def require_edge(s: Session) -> None:
    """Raises WarrenError where an edge is wanted that this platform does not have."""
    if s.settings.edge == "off" or s.platform.name == "compose":
        return
    why = no_edge(s)
    if s.edge:
        raise WarrenError(f"{why}; leave --edge away, or add --platform compose", ExitCode.USAGE)
    raise WarrenError(
        f"{why}; take WARREN_EDGE=on out of the settings, or set WARREN_PLATFORM=compose", ExitCode.SETTINGS
    )


def no_edge(s: Session) -> str:
    return f"the edge works with Docker Compose, and this is the platform {s.platform.name}"


@contextmanager
def remembering_edge(s: Session) -> Iterator[None]:
    """What --edge or --no-edge says holds for later commands, unless this one fails before it did anything about it."""
    from deploy.platforms import forget_edge, remember_edge, remembered_edge

    before = remembered_edge()
    if s.edge is None or s.runner.dry:
        yield
        return
    remember_edge(s.edge)
    try:
        yield
    except BaseException:
        # What went wrong first is what is told.
        with suppress(WarrenError):
            if s.edge is not any(one.service == EDGE for one in s.platform.status()):
                forget_edge() if before is None else remember_edge(before)
        raise
    # As the platform.
    remember_edge(s.edge)


def first_task(s: Session) -> None:
    """Shows that a task goes all the way: to the broker, through a worker, and back."""
    from deploy.commands import control, send

    if s.settings.foreign_app:
        control.ping(s, as_json=False)
        return
    say(f"add 2 3 = {send.value_of(s, 'app.tasks.add', [2, 3])}")


def login(s: Session, user: str, secret: str) -> str:
    return f"user {user}, password {s.endpoints.password(secret)}"


def flower_login(s: Session) -> str:
    if s.settings.flower_auth_provider:
        return f"login by {s.settings.flower_auth_provider.rpartition('.')[2].removesuffix('LoginHandler')}"
    return login(s, FLOWER_LOGIN, "flower-login")


def addresses(s: Session) -> None:
    where = s.platform.endpoints()
    say(f"The stack is up on {s.platform.name}{f' ({where.place})' if where.place else ''}.")
    if where.lasting:
        pages(s, where)
    else:
        say("Its pages: `invoke open monitor`, `invoke open flower`, `invoke open rabbitmq`, each until Ctrl-C.")
    if not shutil.which("invoke"):
        say("First: source .venv/bin/activate, so that this terminal knows `invoke`.")
    example = "NAME" if s.settings.foreign_app else "add 2 3"
    say(
        f"Next: `invoke call {example} --wait`, `invoke status`, `invoke scale-workers 4`; "
        "`invoke --list` shows all there is."
    )
    for line in alarm_lines(s):
        note(line)


def pages(s: Session, where: Endpoints) -> None:
    say(f"  Monitor   {where.monitor_url}  ({login(s, MONITOR_LOGINS[0], 'monitor-operator')})")
    say(f"  Flower    {where.flower_url}  ({flower_login(s)})")
    say(f"  RabbitMQ  {where.management_url}  ({login(s, 'admin', 'admin')})")
    if where.ca:
        say(f"Their certificate is of a CA of this stack's own, {where.ca}: docs/edge.md says how to trust it.")


def alarm_lines(s: Session) -> list[str]:
    """What an operator must know of the broker's alarms; nothing where all is well or the broker can't be asked."""
    from deploy import management

    try:
        found = management.alarms(s.endpoints, s.secrets)
    except WarrenError:
        return []
    return [
        f"error: the broker's {what} alarm is on: it takes no messages, and workers that start wait" for what in found
    ]


def down(s: Session, volumes: bool, yes: bool) -> None:
    from deploy.platforms import forget

    if volumes and not yes and not s.runner.dry:
        what = "the broker's data (waiting tasks, the event log) and the monitor's and Flower's history"
        confirm(s, f"`down --volumes` deletes {what}")
    was_up = True
    with suppress(WarrenError):  # what is wrong says `down` itself, unless another one is just at it
        was_up = bool(s.platform.status())
    s.platform.down(volumes)
    if s.runner.dry:
        return
    before = "The stack is down. Its" if was_up else "Nothing ran. All"
    say(there(s, f"{before} data is {'deleted; the secrets are kept' if volumes else 'kept'}."))
    if was_up or not (others := s.platform.troubles()):
        forget()
        return
    for line in others:
        note(line)


def there(s: Session, text: str) -> str:
    """``text``, with the place before it where the stack is not on this host: nobody is to take one for another."""
    place = s.endpoints.place
    return f"{place}: {text}" if place else text


def confirm(s: Session, what: str) -> None:
    """Asks the person at the terminal; where there is none, only --yes will do."""
    what = there(s, what)
    if not sys.stdin.isatty():
        raise WarrenError(f"{what}; say --yes to do it", ExitCode.REFUSED)
    note(f"{what}.")
    if input("Go on? [y/N] ").strip().lower() not in {"y", "yes"}:
        raise WarrenError("nothing was changed", ExitCode.REFUSED)


def restart(s: Session, services: list[str]) -> None:
    require_edge(s)
    chosen = without_others(s, checked(s, services))
    s.platform.restart(chosen)
    if not s.runner.dry:
        say(there(s, f"Restarted {', '.join(chosen)}."))


def without_others(s: Session, services: list[str]) -> list[str]:
    """``services`` without a broker that others run.

    Raises:
        WarrenError: that leaves none.
    """
    if "rabbitmq" not in services or not s.endpoints.broker_is_others:
        return services
    if left := [one for one in services if one != "rabbitmq"]:
        note(there(s, "others run the broker, and restart it"))
        return left
    raise WarrenError(there(s, "others run the broker, and restart it; nothing was done"), ExitCode.UNKNOWN)


def checked(s: Session, services: list[str]) -> list[str]:
    """``services``, or all that there are where none is named."""
    if not services or set(services) - {*all_services(s.settings), EDGE}:
        learn(s)
    known = all_services(s.settings)
    if EDGE in services and EDGE not in known:
        turn_on = s.platform.name == "compose"
        raise WarrenError(
            "the edge is off; `invoke up --edge` turns it on" if turn_on else no_edge(s), ExitCode.UNKNOWN
        )
    for service in services:
        if service not in known and not has_service(s, service):
            raise WarrenError(f"there is no service {service!r}; choose from {', '.join(known)}", ExitCode.UNKNOWN)
    return services or list(known)


def pool_named(s: Session, name: str) -> Pool:
    """The pool of that name.

    Raises:
        WarrenError: there is none (exit code 7).
    """
    if of_pool(name) not in worker_services(s.settings):
        learn(s)
    known = {pool.name: pool for pool in s.settings.every_pool}
    if name not in known:
        raise WarrenError(f"there is no pool {name!r}; choose from {', '.join(known)} (WARREN_POOLS)", ExitCode.UNKNOWN)
    return known[name]


def status(s: Session, as_json: bool) -> None:
    from deploy import management

    s.endpoints.soon("rabbitmq", "monitor")
    instances, scalers = s.platform.overview()
    queues: list[dict[str, Any]] = []
    trouble = ""
    if any(one.service == "rabbitmq" and one.ready for one in instances) or (
        instances and s.endpoints.broker_is_others
    ):
        try:
            queues = [queue_row(queue) for queue in management.queues(s.endpoints, s.secrets) if shown(queue)]
            trouble = "; ".join(line.removeprefix("error: ") for line in alarm_lines(s))
        except WarrenError as error:
            trouble = str(error)
    attention: dict[str, int] | None = None
    if any(one.service == "monitor" and one.ready for one in instances):
        attention, late = from_monitor(s)
        # Where a right lacks or a node is away, both may have the same to say.
        trouble = trouble if late in trouble else "; ".join(filter(None, (trouble, late)))
    if as_json:
        answer = {"platform": s.platform.name, "up": bool(instances), "instances": [asdict(one) for one in instances]}
        scaling = [
            {"service": service, "by": one.by, "least": one.least, "most": one.most, "paused": one.paused}
            for service, one in scalers.items()
        ]
        print_json(
            {**answer, "autoscaling": scaling, "queues": queues, "attention": attention, "error": trouble or None}
        )
    elif not instances:
        say(there(s, "Nothing runs. `invoke up` starts the stack."))
        troubles(s, "")
    else:
        if place := s.endpoints.place:
            note(f"{place}:")
        table(
            ("service", "name", "state", "ready", "since"),
            [(one.service, one.name, one.state, "yes" if one.ready else "no", one.since) for one in instances],
        )
        for service, scaler in scalers.items():
            say(f"{service}: {bounds(scaler)}.")
        if queues:
            table(("queue", "ready", "unacked", "consumers"), [cells(row)[:4] for row in queues], right=NUMBERS)
        if attention and (count := sum(attention.values())):
            kinds = ", ".join(f"{number} {kind}" for kind, number in attention.items() if number)
            need = "task needs" if count == 1 else "tasks need"
            note(f"{count} {need} attention ({kinds}): `invoke history --attention`")
        if trouble:
            note(f"error: {trouble}")
        if not all(one.ready for one in instances):
            troubles(s, "error: ")


def troubles(s: Session, kind: str) -> None:
    for line in s.platform.troubles():
        note(f"{kind}{line}")


def from_monitor(s: Session) -> tuple[dict[str, int] | None, str]:
    """How many tasks need attention, by kind, and why the monitor can't say what is now."""
    from deploy import monitor_api

    try:
        counts = monitor_api.get(s.endpoints, s.secrets, "/counts", patience=MONITOR_PATIENCE)
        late = monitor_api.behind(s.endpoints, patience=MONITOR_PATIENCE)
        return counts["attention"], f"the monitor is not up to date: {late}" if late else ""
    except WarrenError as error:
        return None, str(error).partition(";")[0]


# Seconds. Of `status` the monitor is a small part.
MONITOR_PATIENCE = 2.0

NUMBERS = ("ready", "unacked", "consumers", "in/s", "out/s")


def shown(queue: dict[str, Any]) -> bool:
    """Task queues, dead letters and the event log; not what Celery makes for replies, control and delays."""
    own = queue.get("arguments", {}).get("x-queue-type") in {"quorum", "stream"}
    return own and not delays(queue["name"])


def delays(queue: str) -> bool:
    """Whether it is one of those in which Celery keeps tasks until their time."""
    return queue.startswith("celery_delayed_")


def cells(row: dict[str, Any]) -> list[Any]:
    """``row`` for people: reading a stream takes nothing out of it, so there is nothing unacknowledged to count."""
    return ["-" if row["type"] == "stream" and key == "unacked" else value for key, value in row.items()]


def queue_row(queue: dict[str, Any]) -> dict[str, Any]:
    rates = queue.get("message_stats", {})
    return {
        "queue": queue["name"],
        "ready": queue.get("messages_ready", 0),
        "unacked": queue.get("messages_unacknowledged", 0),
        "consumers": queue.get("consumers", 0),
        "in_per_second": rates.get("publish_details", {}).get("rate", 0.0),
        "out_per_second": rates.get("ack_details", {}).get("rate", 0.0),
        "type": queue.get("arguments", {}).get("x-queue-type", "classic"),
        "state": queue.get("state", "running"),
    }


def logs(s: Session, services: list[str], follow: bool, tail: int) -> None:
    code = s.platform.logs(checked(s, services), follow, tail)
    # Ctrl-C is how one leaves a log that one follows.
    if code and not (follow and code in INTERRUPTED):
        raise SystemExit(code)


def execute(s: Session, service: str, words: list[str]) -> None:
    if not words:
        raise WarrenError("which command? For example: invoke exec worker -- celery -A app report", ExitCode.USAGE)
    code = s.platform.exec(checked(s, [service])[0], words)
    if code:
        raise SystemExit(code)


def shell(s: Session) -> None:
    """Python's own prompt, not one of those that may be installed beside: it is the same everywhere."""
    code = s.platform.exec("worker", ["celery", "-A", "app", "shell", "--python"])
    if code:
        raise SystemExit(code)


def scale_workers(s: Session, workers: int, pool: str = DEFAULT, most: int | None = None) -> None:
    service = of_pool(pool)
    if service not in worker_services(s.settings) and not has_service(s, service):
        pool_named(s, pool)
    if most is not None and most < workers:
        raise WarrenError(f"--max {most} is less than {workers} workers; name as many at least", ExitCode.USAGE)
    for line in alarm_lines(s):
        note(line)
    if scaler := s.platform.autoscalers().get(service):
        scaler.bound(workers, most, s.settings.up_timeout)
        if not s.runner.dry:
            say(there(s, f"{bounds(scaler)}{'' if pool == DEFAULT else f' of the pool {pool}'}."))
            if scaler.paused:
                note("no worker is left: tasks wait in their queues; `invoke scale-workers 1` lets it go on")
        return
    if most is not None:
        raise WarrenError(
            f"no autoscaler has the number of workers on {s.platform.name}; leave --max away "
            "(with KEDA: docs/kubernetes-production.md)",
            ExitCode.USAGE,
        )
    running = [one for one in s.platform.status() if is_worker(one.service) and one.state != "stopped"]
    busy: set[str] = set()
    if 0 < workers < sum(one.service == service for one in running):
        from deploy.commands.control import busy_nodes  # imports Celery

        busy = busy_nodes(s, len(running))
    s.platform.scale(workers, busy, pool)
    if not s.runner.dry:
        of = "" if pool == DEFAULT else f" of the pool {pool}"
        say(there(s, f"{workers} worker{'' if workers == 1 else 's'}{of}."))
        if not workers:
            note(
                f"no worker is left{'' if pool == DEFAULT else ' there'}: tasks wait in their queues until there is one"
            )


def bounds(scaler: Autoscaler) -> str:
    """What ``scaler`` does, in words."""
    if scaler.paused:
        return f"{scaler.by} is paused"
    return f"{scaler.by} keeps {scaler.least} to {scaler.most} workers"


def config(s: Session, as_json: bool) -> None:
    from deploy.settings import known, of_pools

    values = {
        variable.name: without_secrets(variable.name, as_text(getattr(s.settings, variable.field)))
        for variable in known().values()
    }
    defaults = {variable.name: as_text(variable.default) for variable in known().values()}
    general = replace(s.settings.default_pool, queues=(), workers=1)
    pools = tuple(replace(general, name=pool.name) for pool in s.settings.pools)
    defaults |= of_pools(replace(s.settings, pools=pools))
    values |= of_pools(s.settings)
    if as_json:
        print_json({"platform": s.platform.name, "settings": values})
    else:
        say(f"Platform: {s.platform.name}. Secrets are {s.platform.keeps} and not shown.")
        table(
            ("setting", "value", "default"),
            [(name, value, "" if value == defaults[name] else defaults[name]) for name, value in values.items()],
        )


def build(s: Session) -> None:
    s.platform.build()
    if not s.runner.dry:
        say("Built.")


def open_page(s: Session, page: str) -> None:
    import webbrowser

    pages = {
        "monitor": ("monitor_url", login(s, MONITOR_LOGINS[0], "monitor-operator")),
        "flower": ("flower_url", flower_login(s)),
        "rabbitmq": ("management_url", login(s, "admin", "admin")),
    }
    if page not in pages:
        raise WarrenError(f"there is no page {page!r}; choose from {', '.join(pages)}", ExitCode.UNKNOWN)
    place, how = pages[page]
    if page == "rabbitmq" and s.endpoints.broker_is_others:
        # No administrator of ours is on it.
        how = login(s, "ops", "ops")
    url = getattr(s.endpoints, place)
    say(f"{url}  ({how})")
    if s.runner.acts(f"python3 -m webbrowser {url}") and not webbrowser.open(url):
        note("no browser could be opened here; open the address above")
    if not s.endpoints.lasting and not s.runner.dry:
        note("the address works until Ctrl-C ends this command")
        with suppress(KeyboardInterrupt):
            signal.pause()
