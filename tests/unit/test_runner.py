"""deploy/run.py: what is shown, what runs, and the one line of what fails."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy import run
from deploy.errors import ExitCode, WarrenError, reason
from deploy.run import Runner

TOUCH = [sys.executable, "-c", "import sys, pathlib; pathlib.Path(sys.argv[1]).touch()"]
AWKWARD = ["a b", "'", '"', "$HOME", "*", "", "é", "a\nb"]


def says(code: int, error: str) -> list[str]:
    return [sys.executable, "-c", f"import sys; print('out'); sys.stderr.write({error!r}); sys.exit({code})"]


def test_commands_are_shown_only_when_asked_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Runner().run([*TOUCH, str(tmp_path / "made")])
    assert (tmp_path / "made").exists()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("how", [Runner(echo=True), Runner(dry=True)])
@pytest.mark.parametrize("method", ["run", "read", "attach"])
def test_what_is_shown_can_be_copied_into_a_shell(how: Runner, method: str, capfd: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-c", "import sys; print(sys.argv[1:])", *AWKWARD]
    getattr(how, method)(command)
    shown = capfd.readouterr().err
    assert shown.startswith("$ ")
    assert shlex.split(shown[2:]) == command
    typed = subprocess.run(["/bin/sh", "-c", shown[2:]], capture_output=True, text=True, check=True)
    assert typed.stdout == f"{AWKWARD}\n"


@pytest.mark.parametrize("method", ["run", "attach", "differs"])
def test_dry_runs_nothing_that_changes_something(tmp_path: Path, method: str) -> None:
    getattr(Runner(dry=True), method)([*TOUCH, str(tmp_path / "made")])
    assert not (tmp_path / "made").exists()


def test_what_is_no_text_is_read_all_the_same() -> None:
    """A log of somebody's program, for example."""
    latin = [sys.executable, "-c", "import sys; sys.stdout.buffer.write(b'caf\\xe9')"]
    assert Runner().read(latin) == "caf\N{REPLACEMENT CHARACTER}"


def test_dry_still_reads() -> None:
    assert Runner(dry=True).read([sys.executable, "-c", "print('there')"]) == "there\n"


@pytest.mark.parametrize(("dry", "acts"), [(False, True), (True, False)])
def test_what_is_done_without_a_command_is_shown_too(dry: bool, acts: bool, capfd: pytest.CaptureFixture[str]) -> None:
    assert Runner(dry=dry).acts("revoke it  # as user ops") is acts
    assert capfd.readouterr().err == ("$ revoke it  # as user ops\n" if dry else "")


@pytest.mark.parametrize(
    ("error", "end"),
    [
        ("first\nthe last\n\n  \n", "ended with exit code 3: the last"),
        ("  only  ", "ended with exit code 3: only"),
        ("", "ended with exit code 3"),
    ],
)
@pytest.mark.parametrize(
    "call", [lambda command: Runner().read(command), lambda command: Runner().run(command, quiet=True)]
)
def test_a_failure_is_one_line_with_the_last_that_was_said(
    call: Callable[[list[str]], Any], error: str, end: str
) -> None:
    command = says(3, error)
    with pytest.raises(WarrenError) as caught:
        call(command)
    assert str(caught.value) == f"`{shlex.join(command)}` {end}"
    assert caught.value.code is ExitCode.FAILED


def test_of_kubectl_the_message_is_told_and_not_the_difference_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "kubectl"
    message = (
        'for: "x": error when patching "x": PersistentVolumeClaim "monitor" is invalid: spec: Forbidden: immutable'
    )
    said = f"Error from server (Invalid): error when applying patch:\n{message}\n@@ -6,7 +6,7 @@\n   Requests,\n"
    program.write_text(f"#!/bin/sh\ncat >&2 <<'end'\n{said}end\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(WarrenError) as caught:
        Runner().run(["kubectl", "apply"], quiet=True)
    assert str(caught.value) == f"`kubectl apply` ended with exit code 1: {message}"


def test_what_was_shown_already_is_not_said_again(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WarrenError) as caught:
        Runner().run(says(3, "why"))
    assert str(caught.value).endswith("ended with exit code 3")
    assert capfd.readouterr() == ("out\n", "why")


def test_reading_may_take_a_failure_for_an_answer() -> None:
    assert Runner().read(says(3, "why"), check=False) == "out\n"


@pytest.mark.parametrize(("code", "differs"), [(0, False), (1, True)])
def test_what_differs_is_shown(code: int, differs: bool, capfd: pytest.CaptureFixture[str]) -> None:
    assert Runner().differs(says(code, "a warning")) is differs
    assert capfd.readouterr() == ("out\n", "a warning")


def test_a_comparison_that_fails_is_told_in_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WarrenError, match=r"ended with exit code 2: why$"):
        Runner().differs(says(2, "why"))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("method", ["run", "read", "attach", "differs"])
def test_a_program_that_is_not_there(method: str) -> None:
    with pytest.raises(WarrenError) as caught:
        getattr(Runner(), method)(["no-such-program", "x"])
    assert str(caught.value) == "no-such-program is not installed, or not on the PATH"
    assert caught.value.code is ExitCode.PLATFORM


def test_a_program_that_does_not_end() -> None:
    command = [sys.executable, "-c", "import sys; sys.stdin.close(); import threading; threading.Event().wait()"]
    with pytest.raises(WarrenError) as caught:
        Runner().read(command, timeout=0.05)
    assert caught.value.code is ExitCode.TIMEOUT
    assert str(caught.value) == f"`{shlex.join(command)}` did not end within 0.05 s"


def test_a_command_sees_no_terminal_and_runs_in_the_projects_folder() -> None:
    asked = [sys.executable, "-c", "import os, sys; print(os.getcwd(), repr(sys.stdin.read()))"]
    assert Runner().read(asked) == f"{run.ROOT} ''\n"


def test_variables_come_on_top_of_ours(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ONE", "1")
    Runner().run(
        [sys.executable, "-c", "import os; print(os.environ['ONE'], os.environ['TWO'])"], environment={"TWO": "2"}
    )
    assert capfd.readouterr().out == "1 2\n"


@pytest.mark.parametrize("code", [0, 1, 130])
def test_the_exit_code_of_what_the_terminal_belonged_to(code: int) -> None:
    assert Runner().attach([sys.executable, "-c", f"raise SystemExit({code})"]) == code


def test_ctrl_c_is_left_to_what_the_terminal_belongs_to(monkeypatch: pytest.MonkeyPatch) -> None:
    class Process:
        waits = 0

        def wait(self) -> int:
            self.waits += 1
            if self.waits < 3:
                raise KeyboardInterrupt
            return 7

    process = Process()
    monkeypatch.setattr(run.subprocess, "Popen", lambda *_, **__: process)
    assert Runner().attach(["docker", "compose", "logs"]) == 7


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(111, "Connection refused"), "Connection refused"),
        (ValueError("two\n  lines"), "two lines"),
        (TimeoutError(), "TimeoutError"),
        (KeyError("name"), "'name'"),
    ],
)
def test_exceptions_in_a_few_words(error: BaseException, text: str) -> None:
    assert reason(error) == text
