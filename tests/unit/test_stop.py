"""What a broker node waits for before it stops (k8s/base/rabbitmq/stop), without a broker."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.paths import ROOT
from tests.support.eventually import eventually

STOP = ROOT / "k8s" / "base" / "rabbitmq" / "stop"
# The command answers what the file beside it says; without one it fails.
COMMAND = """#!/bin/sh
echo "$(basename "$0")" "$@" >>{folder}/asked
cat {folder}/answers/"$(basename "$0")"
"""


class Stopping:
    """The script, on a node of a cluster of three whose commands answer as a test says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / "answers").mkdir()
        for name in ("rabbitmqctl", "rabbitmq-upgrade"):
            (folder / "bin" / name).write_text(COMMAND.format(folder=folder))
            (folder / "bin" / name).chmod(0o755)
        self.process: subprocess.Popen[bytes] | None = None

    def says(self, command: str, answer: str) -> None:
        """From now on; whole at once, since it may be asked right now."""
        (self.folder / "new").write_text(answer)
        (self.folder / "new").rename(self.folder / "answers" / command)

    def start(self, nodes: int = 3) -> None:
        script = self.folder / "stop"
        script.write_text(STOP.read_text().replace("/tmp/", f"{self.folder}/"))
        environment = {"PATH": f"{self.folder}/bin:{os.environ['PATH']}", "WARREN_RABBITMQ_NODES": str(nodes)}
        self.process = subprocess.Popen(["bash", str(script)], env=environment, start_new_session=True)

    def asked(self, what: str) -> int:
        """How often a command was asked for that."""
        file = self.folder / "asked"
        return file.read_text().count(what) if file.exists() else 0

    @property
    def ended(self) -> bool:
        return self.process is not None and self.process.poll() == 0

    def close(self) -> None:
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, 9)
        if self.process:
            self.process.wait()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Stopping]:
    made = Stopping(tmp_path)
    yield made
    made.close()


def waits(node: Stopping) -> None:
    """It has asked twice whether it may go, and is still there."""
    eventually(lambda: node.asked("await_online_quorum_plus_one") >= 2, 30, "it asks again and again")
    assert not node.ended


def test_a_node_that_is_alone_stops_at_once(node: Stopping) -> None:
    node.start(nodes=1)
    eventually(lambda: node.ended, 30, "it has stopped")
    assert not (node.folder / "asked").exists()


def test_it_waits_for_the_others_and_hands_its_work_over(node: Stopping) -> None:
    node.says("rabbitmqctl", "false\n")
    node.start()
    waits(node)
    assert (node.folder / "stopping").exists()
    node.says("rabbitmq-upgrade", "")
    eventually(lambda: node.ended, 30, "it has stopped")
    assert node.asked("drain") == 1


def test_where_all_that_serve_are_stopped_none_waits(node: Stopping) -> None:
    node.says("rabbitmqctl", "false\n")
    node.start()
    waits(node)
    node.says("rabbitmqctl", "true\n")
    eventually(lambda: node.ended, 30, "it has stopped")
    assert node.asked("drain") == 0


@pytest.mark.parametrize("answer", [None, "", "Error: unable to perform an operation on node\n"])
def test_what_can_not_be_asked_is_no_reason_to_go(node: Stopping, answer: str | None) -> None:
    if answer is not None:
        node.says("rabbitmqctl", answer)
    node.start()
    waits(node)


def test_a_person_ends_the_wait(node: Stopping) -> None:
    node.says("rabbitmqctl", "false\n")
    node.start()
    waits(node)
    (node.folder / "stop-now").touch()
    eventually(lambda: node.ended, 30, "it has stopped")
    assert node.asked("drain") == 0
