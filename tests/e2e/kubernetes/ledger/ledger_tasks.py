"""A task that tells the ledger when it begins and when it has ended."""

from __future__ import annotations

import time
from urllib.request import Request, urlopen

from celery import shared_task


@shared_task(ignore_result=True)
def enter(number: str, seconds: float) -> None:
    tell(f"began/{number}")
    time.sleep(seconds)
    tell(f"done/{number}")


def tell(line: str) -> None:
    urlopen(Request(f"http://ledger:8080/{line}", method="POST"), timeout=30).close()
