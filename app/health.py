"""Is this worker ready, and is it alive? Answered from two files, in a few milliseconds.

    python -I -S app/health.py ready [FOLDER]
    python -I -S app/health.py alive [FOLDER]

The files are kept by `app/steps.py`: `ready` exists while the worker consumes, `alive` is touched by its event loop.
Only `os`, `sys` and `time` are imported, so that a probe costs next to nothing; `celery inspect ping`, the usual probe,
costs half a second of CPU and fails whenever the broker is away.

ready   the worker consumes tasks and its loop ticks
alive   its loop ticks, or it is without a broker, and not for longer than RECONNECT_LIMIT: restarting a worker
        does not bring a broker back
"""

import os
import sys
import time

# Seconds. The file is touched every 5 s; a busy host may delay that a few times.
TICK_LIMIT = 30
# Seconds. A worker that has not found its broker for this long may as well start anew.
RECONNECT_LIMIT = 900


def age(path: str) -> float | None:
    """Seconds since ``path`` was touched, or None where it does not exist."""
    try:
        return time.time() - os.stat(path).st_mtime  # noqa: PTH116 - pathlib takes longer to import than all this
    except OSError:
        return None


def ready(folder: str) -> bool:
    tick = age(folder + "/alive")
    return age(folder + "/ready") is not None and tick is not None and tick < TICK_LIMIT


def alive(folder: str) -> bool:
    tick = age(folder + "/alive")
    if tick is None:
        return False
    consuming = age(folder + "/ready") is not None
    return tick < (TICK_LIMIT if consuming else RECONNECT_LIMIT)


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in {"ready", "alive"}:
        sys.stderr.write("usage: health.py ready|alive [FOLDER]\n")
        return 2
    folder = arguments[1] if len(arguments) > 1 else os.environ.get("WARREN_HEALTH_DIR", "/tmp/warren")  # noqa: S108
    holds = ready(folder) if arguments[0] == "ready" else alive(folder)
    if not holds:
        sys.stderr.write(f"not {arguments[0]}: see the files ready and alive in {folder}\n")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
