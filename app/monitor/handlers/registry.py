"""Which handler wants which events."""

from __future__ import annotations

import difflib
import fnmatch
import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, TypeAlias, TypeGuard, TypeVar

from app.event_types import TYPES, WORKER_TYPES

__all__ = ["FIELDS", "Event", "Handler", "Registry", "Subscription", "on", "subscriptions", "unknown_type"]

Event: TypeAlias = dict[str, Any]

# What every event has, if only None: a handler need not ask what is there.
FIELDS = (
    *("type", "id", "name", "queue", "worker", "state", "attention", "time", "args", "kwargs", "retries", "attempts"),
    *("runtime", "result", "exception", "traceback", "root", "parent", "delivery"),
)

# Where `on` leaves its notes on a function ...
MARK = "_warren_subscriptions"
# ... and all functions that it has seen, so that none is overlooked in silence.
marked: list[FunctionType] = []
# Answers that are kept. Names of tasks are few, but come from whoever may send events.
CACHE_LIMIT = 10_000

Function = TypeVar("Function", bound=Callable[[Event], object])


def unknown_type(type_: object) -> str | None:
    """What is wrong with ``type_``, or None if it is one of :data:`app.event_types.TYPES`."""
    if type_ in TYPES:
        return None
    near = difflib.get_close_matches(str(type_), TYPES, n=1, cutoff=0.5)
    return f"there is no event {type_!r}; " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(TYPES)}")


@dataclass(frozen=True, slots=True)
class Subscription:
    """One ``@on``.

    Args:
        types: of events.
        name: a task's name, ``*`` and ``?`` as in file names; None for all, also for workers' events.
        retries: how often a delivery that failed is tried again before it is given up; None for ever.
    """

    types: tuple[str, ...]
    name: str | None = None
    retries: int | None = None
    _pattern: re.Pattern[str] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        pattern = None if self.name is None else re.compile(fnmatch.translate(self.name))
        object.__setattr__(self, "_pattern", pattern)

    def matches(self, type_: str, name: str) -> bool:
        return type_ in self.types and (self._pattern is None or self._pattern.match(name) is not None)


def on(*types: str, name: str | None = None, retries: int | None = None) -> Callable[[Function], Function]:
    """Makes a function a handler of events of these types; several of these on one function add up.

    The function gets one event at a time, in their order, as a dict with ``type``, ``id``, ``name``, ``state`` ... and
    ``delivery``, a number that tells a repetition. It has succeeded when it returns. When it raises, the event comes again
    after a while, and later ones wait.

    Args:
        types: one or more of ``app.monitor.handlers.TYPES``.
        name: only of tasks with this name; ``*`` stands for anything, as in ``shop.*``.
        retries: how often a failed delivery is tried again before the event is given up. For ever if it is not given.

    Raises:
        TypeError, ValueError: it is not used like this.
    """
    if not types or not all(isinstance(one, str) for one in types):
        raise TypeError('@on takes types of events, as in @on("task-failed")')
    for one in types:
        if wrong := unknown_type(one):
            raise ValueError(wrong)
    if name is not None and (not isinstance(name, str) or not name):
        raise TypeError('name= takes the name of a task, or a pattern such as "shop.*"')
    if name is not None and (of_workers := sorted(set(types) & set(WORKER_TYPES))):
        raise ValueError(f"{of_workers[0]} is about no task: give it an @on of its own, without name=")
    if retries is not None and (not isinstance(retries, int) or isinstance(retries, bool) or retries < 0):
        raise TypeError("retries= takes a number, 0 or more; without it, deliveries are tried until they succeed")
    subscription = Subscription(types, name, retries)

    def mark(function: Function) -> Function:
        marked.append(check(function))
        # A new tuple: functools.wraps shares the old one with the function that was wrapped.
        setattr(function, MARK, (*subscriptions(function), subscription))
        return function

    return mark


def subscriptions(of: object) -> tuple[Subscription, ...]:
    """What ``@on`` said about a function; nothing about all else."""
    return tuple(vars(of).get(MARK, ())) if is_function(of) else ()


def is_function(value: object) -> TypeGuard[FunctionType]:
    """Whether it is a plain function. Looks at its type alone: a task of Celery's is asked for its app by ``isinstance``."""
    return issubclass(type(value), FunctionType)


def check(function: object) -> FunctionType:
    """Raises TypeError for what could not be called with an event."""
    if not is_function(function):
        raise TypeError(f"@on belongs on a plain function, not on {function!r}")
    name = function.__qualname__
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise TypeError(f"{name} must be a plain function: nobody would await or iterate what it returns")
    try:
        inspect.signature(function).bind({})
    except TypeError:
        raise TypeError(f"{name} must take one argument, the event") from None
    return function


def nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Handler:
    """Something that is called with events.

    Args:
        name: under which its position and its waiting events are kept; another name is another handler.
        call: delivers an event, or raises.
        subscriptions: what it wants.
        close: ends at once what ``call`` may be doing, from another thread.
    """

    name: str
    call: Callable[[Event], object]
    subscriptions: tuple[Subscription, ...]
    close: Callable[[], None] = nothing

    def wants(self, type_: str, name: str) -> bool:
        return any(one.matches(type_, name) for one in self.subscriptions)

    def retries(self, type_: str, name: str) -> int | None:
        """How often a failed delivery is tried again: as often as the most patient subscription that matches says."""
        patience = [one.retries for one in self.subscriptions if one.matches(type_, name)]
        if not patience or None in patience:
            return None
        return max(one for one in patience if one is not None)


class Registry:
    """All handlers of this monitor."""

    def __init__(self, handlers: Iterable[Handler] = ()) -> None:
        self.handlers = tuple(handlers)
        self._types = frozenset(type_ for one in self.handlers for part in one.subscriptions for type_ in part.types)
        self._cache: dict[tuple[str, str], tuple[str, ...]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.handlers)

    def wanted(self, type: str, name: str) -> tuple[str, ...]:
        """The names of the handlers that want an event of this type, of a task with this name ("" for workers)."""
        if type not in self._types:
            return ()
        key = (type, name)
        if (found := self._cache.get(key)) is None:
            if len(self._cache) >= CACHE_LIMIT:
                self._cache.clear()
            found = self._cache[key] = tuple(one.name for one in self.handlers if one.wants(type, name))
        return found
