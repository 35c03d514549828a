"""The ports of the local stack: those of the settings, or free ones where a mere default is taken."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import msgspec

from deploy import ports
from deploy.errors import ExitCode, WarrenError
from deploy.paths import write_private
from deploy.platforms.base import Endpoints
from deploy.platforms.local.places import LOCAL
from deploy.settings import Settings

__all__ = ["Ports", "choose", "endpoints", "known", "reach", "remember", "url_host"]

FILE = LOCAL / "ports.json"

# Erlang's own traffic, between the broker's parts on this host, never leaves it.
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Ports:
    """Every port that the stack listens on."""

    amqp_port: int
    management_port: int
    prometheus_port: int
    flower_port: int
    monitor_port: int
    epmd_port: int
    distribution_port: int


def known() -> Ports | None:
    """The ports that were chosen last."""
    last = remembered()
    if not last:
        return None
    try:
        # An older version wrote the file where one is missing.
        return Ports(**{**defaults(), **last})
    except TypeError as error:
        raise unreadable(error) from error


def remembered() -> dict[str, int]:
    """What stands in the file; nothing where there is none."""
    try:
        return dict(json.loads(FILE.read_text()))
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError) as error:
        raise unreadable(error) from error


def unreadable(error: Exception) -> WarrenError:
    return WarrenError(f"{FILE} can't be read ({error}); delete it", ExitCode.FAILED)


def remember(chosen: Ports) -> None:
    write_private(FILE, json.dumps(asdict(chosen), indent=1) + "\n")


def defaults() -> dict[str, int]:
    fields = {field.name: field.default for field in msgspec.structs.fields(Settings)}
    return {name: int(fields[name]) for name in ports.FIELDS}


def choose(settings: Settings, running: bool) -> Ports:
    """The ports for the next start, or those of the stack that is ``running``, unless the settings name others by now.

    Raises:
        WarrenError: a port that the user asked for is taken.
    """
    last = remembered()
    chosen: dict[str, int] = {}
    for field, default in defaults().items():
        wanted = int(getattr(settings, field))
        if running and last.get(field) == wanted:
            chosen[field] = wanted
        elif wanted != default:
            if not ports.free(settings.bind, wanted):
                raise ports.taken(field, wanted)
            chosen[field] = wanted
    # Only now: a port that the user asked for must not be given to something else first.
    for field, default in defaults().items():
        if field not in chosen:
            keeps = running and field in last
            chosen[field] = (
                last[field] if keeps else pick(settings.bind, [default, last.get(field)], set(chosen.values()))
            )
    for field in ("epmd_port", "distribution_port"):
        keeps = running and field in last
        chosen[field] = last[field] if keeps else pick(LOOPBACK, [last.get(field)], set(chosen.values()))
    return Ports(**chosen)


def pick(host: str, preferred: list[int | None], taken: set[int]) -> int:
    """The first of ``preferred`` that is free, else any free port."""
    for port in preferred:
        if port is not None and port not in taken and ports.free(host, port):
            return port
    return ports.any_free(host, taken)


def reach(bind: str) -> str:
    """The address at which this host reaches what listens on ``bind``."""
    return {"0.0.0.0": LOOPBACK, "::": "::1"}.get(bind, bind)  # noqa: S104


def url_host(bind: str) -> str:
    """The same as it is written in a URL."""
    host = reach(bind)
    return f"[{host}]" if ":" in host else host


def endpoints(settings: Settings) -> Endpoints:
    chosen = known()
    of = asdict(chosen) if chosen else {field: int(getattr(settings, field)) for field in ports.FIELDS}
    return Endpoints(
        host=reach(settings.bind),
        amqp=of["amqp_port"],
        management=of["management_port"],
        prometheus=of["prometheus_port"],
        flower=of["flower_port"],
        monitor=of["monitor_port"],
        flower_prefix=settings.flower_url_prefix,
    )
