"""tests/support/commands.py: what tests run that may take too long, or fail for want of a faster host."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deploy.paths import ROOT
from tests.support import commands
from tests.support.commands import finished, insisted
from tests.support.eventually import eventually
from tests.support.processes import ended

# Succeeds when it is run for the third time.
THIRD = 'echo run >>"$0"; [ "$(wc -l <"$0")" -eq 3 ] || { echo cut short >&2; exit 1; }'


def test_a_command_that_has_ended_is_told_with_what_it_printed(tmp_path: Path) -> None:
    done = finished(["sh", "-c", "pwd; echo $WHO >&2; exit 3"], 60, tmp_path, {"WHO": "rabbit"})
    assert (done.returncode, done.stdout, done.stderr) == (3, f"{tmp_path}\n", "rabbit\n")


def test_of_a_command_whose_time_is_up_nothing_runs_on() -> None:
    # It says when it has started what it waits for.
    waits = "sleep 600 & echo $!; wait"

    def child() -> int:
        with pytest.raises(AssertionError, match=r"did not end within 0\.5 s") as raised:
            finished(["sh", "-c", waits], 0.5)
        return int(str(raised.value).split("\n")[1] or 0)

    pid = eventually(child, 60, "it was fast enough to start something")
    eventually(lambda: ended(pid), 60, "that has ended too")


def test_what_a_busy_host_cuts_short_is_run_again(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    insisted(["sh", "-c", THIRD, str(runs)])
    assert runs.read_text().split() == ["run"] * 3


def test_what_never_succeeds_is_said_with_what_it_printed_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "ALL", 0)
    with pytest.raises(AssertionError, match=r"'echo no space; false' succeeds; it printed no space"):
        insisted(["sh", "-c", "echo no space; false"])


def test_it_stands_for_a_command_that_is_run_once(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    subprocess.run([sys.executable, "-m", commands.__name__, "sh", "-c", THIRD, str(runs)], cwd=ROOT, check=True)
    assert runs.read_text().split() == ["run"] * 3
