"""Waiting for facts, with progress that a person can follow and a limit that says what is missing."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from deploy.errors import ExitCode, WarrenError

__all__ = ["INTERVAL", "amqp_answers", "until"]

# Seconds between two looks: short beside anything waited for here, and next to no CPU.
INTERVAL = 0.05


def until(fact: Callable[[], bool], limit: float, otherwise: Callable[[], str]) -> float:
    """Waits until ``fact`` holds, and returns after how many seconds it did.

    Raises:
        WarrenError: not within ``limit`` seconds; ``otherwise`` says what is missing and what to do.
    """
    start = time.monotonic()
    while not fact():
        if time.monotonic() - start > limit:
            raise WarrenError(otherwise(), ExitCode.TIMEOUT)
        time.sleep(INTERVAL)
    return time.monotonic() - start


def amqp_answers(host: str, port: int) -> bool:
    """Whether a broker answers the first words of AMQP 0-9-1 there: listening alone is not yet serving."""
    try:
        with socket.create_connection((host, port), timeout=2) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            # Connection.Start is a method frame: type 1.
            return connection.recv(1) == b"\x01"
    except OSError:
        return False
