"""deploy/platforms/kubernetes/forward.py: a way into the cluster that can't be opened is told soon, and why; one that was
opened follows the pods that come and go, and ends with the command."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.errors import ExitCode, WarrenError
from deploy.paths import ROOT
from deploy.platforms.kubernetes import forward as forwards
from deploy.platforms.kubernetes.context import Context
from deploy.platforms.kubernetes.forward import Forward
from deploy.platforms.kubernetes.kubectl import Kubectl
from deploy.run import Runner

# Seconds. What is waited for takes tenths of one.
PATIENCE = 60


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """What a forward says of signals is for the process of one command."""
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def fake(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    kubectl = folder / "kubectl"
    kubectl.write_text(f"#!/bin/sh\n{script}\n")
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def to_monitor() -> Forward:
    return Forward(Kubectl(Context("dev", "https://127.0.0.1"), "warren", Runner()), "monitor", (5556,))


@pytest.mark.parametrize(
    ("said", "told", "code"),
    [
        ("error: timed out waiting for the condition", "(no pod of it is there); `invoke status`", ExitCode.MONITOR),
        ("error: unable to forward port because pod is not running", "(unable to forward port", ExitCode.MONITOR),
        ("Unable to connect to the server: EOF", "the cluster does not answer", ExitCode.PLATFORM),
    ],
)
def test_what_can_not_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, told: str, code: ExitCode
) -> None:
    fake(tmp_path, monkeypatch, f'echo "$@" > {tmp_path}/asked\necho "{said}" >&2\nexit 1')
    forward = to_monitor()
    with pytest.raises(WarrenError) as caught:
        forward.ports(ExitCode.MONITOR)
    assert told in str(caught.value)
    assert caught.value.code is code
    # kubectl itself would wait for a minute until there is one.
    assert "--pod-running-timeout=1s service/monitor :5556" in (tmp_path / "asked").read_text()


def test_one_that_ends_with_its_pod_leads_to_the_next_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port, runs = tmp_path / "port", tmp_path / "runs"
    ends = 'echo "error: lost connection to pod" >&2; exit 1'
    fake(
        tmp_path, monkeypatch,
        f'echo >> {runs}; [ -s {port} ] && echo "Forwarding from 127.0.0.1:$(cat {port}) -> 5556"; {ends}',
    )  # fmt: skip
    port.write_text("4001")
    forward = to_monitor()
    assert forward.ports(ExitCode.MONITOR) == {5556: 4001}
    forward.process.wait(PATIENCE)
    # The pod is gone, and the next one is not there yet.
    port.write_text("")
    monkeypatch.setattr(forwards, "AGAIN", 3600)
    for _ in range(2):
        with pytest.raises(WarrenError, match="lost connection to pod"):
            forward.ports(ExitCode.MONITOR)
    # The second time nothing is tried.
    assert runs.read_text() == "\n\n"
    port.write_text("4002")
    monkeypatch.setattr(forwards, "AGAIN", 0)
    assert forward.ports(ExitCode.MONITOR) == {5556: 4002}


# As `watch` does it: the first from the main thread, later ones from the thread that asks.
PROGRAM = """
import sys, threading
from deploy.errors import ExitCode
from deploy.platforms.kubernetes.context import Context
from deploy.platforms.kubernetes.forward import Forwarded
from deploy.platforms.kubernetes.kubectl import Kubectl
from deploy.run import Runner
where = Forwarded(Kubectl(Context("dev", "https://127.0.0.1"), "warren", Runner()))
where.opened("monitor", ExitCode.MONITOR)
gather = threading.Thread(target=where.opened, args=("flower", ExitCode.FAILED))
gather.start()
gather.join()
print("open", flush=True)
threading.Event().wait()
"""


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_none_outlives_a_command_whose_terminal_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    # Held open for as long as one of them runs.
    held = f"exec 3> {alive}; echo $$ >&3"
    told = 'for port; do case $port in :*) echo "Forwarding from 127.0.0.1:4000 -> ${port#:}";; esac; done'
    fake(tmp_path, monkeypatch, f"{held}; {told}; exec sleep 600")
    reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    command = subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=subprocess.PIPE)
    pids = b""
    try:
        assert command.stdout is not None
        assert command.stdout.readline() == b"open\n"
        pids = os.read(reader, 1024)
        assert len(pids.split()) == 2
        command.send_signal(number)
        assert command.wait(PATIENCE) == 128 + number
        until = time.monotonic() + PATIENCE
        while not (select.select([reader], [], [], 1)[0] and os.read(reader, 1024) == b""):
            assert time.monotonic() < until, "one of them still runs"
    finally:
        command.kill()
        command.communicate()
        os.close(reader)
        for pid in pids.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def test_a_signal_that_is_ignored_or_handled_stays_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, monkeypatch, "exit 1")
    mine: dict[signal.Signals, Any] = {signal.SIGHUP: signal.SIG_IGN, signal.SIGTERM: lambda *_: None}
    for number, handler in mine.items():
        signal.signal(number, handler)
    to_monitor()
    assert {number: signal.getsignal(number) for number in mine} == mine
