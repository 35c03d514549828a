"""Client programs, as users write them, in processes of their own."""

from __future__ import annotations

from pathlib import Path

from tests.support.brokers import Broker
from tests.support.processes import PYTHON, Process

__all__ = ["client"]


def client(broker: Broker, folder: Path, code: str) -> Process:
    """A Python program with the producer's environment."""
    values = {
        "CELERY_BROKER_URL": broker.url("producer"),
        "WARREN_QUEUES": ",".join(broker.settings.queues),
    }
    before = "from app import celery\nfrom app.tasks import add, fail, sleep\n"
    return Process([PYTHON, "-c", before + code], values, folder / "client.log")
