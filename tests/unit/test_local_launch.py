"""launch.py, run as supervisor runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.platforms.local import launch, leftovers
from deploy.platforms.local.progress import Progress


def until(fact: Callable[[], object]) -> None:
    limit = time.monotonic() + 10
    while not fact():
        assert time.monotonic() < limit
        time.sleep(0.02)


def described(folder: Path, *arguments: str, **more: Any) -> Path:
    """The description of a program that runs ``arguments``."""
    file = folder / "program.json"
    program = {"arguments": arguments, "environment": {}, "path": [], "directory": str(folder)}
    file.write_text(json.dumps({**program, "record": str(folder / "record.json"), **more}))
    return file


def run(file: Path, mode: str = "run", *command: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", launch.__file__, mode, str(file), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,
    )


def test_the_environment_is_the_programs_own_without_what_breaks_it(tmp_path: Path) -> None:
    odd = 'it\'s "quoted", 100% # and\nmore'
    file = described(tmp_path, "env", "-0", environment={"ODD": odd}, path=["/first"])
    out, _ = run(file, RABBITMQ_NODENAME="evil", CELERY_BROKER_URL="evil", ERL_LIBS="evil", KEPT="yes").communicate(
        timeout=10
    )
    seen = dict(line.partition("=")[::2] for line in out.split("\0") if line)
    assert seen["ODD"] == odd
    assert seen["KEPT"] == "yes"
    assert seen["PATH"].startswith("/first:")
    assert "evil" not in seen.values()


def test_it_becomes_the_program_and_notes_itself(tmp_path: Path) -> None:
    file = described(tmp_path, "sleep", "60")
    process = run(file)
    record = tmp_path / "record.json"
    until(record.exists)
    assert json.loads(record.read_text()) == {
        "pid": process.pid,
        "started": launch.started(process.pid),
        "boot": launch.boot(),
    }
    assert launch.leftovers(str(record)) == [process.pid]
    process.kill()
    process.wait()
    assert launch.leftovers(str(record)) == []


def test_health_files_of_the_one_before_are_gone(tmp_path: Path) -> None:
    health = tmp_path / "health"
    health.mkdir()
    (health / "ready").touch()
    (health / "other").touch()
    run(described(tmp_path, "true", environment={"WARREN_HEALTH_DIR": str(health)})).communicate(timeout=10)
    assert [file.name for file in health.iterdir()] == ["other"]


def test_pool_processes_of_a_killed_worker_end_before_its_successor_starts(tmp_path: Path) -> None:
    child = tmp_path / "child"
    file = described(tmp_path, "sh", "-c", f"sleep 60 & echo $! > {child}; wait")
    first = run(file)
    until(lambda: child.exists() and child.read_text().strip())
    first.kill()
    first.wait()
    orphan = int(child.read_text())
    assert launch.started(orphan)
    described(tmp_path, "true")
    run(file).communicate(timeout=10)
    until(lambda: not launch.started(orphan))


def test_a_record_from_before_a_restart_of_the_host_is_not_ours(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        noted = {"pid": other.pid, "started": launch.started(other.pid)}
        try:
            record.write_text(json.dumps({**noted, "boot": launch.boot()}))
            assert launch.leftovers(str(record)) == [other.pid]
            record.write_text(json.dumps({**noted, "boot": "another"}))
            assert launch.leftovers(str(record)) == []
        finally:
            other.kill()


def test_another_process_with_a_recorded_pid_is_not_ours(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        record.write_text(json.dumps({"pid": other.pid, "started": "another time"}))
        try:
            assert launch.leftovers(str(record)) == []
        finally:
            other.kill()


def test_exec_runs_a_command_and_gives_its_exit_code(tmp_path: Path) -> None:
    file = described(tmp_path, "true", environment={"MARK": "7"})
    process = run(file, "exec", "sh", "-c", "exit $MARK")
    process.communicate(timeout=10)
    assert process.returncode == 7
    assert not (tmp_path / "record.json").exists()


def test_exec_says_which_program_is_missing(tmp_path: Path) -> None:
    process = run(described(tmp_path, "true"), "exec", "no-such-program")
    _, said = process.communicate(timeout=10)
    assert process.returncode == 127
    assert said == "error: no-such-program: No such file or directory\n"


def test_leftovers_are_ended_in_order_and_hard_if_they_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = tmp_path / "run"
    records.mkdir()
    monkeypatch.setattr(leftovers, "RECORDS", records)
    monkeypatch.setattr(leftovers, "record_file", lambda name: records / f"{name}.json")
    worker = run(
        described(tmp_path, "sh", "-c", "trap '' TERM; sleep 60 & wait; wait", record=str(records / "worker-1.json"))
    )
    until((records / "worker-1.json").exists)
    broker = run(described(tmp_path, "sleep", "60", record=str(records / "rabbitmq.json")))
    until((records / "rabbitmq.json").exists)
    with Progress() as progress:
        leftovers.end(1, progress)
    assert worker.wait(5) == -signal.SIGKILL
    assert broker.wait(5) == -signal.SIGTERM
    assert not list(records.iterdir())
