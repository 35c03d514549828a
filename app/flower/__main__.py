"""``python -m app.flower [options]``: Flower with its own options, variables and configuration file, as `celery flower` has.

Ends with 0 when it is stopped (SIGTERM, SIGINT), with 3 when a setting is wrong, and with 1 when it can't go on: its port
is taken, or nothing was heard of its receiver for FLOWER_DEAF_SECONDS. It needs no broker to start.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable, MutableMapping
from typing import Any

__all__ = ["main"]

# Objects that are made between two looks for garbage, which stop everything: as many as some thousand events make. Python's
# own 700 look through all tasks time and again, a third of the time of a replay.
GARBAGE = 50_000


def without_secrets(command: Any) -> Callable[..., None]:
    """Flower's banner, which for debugging logs all settings: the cookies' key and that of the provider are among them."""
    print_banner = command.print_banner

    def banner(*args: Any) -> None:
        with_secrets, command.settings = command.settings, dict.fromkeys(command.settings, "...")
        try:
            print_banner(*args)
        finally:
            command.settings = with_secrets

    return banner


def clear(environment: MutableMapping[str, str]) -> None:
    """Takes away what Flower would take for more than it is: a variable that is empty is one that is not set.

    Where a provider of logins is set, the operator's password is no way in, nor asked for on top.
    """
    for name in [name for name, value in environment.items() if name.startswith("FLOWER_") and not value.strip()]:
        del environment[name]
    if environment.get("FLOWER_AUTH_PROVIDER"):
        environment.pop("FLOWER_BASIC_AUTH", None)


def main() -> int:
    gc.set_threshold(GARBAGE)
    clear(os.environ)
    # Not before: Flower reads some of its variables when it is imported.
    import flower.command
    from celery.bin.celery import main as celery

    from app.flower.application import Flower

    # The one place where Flower's command names the class of its application.
    flower.command.Flower = Flower
    flower.command.print_banner = without_secrets(flower.command)
    sys.argv = ["celery", "-A", "app", "flower", *sys.argv[1:]]
    try:
        celery()
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
            return 1
        return end.code or 0
    return 0


if __name__ == "__main__":
    status = main()
    logging.shutdown()
    # Past the interpreter's own end, which would wait for threads that ask a broker which is away.
    os._exit(status)
