"""Sends tasks, each until the broker has confirmed that it has it:  send.py PREFIX NUMBER SECONDS [RATE].

With RATE no more than so many in a second.
"""

from __future__ import annotations

import sys
import time

from app import celery

prefix, number, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
pause = 1 / float(sys.argv[4]) if sys.argv[4:] else 0
failures = 0
for one in range(number):
    while True:
        try:
            celery.send_task("ledger_tasks.enter", args=[f"{prefix}{one}", seconds], ignore_result=True)
            break
        except Exception as error:
            failures += 1
            print(f"again: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            time.sleep(0.5)
    time.sleep(pause)
print(f"sent {number}, {failures} of them not at the first attempt", flush=True)
