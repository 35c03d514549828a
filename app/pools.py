"""Worker pools: the default one, and further ones by name, each with queues, concurrency and limits of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from app.environment import Variable, parse

__all__ = ["DEFAULT", "NAMES", "POOLS", "Pool", "named", "read", "soft_limit", "strangers", "variable", "variables_of"]

DEFAULT = "default"
POOLS = "WARREN_POOLS"
PREFIX = "WARREN_POOL_"

# No dash and no underscore: it stands in the names of services and variables, which have these around it.
NAME = r"^[a-z][a-z0-9]{0,20}$"
NAMES = tuple[Annotated[str, Meta(pattern=NAME)], ...]

T = TypeVar("T", int, float)

# What a variable of a pool ends with, by the field that it sets.
ENDINGS = {"queues": "QUEUES", "concurrency": "CONCURRENCY", "time_limit": "TIME_LIMIT", "workers": "WORKERS"}


class Pool(Struct, frozen=True, kw_only=True):
    """Workers that take tasks from the same queues, under the same limits."""

    name: str
    queues: tuple[str, ...]
    time_limit: int
    """Seconds that a task may take."""
    concurrency: str = "auto"
    """Tasks that one worker runs at a time; auto: one per core."""
    workers: int = 1
    """How many `up` starts."""

    @property
    def soft_time_limit(self) -> int:
        """Seconds after which a task gets SoftTimeLimitExceeded."""
        return soft_limit(self.time_limit)

    @property
    def stop_grace(self) -> int:
        """Seconds that a stopping worker gets: the longest task, and half a minute to acknowledge it and leave."""
        return self.time_limit + 30


def soft_limit(limit: T) -> T:
    """Of a limit in seconds a tenth, 1 to 30 s, is left to clean up."""
    return limit - max(1, min(30, limit // 10))


def variable(name: str, field: str) -> str:
    """The variable that sets ``field`` of the pool ``name``."""
    return f"{PREFIX}{name.upper()}_{ENDINGS[field]}"


def variables_of(names: Iterable[str], types: Mapping[str, Any]) -> dict[str, Variable]:
    """The variables of the pools ``names``, by name; ``types`` has what each field takes."""
    found = {}
    for name in names:
        for field, type_ in types.items():
            (about,) = (one for one in type_.__metadata__ if isinstance(one, Meta))
            found[variable(name, field)] = Variable(
                name=variable(name, field),
                field=field,
                type=type_,
                default="",
                expected=about.title or "",
                description="",
                examples=tuple(about.examples or ()),
            )
    return found


def named(text: str) -> tuple[str, ...]:
    """The pools that ``text``, the value of WARREN_POOLS, names rightly."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if re.fullmatch(NAME, part.strip())))


def strangers(origins: Mapping[str, str], known: Iterable[str]) -> dict[str, str]:
    """A line for each variable that would be right, if WARREN_POOLS (which names ``known``) named its pool.

    Args:
        origins: the variables, each with where it stands.
    """
    known = tuple(known)
    found = {}
    for name in sorted(origins):
        parts = re.fullmatch(rf"{PREFIX}([A-Z][A-Z0-9]{{0,20}})_({'|'.join(ENDINGS.values())})", name)
        if parts and (pool := parts[1].lower()) not in {*known, DEFAULT}:
            found[name] = pool
    every = ",".join(dict.fromkeys([*known, *found.values()]))
    return {
        name: f"{name} (in {origins[name]}) is of no pool that {POOLS} names; write {POOLS}={every}" for name in found
    }


def read(
    names: Iterable[str],
    general: Pool,
    types: Mapping[str, Any],
    environment: Mapping[str, str],
    complaint: Callable[[Variable, str], str],
) -> tuple[tuple[Pool, ...], list[str]]:
    """The pools ``names``, what each does not say as in ``general``; and a line for each mistake.

    Args:
        types: what each field takes.
        complaint: the line for a variable whose value is none that it takes.
    """
    names = tuple(names)
    lines = [f"{POOLS}: {name} is there twice; name each pool once" for name in twice(names)]
    pools = []
    known = variables_of(names, types)
    for name in dict.fromkeys(names):
        if name == DEFAULT:
            lines.append(f"{POOLS}: {DEFAULT} is the pool of WARREN_QUEUES, which is always there; name further ones")
            continue
        values: dict[str, Any] = {"name": name, "queues": ()}
        for field in types:
            about = known[variable(name, field)]
            text = environment.get(about.name, "")
            if text.strip():
                try:
                    values[field] = parse(about, text)
                except msgspec.ValidationError:
                    # Not none either: one line for one mistake.
                    values[field] = ("?",)
                    lines.append(complaint(about, text))
        if not values["queues"]:
            queues = variable(name, "queues")
            lines.append(f"the pool {name} of {POOLS} has no queues; write for example {queues}={name}")
        pools.append(msgspec.structs.replace(general, **{"workers": 1, **values}))
    if not lines:
        lines = shared(general, pools)
    return tuple(pools), lines


def twice(names: Iterable[str]) -> list[str]:
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
    return [name for name, count in seen.items() if count > 1]


def shared(general: Pool, pools: Iterable[Pool]) -> list[str]:
    """A line for each queue that more than one pool has."""
    lines = []
    owner = dict.fromkeys(general.queues, "WARREN_QUEUES")
    for pool in pools:
        own = variable(pool.name, "queues")
        for queue in pool.queues:
            if owner.get(queue, own) != own:
                lines.append(f"{own}: {queue} is in {owner[queue]} too; a queue belongs to one pool")
            owner[queue] = own
    return lines
