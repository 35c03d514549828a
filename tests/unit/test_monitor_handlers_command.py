"""The command, with real programs."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from typing import Any

import pytest

from app.eventlog import Stop
from app.monitor.handlers import Delivery, Handler, Registry
from app.monitor.handlers.command import Command
from app.monitor.handlers.failure import Failure, reason
from app.monitor.handlers.registry import Subscription
from tests.support.eventually import eventually
from tests.support.handlers import Outgoing, event
from tests.support.processes import ended

# Far beyond any wait of these tests, and an end to what a failing test leaves.
LONG = "300"


def python(code: str, *arguments: str, timeout: float = 60) -> Command:
    return Command([sys.executable, "-c", code, *arguments], timeout)


def sh(script: str, *arguments: str, timeout: float = 60) -> Command:
    return Command(["sh", "-c", script, "sh", *arguments], timeout)


def children() -> set[int]:
    """The processes that this one started and has not waited for, whether or not they have ended."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        # Of all processes of the host, some end meanwhile.
        with suppress(OSError):
            if int(status.read_text(errors="replace").rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(status.parent.name))
    return found


def test_it_gets_the_event_on_its_standard_input(tmp_path: Path) -> None:
    sent = event(1, exception="ValueError('ä\u2028 \ud800')", runtime=float("nan"))
    sh('cat > "$1"', str(tmp_path / "got"))(sent)
    assert json.loads((tmp_path / "got").read_bytes()) == {**sent, "runtime": None}


def test_a_large_event_is_written_beside_what_it_writes_itself(tmp_path: Path) -> None:
    sent = event(1, traceback="x" * 3_000_000)
    code = (
        "import sys\nsys.stderr.write('y' * 1_000_000)\nbody = sys.stdin.read()\nsys.stdout.write('z' * 1_000_000)\n"
        "open(sys.argv[1], 'w').write(body)"
    )
    python(code, str(tmp_path / "got"))(sent)
    assert json.loads((tmp_path / "got").read_bytes()) == sent


def test_it_need_not_read(tmp_path: Path) -> None:
    for script in ("true", "exec <&-; true", "exec <&- 2>&- >&-; sleep 0.1"):
        sh(script)(event(1, traceback="x" * 3_000_000))


def test_arguments_are_a_list_and_no_shell_takes_part(tmp_path: Path) -> None:
    line = f"{shlex.quote(sys.executable)} -c 'import sys; open(sys.argv[1], \"w\").write(sys.argv[2])'"
    Command.parse(f"{line} {shlex.quote(str(tmp_path / 'a b'))} '$HOME; `id` *'")(event())
    assert (tmp_path / "a b").read_text() == "$HOME; `id` *"


def environment_of(command: Callable[[str], Command], tmp_path: Path, sent: dict[str, Any]) -> dict[str, str]:
    file = tmp_path / "environment"
    command(str(file))(sent)
    pairs = file.read_bytes().decode("utf-8", "replace").split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def test_its_environment_says_what_it_is_about_and_has_no_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MONITOR_TOKEN", "MONITOR_WEBHOOK_KEY", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "MONITOR_X"):
        monkeypatch.setenv(name, "amqp://pa55word")
    monkeypatch.setenv("SHOP_URL", "https://shop.example")

    def show(file: str) -> Command:
        return sh('tr "\\n" "\\n" < /proc/$$/environ > "$1"', file)

    seen = environment_of(show, tmp_path, event(1))
    assert seen["WARREN_EVENT_TYPE"] == "task-failed"
    assert seen["WARREN_TASK_ID"] == "id-1"
    assert seen["SHOP_URL"] == "https://shop.example"
    assert seen["PATH"] == os.environ["PATH"]
    assert "pa55word" not in str(seen)
    hostile = "a\0b\n$(id)\ud800" + "x" * 300_000
    seen = environment_of(show, tmp_path, event(1, id=hostile))
    assert seen["WARREN_TASK_ID"].startswith("ab\n$(id)")
    seen = environment_of(show, tmp_path, {"type": "worker-offline", "worker": "w"})
    assert seen["WARREN_TASK_ID"] == ""


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 7", "the command ended with exit code 7"),
        ("echo one >&2; echo 'two: no route' >&2; exit 1", "the command ended with exit code 1: two: no route"),
        ("printf '\\033[31mred\\377\\n\\n' >&2; exit 1", "exit code 1: \\x1b[31mred\\xff"),
        ("echo quiet; exit 1", "the command ended with exit code 1"),
        ("kill -9 $$", "the command ended with signal 9"),
        ("yes error | head -n 200000 >&2; echo last >&2; exit 3", "exit code 3: last"),
    ],
)
def test_a_failure_is_said_with_the_last_line_of_its_errors(script: str, said: str) -> None:
    with pytest.raises(Failure) as raised:
        sh(script)(event())
    assert reason(raised.value).endswith(said)
    assert "\n" not in reason(raised.value)


