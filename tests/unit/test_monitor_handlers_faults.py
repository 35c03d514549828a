"""Delivery on a bad day: killed at any moment, no room, a lock that is held, a file that is replaced."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from app.eventlog import Stop
from app.monitor.handlers import Delivery, Registry
from app.monitor.handlers.delivery import NOTE_EVERY
from deploy.paths import ROOT
from tests.support.eventually import eventually
from tests.support.handlers import Outgoing, busy, event, handler

# A monitor's share of delivery, with a handler that writes down what it gets before it returns, and a kill from within or
# from a thread beside it, as late as the test says.
PROGRAM = """
import os, signal, sys, threading, time
from pathlib import Path
from app.eventlog import Stop
from app.monitor.handlers import Delivery, Registry
from tests.support.handlers import handler

die = lambda: os.kill(os.getpid(), signal.SIGKILL)
out = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
left, delay = int(sys.argv[3]), float(sys.argv[4])

def write(event):
    global left
    os.write(out, b"%d %d\\n" % (event["number"], event["delivery"]))
    left -= 1
    if left == 0 and delay:
        threading.Thread(target=lambda: (time.sleep(delay), die())).start()
    elif left == 0:
        die()

stop = Stop()
Delivery(Path(sys.argv[1]), Registry([handler("a", write)]), stop).start()
stop.wait()
"""


@pytest.fixture
def outgoing(tmp_path: Path) -> Iterator[Outgoing]:
    made = Outgoing(tmp_path / "monitor", "a")
    yield made
    made.close()


@pytest.fixture
def quick() -> Callable[[float], None]:
    """Pauses of a moment, so that a fault does not keep a core busy."""
    stop = Stop()

    def pause(seconds: float) -> None:
        stop.wait(min(seconds, 0.01))

    return pause


def noting(numbers: list[int]) -> Registry:
    return Registry([handler("a", lambda event: numbers.append(event["number"]))])


def test_kills_repeat_little_and_lose_nothing(outgoing: Outgoing, tmp_path: Path) -> None:
    file, count = tmp_path / "got", 20_000
    outgoing.put("a", *(event(number) for number in range(count)))
    # Within the handler, after so many deliveries; or then and some microseconds more, wherever it is by then.
    kills = [(deliveries, 0.0) for deliveries in (1, 2, 50, 99, 100, 101, 250)]
    kills += [(300, microseconds / 1e6) for microseconds in (10, 50, 100, 200, 400, 800)]
    for deliveries, delay in kills:
        program = [sys.executable, "-c", PROGRAM, str(outgoing.path), str(file), str(deliveries), str(delay)]
        assert subprocess.run(program, cwd=ROOT, check=False, timeout=60).returncode == -signal.SIGKILL
    assert outgoing.waiting("a"), "the test was too slow to kill it"
    last = subprocess.Popen([sys.executable, "-c", PROGRAM, str(outgoing.path), str(file), "-1", "0"], cwd=ROOT)
    try:
        eventually(lambda: outgoing.waiting("a") == 0, 60, "the last one ends the work")
    finally:
        last.kill()
        last.wait()
    rows = [[int(word) for word in line.split()] for line in file.read_text().splitlines()]
    assert {number for number, _ in rows} == set(range(count))
    # A repetition has the same delivery number, which is how a receiver tells it.
    assert len({tuple(row) for row in rows}) == count
    repeated = [before - now + 1 for (before, _), (now, _) in pairwise(rows) if now != before + 1]
    assert all(0 < one <= NOTE_EVERY for one in repeated), repeated
    assert len(repeated) <= len(kills)


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "volume"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    if (
        sys.platform != "linux"
        or os.geteuid() != 0
        or subprocess.run(mount, check=False, capture_output=True).returncode
    ):
        pytest.skip("a small volume needs root, and the right to mount")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_volume_is_waited_for(
    small_volume: Path, quick: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    outgoing = Outgoing(small_volume, "a")
    numbers: list[int] = []
    ballast = small_volume / "ballast"

    def take(event: dict[str, Any]) -> None:
        if not numbers:
            with suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 1024)
        numbers.append(event["number"])

    # More pages than the write-ahead log has to spare.
    outgoing.put("a", *(event(number, traceback="x" * 300) for number in range(1000)))
    outgoing.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    delivery = Delivery(outgoing.path, Registry([handler("a", take)]), Stop(), quick)
    with caplog.at_level(logging.INFO, logger="warren.monitor"):
        delivery.start()
        eventually(lambda: "handler a waits" in caplog.text, 20, "it says what is wrong")
        # It goes no further than what it may repeat.
        assert len(numbers) <= NOTE_EVERY
        waited = caplog.messages[:]
        assert len([line for line in waited if "handler a" in line]) == 1
        assert "look whether its volume has room" in waited[-1]
        assert delivery.stats()["a"].failed == 0
        ballast.unlink()
        eventually(lambda: outgoing.waiting("a") == 0, 20, "it goes on when there is room")
        assert "handler a goes on" in caplog.messages
    assert numbers == list(range(1000))
    delivery.stop(10)
    outgoing.close()


def test_a_lock_that_is_held_is_waited_for_in_silence(outgoing: Outgoing, caplog: pytest.LogCaptureFixture) -> None:
    numbers: list[int] = []
    pauses: list[float] = []
    outgoing.put("a", *(event(number) for number in range(NOTE_EVERY * 2)))
    lock = busy(outgoing.path)
    delivery = Delivery(outgoing.path, noting(numbers), Stop(), pauses.append)
    delivery.start()
    eventually(lambda: len(numbers) == NOTE_EVERY, 20, "it reads beside a writer")
    lock.execute("ROLLBACK")
    lock.close()
    eventually(lambda: outgoing.waiting("a") == 0, 20)
    assert numbers == list(range(NOTE_EVERY * 2))
    assert caplog.messages == []
    # It went on with the lock, not after a pause: a busy writer leaves it for moments only.
    assert pauses == []
    delivery.stop(10)


def test_a_history_that_is_set_aside_is_followed_by_the_new_one(
    outgoing: Outgoing, quick: Callable[[float], None]
) -> None:
    numbers: list[int] = []
    delivery = Delivery(outgoing.path, noting(numbers), Stop(), quick)
    delivery.start()
    outgoing.put("a", event(1))
    delivery.wake(["a"])
    eventually(lambda: numbers == [1] and outgoing.waiting("a") == 0, 20)
    outgoing.close()
    for file in outgoing.path.parent.iterdir():
        file.rename(file.with_name(file.name + ".damaged"))
    # While there is none, and when a new one is there.
    delivery.wake(["a"])
    rebuilt = Outgoing(outgoing.path.parent, "a")
    rebuilt.put("a", event(2), event(3))
    delivery.wake(["a"])
    eventually(lambda: numbers == [1, 2, 3] and rebuilt.waiting("a") == 0, 20)
    delivery.stop(10)
    rebuilt.close()


@pytest.mark.parametrize("content", [b"", b"no database at all", b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_file_that_is_no_history_is_said_and_waited_for(
    tmp_path: Path, content: bytes, quick: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    numbers: list[int] = []
    outgoing = Outgoing(tmp_path / "monitor", "a")
    outgoing.put("a", event(1))
    outgoing.close()
    good = outgoing.path.read_bytes()
    outgoing.path.write_bytes(content)
    delivery = Delivery(outgoing.path, noting(numbers), Stop(), quick)
    delivery.start()
    eventually(lambda: "can't be read or written" in caplog.text, 20)
    assert delivery.stats()["a"].waiting == 0
    part = outgoing.path.with_suffix(".part")
    part.write_bytes(good)
    part.replace(outgoing.path)
    eventually(lambda: numbers == [1], 20)
    assert len([line for line in caplog.messages if "can't be read or written" in line]) == 1
    delivery.stop(10)


def test_no_file_is_made_in_the_place_of_one_that_is_missing(
    tmp_path: Path, quick: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "history.db"
    delivery = Delivery(path, Registry([handler("a", print)]), Stop(), quick)
    delivery.start()
    eventually(lambda: "can't be read or written" in caplog.text, 20)
    delivery.stop(10)
    assert list(tmp_path.iterdir()) == []


def test_a_signal_ends_it_soon_though_a_handler_hangs(outgoing: Outgoing) -> None:
    outgoing.put("a", event(1))
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal, sys, threading\nfrom pathlib import Path\nfrom app.eventlog import Stop\n"
            "from app.monitor.handlers import Delivery, Registry\nfrom tests.support.handlers import handler\n"
            "stop = Stop()\nsignal.signal(signal.SIGTERM, lambda *_: stop.set())\n"
            "hang = lambda event: (print('in', flush=True), threading.Event().wait())\n"
            "delivery = Delivery(Path(sys.argv[1]), Registry([handler('a', hang)]), stop)\n"
            "delivery.start()\nstop.wait()\ndelivery.stop(0.2)\nprint('out', flush=True)\n",
            str(outgoing.path),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "in\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == "out\n"
    assert process.returncode == 0
    assert outgoing.waiting("a") == 1


def test_a_mistake_of_our_own_does_not_end_the_thread(
    outgoing: Outgoing,
    quick: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    numbers: list[int] = []
    delivery = Delivery(outgoing.path, noting(numbers), Stop(), quick)
    courier = delivery._couriers["a"]
    finished = courier._finished

    def once(key: int) -> None:
        monkeypatch.setattr(courier, "_finished", finished)
        raise ZeroDivisionError

    monkeypatch.setattr(courier, "_finished", once)
    outgoing.put("a", event(1))
    delivery.start()
    eventually(lambda: numbers == [1, 1] and outgoing.waiting("a") == 0, 20)
    assert "by a mistake of the monitor's own" in caplog.text
    delivery.stop(10)


def test_a_database_without_tables_yet(tmp_path: Path, quick: Callable[[float], None]) -> None:
    numbers: list[int] = []
    path = tmp_path / "monitor" / "history.db"
    path.parent.mkdir()
    sqlite3.connect(path).execute("CREATE TABLE other (x)").connection.close()
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        quick(seconds)

    delivery = Delivery(path, noting(numbers), Stop(), pause)
    delivery.start()
    eventually(lambda: len(pauses) > 0, 20)
    path.unlink()
    # After the first of these it looks for a file, after the second it found none: by then it has let go of the old one,
    # which would be confused with the new one by their names.
    before = len(pauses)
    eventually(lambda: len(pauses) >= before + 2, 20)
    outgoing = Outgoing(path.parent, "a")
    outgoing.put("a", event(1))
    delivery.wake(["a"])
    eventually(lambda: numbers == [1], 20)
    delivery.stop(10)
    outgoing.close()
