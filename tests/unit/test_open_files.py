"""How many files the broker may open, and so how many connections it takes, whatever the container runtime gives it."""

from __future__ import annotations

import os
import resource
import subprocess
from pathlib import Path

import pytest

from deploy.paths import ROOT
from deploy.platforms.local.launch import OPEN_FILES

RUN = ROOT / "k8s" / "base" / "rabbitmq" / "run"
START = ROOT / "deploy" / "rabbitmq" / "start"

# What this host allows at most; who has no limit may have any number.
_, HARD = resource.getrlimit(resource.RLIMIT_NOFILE)
MOST = OPEN_FILES if HARD == resource.RLIM_INFINITY else min(HARD, OPEN_FILES)

# The hard limit below which tests put themselves; it can't be raised.
LESS = 4096

pytestmark = pytest.mark.skipif(
    MOST < LESS, reason=f"this host allows {MOST} open files, and tests need {LESS}; see ulimit -Hn"
)


def limit(script: Path, folder: Path, given: str, **more: str) -> int:
    """The limit with which ``script`` starts RabbitMQ, by what stands in the place of the image's own entry point."""
    commands = folder / "bin"
    commands.mkdir()
    for name, does in {"docker-entrypoint.sh": "ulimit -Sn", "install": "exit 0"}.items():
        (commands / name).write_text(f"#!/bin/bash\n{does}\n")
        (commands / name).chmod(0o755)
    copy = folder / "script"
    copy.write_text(script.read_text().replace("/etc/rabbitmq/conf.d", str(folder)))
    done = subprocess.run(
        ["bash", "-c", f'{given} && exec bash "$0" rabbitmq-server', str(copy)],
        env={"PATH": f"{commands}:{os.environ['PATH']}", **more},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


@pytest.mark.parametrize("script", [RUN, START], ids=["kubernetes", "compose"])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # Docker's and containerd's, where systemd decides.
        ("ulimit -Sn 1024", MOST),
        # What can't be had is no reason not to start.
        (f"ulimit -n {LESS} && ulimit -Sn 1024", LESS),
        # More than Erlang has, where that is so here.
        ("ulimit -Sn hard", MOST),
    ],
)
def test_the_broker_gets_the_files_that_it_wants_or_all_that_there_are(
    tmp_path: Path, script: Path, given: str, expected: int
) -> None:
    assert limit(script, tmp_path, given) == expected


@pytest.mark.parametrize("script", [RUN, START], ids=["kubernetes", "compose"])
def test_who_lets_erlang_have_more_gets_more(tmp_path: Path, script: Path) -> None:
    assert limit(script, tmp_path, f"ulimit -n {LESS} && ulimit -Sn 1024", ERL_MAX_PORTS="2048") == 2048