def test_a_program_that_vanishes_is_a_failure(tmp_path: Path) -> None:
    program = tmp_path / "tell"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    command = Command.parse(f"{program} --password secret")
    command(event())
    program.unlink()
    with pytest.raises(Failure, match="the command can't be run \\(No such file or directory\\)"):
        command(event())


@pytest.mark.parametrize(
    "script",
    [
        # It and what it started, whether or not they care for signals, and whatever they have closed.
        f"trap '' TERM INT HUP; sleep {LONG} & echo $! > $1.part; mv $1.part $1; wait",
        f"exec <&- >&- 2>&-; sleep {LONG} & echo $! > $1.part; mv $1.part $1; wait",
        f"sleep {LONG} & echo $! > $1.part; mv $1.part $1; while :; do echo x >&2; done",
    ],
)
def test_one_that_takes_too_long_is_killed_with_what_it_started(tmp_path: Path, script: str) -> None:
    file = tmp_path / "pid"
    for seconds in (1, 10, 60):
        with pytest.raises(Failure, match=f"did not end within {seconds} s and was killed"):
            sh(script, str(file), timeout=seconds)(event())
        # A busy machine may not let it start anything so soon.
        if file.exists():
            break
    eventually(lambda: ended(int(file.read_text())), 20, "its child is gone")


def test_what_it_leaves_behind_does_not_hold_it_up(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    # One that is silent and one that never stops writing, both with its standard error.
    for work in (f"sleep {LONG}", "while :; do echo x >&2; done"):
        sh(f"( {work} ) & echo $! > $1; exit 0", str(file))(event())
        os.kill(int(file.read_text()), signal.SIGKILL)


def test_a_close_kills_it_and_lets_nothing_more_start(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    command = sh(f"sleep {LONG} & echo $! > $1.part; mv $1.part $1; wait", str(file))
    failures: list[str] = []
    over = Flag()

    def run() -> None:
        try:
            command(event())
        except Failure as failure:
            failures.append(str(failure))
        over.set()

    Thread(target=run, daemon=True).start()
    eventually(file.exists, 20, "it runs")
    command.close()
    assert over.wait(20)
    assert failures == ["the command ended with signal 9"]
    eventually(lambda: ended(int(file.read_text())), 20, "its child is gone")
    with pytest.raises(Failure, match="the monitor stops"):
        command(event())
    command.close()


def test_no_pipes_and_processes_are_left() -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    command = sh("exit 1")
    before, others = descriptors(), children()
    for _ in range(20):
        with pytest.raises(Failure):
            command(event(1, traceback="x" * 200_000))
    assert descriptors() <= before
    # Not all there are: another test of the session may have left some.
    assert children() <= others


def test_what_the_end_interrupts_comes_again(tmp_path: Path) -> None:
    outgoing = Outgoing(tmp_path / "monitor", "command")
    outgoing.put("command", event(1), event(2))
    got, hang = tmp_path / "got", tmp_path / "hang"
    hang.touch()
    script = f'echo $WARREN_TASK_ID >> "$1"; test -e "$2" && [ $WARREN_TASK_ID = id-2 ] && sleep {LONG}; true'

    def start() -> Delivery:
        command = sh(script, str(got), str(hang))
        one = Handler("command", command, (Subscription(("task-failed",)),), command.close)
        delivery = Delivery(outgoing.path, Registry([one]), Stop())
        delivery.start()
        return delivery

    delivery = start()
    eventually(lambda: got.read_text().split() == ["id-1", "id-2"], 20)
    delivery.stop(0.4)
    eventually(lambda: not delivery._couriers["command"].thread.is_alive(), 20, "the kill has ended it")
    assert outgoing.waiting("command") == 1
    hang.unlink()
    delivery = start()
    eventually(lambda: outgoing.waiting("command") == 0, 20)
    assert got.read_text().split() == ["id-1", "id-2", "id-2"]
    delivery.stop(10)
    outgoing.close()
