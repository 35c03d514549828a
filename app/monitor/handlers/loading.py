"""From settings to handlers, with one clear line for each mistake."""

from __future__ import annotations

import importlib
from types import FunctionType, ModuleType

from app.environment import Mistake
from app.monitor.handlers.failure import reason
from app.monitor.handlers.registry import Handler, Registry, Subscription, marked, subscriptions, unknown_type
from app.settings import AppSettings

__all__ = ["load"]


def load(settings: AppSettings) -> Registry:
    """The handlers that the settings name.

    Raises:
        Mistake: a line for each module, address, command or event that can't be used.
    """
    found: list[Handler] = []
    lines: list[str] = []
    for name in dict.fromkeys(settings.monitor_handlers):
        try:
            found += of_module(name)
        except Mistake as mistake:
            lines += mistake.lines
    for make in (webhook, command):
        try:
            found += make(settings)
        except Mistake as mistake:
            lines += mistake.lines
    lines += clashes(found)
    if lines:
        raise Mistake(lines)
    # A function that two modules show is one handler.
    return Registry({one.name: one for one in found}.values())


def clashes(handlers: list[Handler]) -> list[str]:
    """A line for each name that two different functions have."""
    first: dict[str, Handler] = {}
    return [
        f"MONITOR_HANDLERS: two handlers are called {one.name}; give one of the functions another name"
        for one in handlers
        if first.setdefault(one.name, one).call is not one.call
    ]


def of_module(name: str) -> list[Handler]:
    """The handlers in a module: its functions with ``@on``, also those that it imports from elsewhere."""
    module = imported(name)
    found = [
        Handler(f"{value.__module__}.{value.__qualname__}", value, wanted)
        for value in vars(module).values()
        if (wanted := subscriptions(value))
    ]
    if lost := sorted({one.__qualname__ for one in overlooked(module, found)}):
        raise Mistake(
            [
                f"MONITOR_HANDLERS: {name}: {', '.join(lost)} can't be found in the module; @on belongs on functions at its "
                "top, each with a name of its own, above all other decorators"
            ]
        )
    if not found:
        raise Mistake(
            [
                f'MONITOR_HANDLERS: the module {name} has no handlers; write @on("task-failed") above a function '
                "(from app.monitor.handlers import on)"
            ]
        )
    return found


def overlooked(module: ModuleType, found: list[Handler]) -> list[FunctionType]:
    """Functions of the module that have ``@on``, and are not what the module now shows under any name."""
    known: set[object] = set()
    for handler in found:
        # With all that functools.wraps has put a wrapper around.
        layer: object = handler.call
        while layer is not None:
            known.add(layer)
            layer = getattr(layer, "__wrapped__", None)
    return [one for one in marked if one.__globals__ is vars(module) and one not in known]


def imported(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise Mistake(
            [f"MONITOR_HANDLERS: {name} is no module's name; write it as in an import statement, shop.handlers"]
        )
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        # Also SystemExit: a module that ends the process when it is imported would end the monitor without a word.
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{name}.".startswith(f"{missing}."):
            line = f"there is no module {missing}; check the name, and that it is beside your app"
            line = line if missing == name else f"{line} (for {name})"
        else:
            line = f"the module {name} can't be imported: {reason(error)}"
        raise Mistake([f"MONITOR_HANDLERS: {line}"]) from error


def subscribed(variable: str, types: tuple[str, ...]) -> tuple[Subscription, ...]:
    if lines := [f"{variable}: {wrong}" for one in types if (wrong := unknown_type(one))]:
        raise Mistake(lines)
    return (Subscription(types),)


def webhook(settings: AppSettings) -> list[Handler]:
    if not settings.monitor_webhook_url:
        return []
    # Tornado's client takes a tenth of a second to import, which a monitor without a webhook need not wait.
    from app.monitor.handlers.webhook import Webhook

    wanted = subscribed("MONITOR_WEBHOOK_EVENTS", settings.monitor_webhook_events)
    made = Webhook(settings.monitor_webhook_url, settings.monitor_webhook_key)
    return [Handler("webhook", made, wanted)]


def command(settings: AppSettings) -> list[Handler]:
    if not settings.monitor_command:
        return []
    from app.monitor.handlers.command import Command

    wanted = subscribed("MONITOR_COMMAND_EVENTS", settings.monitor_command_events)
    made = Command.parse(settings.monitor_command)
    return [Handler("command", made, wanted, made.close)]
