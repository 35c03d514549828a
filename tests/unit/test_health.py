"""app/health.py: ready and alive, told from the ages of two files; and the bootsteps that keep them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app import health, steps
from deploy.paths import ROOT
from tests.support.eventually import eventually

# Well inside and well outside of the limits, so that the test's own duration doesn't matter.
FRESH = 1
LATE = health.TICK_LIMIT + 60
LOST = health.RECONNECT_LIMIT + 60


@pytest.mark.parametrize(
    ("tick", "consumes", "ready", "alive"),
    [
        (None, False, False, False),
        (None, True, False, False),
        (FRESH, True, True, True),
        (FRESH, False, False, True),
        # Wedged: it consumes, or thinks that it does, and its loop has stopped.
        (LATE, True, False, False),
        # Without a broker: the loop does not turn while it looks for one.
        (LATE, False, False, True),
        (LOST, True, False, False),
        (LOST, False, False, False),
        # The clock was set back.
        (-LATE, True, True, True),
    ],
)
def test_ready_and_alive(tmp_path: Path, tick: int | None, *, consumes: bool, ready: bool, alive: bool) -> None:
    if tick is not None:
        touch(tmp_path / "alive", tick)
    if consumes:
        # How old it is says nothing: it is touched once with each connection.
        touch(tmp_path / "ready", LOST * 10)
    assert (health.ready(str(tmp_path)), health.alive(str(tmp_path))) == (ready, alive)
    assert health.main(["ready", str(tmp_path)]) == (0 if ready else 1)
    assert health.main(["alive", str(tmp_path)]) == (0 if alive else 1)


def touch(file: Path, age: float) -> None:
    file.touch()
    then = time.time() - age
    os.utime(file, (then, then))


@pytest.mark.parametrize(
    ("age", "consumes", "alive"),
    [(29, True, True), (31, True, False), (31, False, True), (899, False, True), (901, False, False)],
)
def test_the_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: int, *, consumes: bool, alive: bool) -> None:
    (tmp_path / "alive").touch()
    if consumes:
        (tmp_path / "ready").touch()
    os.utime(tmp_path / "alive", (1000, 1000))
    monkeypatch.setattr(health.time, "time", lambda: 1000.0 + age)
    assert health.alive(str(tmp_path)) is alive


def test_a_few_ticks_may_be_missed() -> None:
    assert steps.TICK * 3 <= health.TICK_LIMIT < health.RECONNECT_LIMIT


@pytest.mark.parametrize("arguments", [[], ["x"], ["--help"], ["Ready"]])
def test_what_cannot_be_asked(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert health.main(arguments) == 2
    assert capsys.readouterr().err == "usage: health.py ready|alive [FOLDER]\n"


def test_the_folder_is_that_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WARREN_HEALTH_DIR", str(tmp_path))
    assert health.main(["alive"]) == 1
    assert capsys.readouterr().err == f"not alive: see the files ready and alive in {tmp_path}\n"
    (tmp_path / "alive").touch()
    assert health.main(["alive"]) == 0


def test_both_sides_have_the_same_folder_by_default() -> None:
    from app.settings import AppSettings

    assert f'"WARREN_HEALTH_DIR", "{AppSettings().health_dir}"' in (ROOT / "app" / "health.py").read_text()


def probe(*options: str, ask: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", *options, str(ROOT / "app" / "health.py"), ask, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")


def test_as_the_program_that_probes_run(tmp_path: Path) -> None:
    (tmp_path / "alive").touch()
    assert (probe(ask="alive", folder=tmp_path).returncode, probe(ask="ready", folder=tmp_path).returncode) == (0, 1)


def test_a_probe_imports_next_to_nothing(tmp_path: Path) -> None:
    def imported(*command: str) -> set[str]:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-X", "importtime", *command], capture_output=True, text=True, check=False
        )
        return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}

    # What Python itself takes to start, and the three that are named at the top.
    allowed = imported("-c", "import os, sys, time")
    assert imported(str(ROOT / "app" / "health.py"), "ready", str(tmp_path)) <= allowed
    assert not any(re.match(r"celery|kombu|msgspec|pathlib|subprocess|json|argparse", name) for name in allowed)


# --- the bootsteps


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "health"
    monkeypatch.setenv("WARREN_HEALTH_DIR", str(place))
    return place


def test_a_worker_begins_without_what_another_left(folder: Path) -> None:
    folder.mkdir()
    (folder / "alive").touch()
    (folder / "ready").touch()
    steps.Alive(SimpleNamespace())
    assert list(folder.iterdir()) == []


def test_alive_ticks_with_the_workers_timer(folder: Path) -> None:
    timers: list[tuple[float, Any]] = []

    def call_repeatedly(every: float, call: Any, **_: Any) -> SimpleNamespace:
        timers.append((every, call))
        return SimpleNamespace(cancel=timers.clear)

    worker = SimpleNamespace(timer=SimpleNamespace(call_repeatedly=call_repeatedly))
    step = steps.Alive(worker)
    step.start(worker)
    assert health.alive(str(folder))
    ((every, tick),) = timers
    assert every == steps.TICK
    touch(folder / "alive", LOST)
    tick()
    assert health.alive(str(folder))
    step.stop(worker)
    assert not health.alive(str(folder))
    assert not timers, "none is left that writes it again"


def test_ready_comes_and_goes_with_the_connection(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps.RPCBackend, "worker_pid", None)
    consumer = SimpleNamespace(connection=None, event_dispatcher=None)
    step = steps.Ready(consumer)
    for end in (step.stop, step.shutdown):
        step.start(consumer)
        assert (folder / "ready").exists()
        end(consumer)
        assert not (folder / "ready").exists()
        end(consumer)  # nothing to take away is no error
    assert steps.RPCBackend.worker_pid == os.getpid()


def test_a_worker_whose_broker_takes_no_messages_is_alive_but_not_ready(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "TICK", 0.001)
    transport = SimpleNamespace()
    consumer = SimpleNamespace(
        connection=None, event_dispatcher=SimpleNamespace(connection=SimpleNamespace(connection=transport))
    )
    step = steps.Ready(consumer)
    step.start(consumer)
    touch(folder / "alive", LOST)
    for _ in range(2):  # each of its connections may say so
        transport.on_blocked("low on memory")
    assert not (folder / "ready").exists()
    eventually(lambda: health.alive(str(folder)), 30)
    for _ in range(2):
        transport.on_unblocked()
    assert health.ready(str(folder))
    # Nobody touches the file in the loop's place any more.
    eventually(lambda: not any(thread.name == "blocked" for thread in threading.enumerate()), 30)
    transport.on_blocked("low on disk")
    step.stop(consumer)
    eventually(lambda: not any(thread.name == "blocked" for thread in threading.enumerate()), 30)
