"""What runs beside a broker node of production (k8s/overlays/production/join), without a broker."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.paths import ROOT
from tests.support.eventually import eventually
from tests.support.ports import free_port

JOIN = ROOT / "k8s" / "overlays" / "production" / "join"

# As `start` does; the second one is what would be the node.
START = 'bash "$1" & exec -a node bash -c \'"$0" 600 & wait\' "$2"'


class Node:
    """A process in the place of the node, and the script beside it, which takes ``port`` for that of its distribution."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        program = folder / "beam.smp"
        shutil.copy(shutil.which("sleep") or "", program)
        commands = folder / "bin"
        commands.mkdir()
        for name in ("rabbitmqctl", "rabbitmq-queues", "rabbitmq-streams"):
            # All that the script asks is well.
            (commands / name).write_text("#!/bin/sh\nexit 0\n")
            (commands / name).chmod(0o755)
        text = JOIN.read_text().replace("/tmp/", f"{folder}/").replace("25672", str(port))
        assert "while sleep 10;" in text
        script = folder / "join"
        script.write_text(text.replace("while sleep 10;", f"while echo >>{folder}/looked; sleep 0.1;"))
        environment = {
            "PATH": f"{commands}:{os.environ['PATH']}",
            "RABBITMQ_NODENAME": "rabbit@node-0.nodes.invalid",
            "WARREN_RABBITMQ_NODES": "0",
        }
        self.process = subprocess.Popen(
            ["bash", "-c", START, "start", str(script), str(program)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True,
        )  # fmt: skip

    @property
    def joined(self) -> bool:
        return (self.folder / "serves").exists()

    def close(self) -> None:
        os.killpg(self.process.pid, 9)
        self.process.wait()


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def node(tmp_path: Path, port: int) -> Iterator[Node]:
    made = Node(tmp_path, port)
    yield made
    made.close()


def test_a_node_that_hangs_when_it_has_stopped_is_killed(node: Node, tmp_path: Path, port: int) -> None:
    with socket.create_server(("127.0.0.1", port)) as distribution:
        eventually(lambda: node.joined, 30, "it has joined")
        (tmp_path / "stopping").touch()
        assert distribution.accept()
        # While it is in its cluster, it has something to do.
        assert node.process.poll() is None
    eventually(lambda: node.process.poll() is not None, 30, "it is ended")


def test_a_node_that_nobody_stops_is_left_alone(node: Node, tmp_path: Path) -> None:
    """Though nothing answers: it may be on its way."""
    looked = tmp_path / "looked"
    eventually(lambda: looked.exists() and len(looked.read_text()) > 10, 30, "it has been looked at often")
    assert node.process.poll() is None
