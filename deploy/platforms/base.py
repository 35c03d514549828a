"""What every platform can do. The commands in `tasks.py` speak only this, so each works wherever the stack runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from app.pools import DEFAULT
from deploy.secrets import Secrets

__all__ = ["Autoscaler", "Endpoints", "Instance", "Platform", "in_url"]


def in_url(host: str) -> str:
    """``host`` as URLs have it: addresses of IPv6 in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


# What people call a service.
WHAT = {"rabbitmq": "broker"}


@dataclass(frozen=True)
class Instance:
    """One running or stopped piece of a service: a container, a process, a pod."""

    service: str
    name: str
    """As the platform calls it: what `logs` and the platform's own tools take."""
    state: str
    """running, starting, stopped or failed."""
    ready: bool
    since: str
    """Since when or for how long it is in this state, in words; empty where the platform does not say."""
    node: str = ""
    """The worker's Celery node name, where it is known; empty for other services."""


@dataclass(frozen=True)
class Endpoints:
    """Where this host reaches the stack."""

    lasting: ClassVar[bool] = True
    """Whether it does after this command, too."""

    host: str
    amqp: int
    management: int
    prometheus: int
    flower: int
    monitor: int
    edge: str = ""
    """The address of the edge, https://..., where there is one: there people find the pages."""
    ca: str = ""
    """The file with the certificate of the edge's own CA, if it has one."""
    flower_prefix: str = ""
    """The path that Flower answers under where there is no edge, as FLOWER_URL_PREFIX has it."""

    @property
    def place(self) -> str:
        """Where the stack is, in words; empty where that is this host."""
        return ""

    def soon(self, *services: str) -> None:
        """Begins what reaching ``services`` and their passwords takes, and returns at once; what goes wrong is told later."""

    def password(self, name: str) -> str:
        """Where a person finds the password ``name``, in words."""
        return f"in .warren/secrets/{name}"

    @property
    def broker(self) -> str:
        """HOST:PORT at which the broker is, for what is told of it."""
        return f"{self.host}:{self.amqp}"

    @property
    def broker_api(self) -> str:
        """HOST:PORT of the broker's management API, likewise."""
        return f"{self.host}:{self.management}"

    @property
    def broker_is_others(self) -> bool:
        """Whether the broker is one that others run."""
        return False

    @property
    def no_answer(self) -> str:
        """What to do where the broker does not answer."""
        return "`invoke status` shows what runs, `invoke up` starts it"

    @property
    def definitions_again(self) -> str:
        """What to do where the broker lacks something that the definitions have."""
        return "`invoke restart rabbitmq` loads the definitions again"

    def refused(self, name: str, service: str) -> str:
        """What to say and do where ``service`` takes the secret ``name`` for wrong, after "... refuses the password"."""
        return (
            f"in .warren/secrets/{name}; is this another stack's {WHAT.get(service, service)}? "
            "`invoke up` gives this one the secrets of .warren/secrets"
        )

    @property
    def flower_url(self) -> str:
        if self.edge:
            return f"{self.edge}/flower/"
        path = self.flower_prefix.strip("/")
        return f"http://{in_url(self.host)}:{self.flower}" + (f"/{path}/" if path else "")

    @property
    def monitor_url(self) -> str:
        return f"{self.edge}/" if self.edge else f"http://{in_url(self.host)}:{self.monitor}"

    @property
    def management_url(self) -> str:
        return f"{self.edge}/rabbitmq/" if self.edge else f"http://{in_url(self.host)}:{self.management}"


class Autoscaler(Protocol):
    """What decides on the number of a service's workers by itself, within bounds."""

    @property
    def by(self) -> str:
        """What it is, in words."""

    least: int
    most: int
    paused: bool
    """Whether it leaves the number alone."""

    def bound(self, least: int, most: int | None, patience: float) -> None:
        """Sets the bounds, and returns when as many workers as there are to be are ready.

        Without ``most`` that stays, or becomes ``least`` where that is more; with 0 alone all workers stop until bounds are
        set again. May raise WarrenError, also after ``patience`` seconds.
        """


class Platform(Protocol):
    """A place where the stack runs.

    Every method may raise WarrenError. ``service`` is one of deploy.services.services(): each pool of workers is one.
    """

    name: str

    keeps: str
    """Where the secrets are, in words."""

    @property
    def secrets(self) -> Secrets:
        """The stack's passwords and keys."""

    def check(self) -> None:
        """Raises WarrenError, with what to do, where this platform can't be used on this host."""

    def build(self) -> None:
        """Makes what the services run from (an image; installed packages), if anything of it changed."""

    def up(self, workers: int | None) -> None:
        """Brings the stack up and returns when every part is ready. Where it is up already and nothing changed, does nothing.

        ``workers`` is the number of workers of the default pool; None keeps the number that runs, or takes the setting, as
        for all other pools.
        On Ctrl-C, what this call started is stopped again. After an error it may be left, to be looked at.
        """

    def down(self, volumes: bool) -> None:
        """Stops the stack, workers first and warm; with ``volumes`` also deletes its data (not the secrets)."""

    def restart(self, services: Sequence[str]) -> None:
        """Restarts ``services`` with the code and settings of now, and returns when they are ready."""

    def status(self) -> list[Instance]:
        """All instances, in the order of the services; empty where nothing runs."""

    def overview(self) -> tuple[list[Instance], Mapping[str, Autoscaler]]:
        """What :meth:`status` and, where something runs, :meth:`autoscalers` say, sooner than one after the other."""

    def troubles(self) -> list[str]:
        """What keeps instances from getting ready, and what to do about it, a line each, as far as the platform knows."""

    def logs(self, services: Sequence[str], follow: bool, tail: int) -> int:
        """Shows the last ``tail`` lines of each of ``services``, and with ``follow`` all that comes, until Ctrl-C."""

    def scale(self, workers: int, busy: set[str], pool: str = DEFAULT) -> None:
        """Sets the number of workers of a pool.

        When lowering it, those whose node is not in ``busy`` stop first, all of them warm.
        """

    def autoscalers(self) -> Mapping[str, Autoscaler]:
        """What decides on the number of workers, by service; people do where there is none."""

    def exec(self, service: str, command: Sequence[str]) -> int:
        """Runs ``command`` in the place of a running ``service``, attached to the terminal; its exit code."""

    def endpoints(self) -> Endpoints:
        """Where this host reaches the stack."""
