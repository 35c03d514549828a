"""Waiting for a rollout while the API server is away now and then: the rollout goes on, and so does the wait."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from deploy.errors import ExitCode, WarrenError
from deploy.platforms.kubernetes import progress
from tests.unit.test_kubernetes import READ, STACK, at_once, items, made, workload

__all__ = ["at_once"]  # for every test here, too

ASKED = f"{READ} get deployments,statefulsets"
BEGUN = items(workload("worker", 0))


def failed(said: str) -> WarrenError:
    return WarrenError(f"`kubectl get` ended with exit code 1: {said}", ExitCode.FAILED)


AWAY = failed("Unable to connect to the server: net/http: TLS handshake timeout")
NEW_LEADER = failed("Error from server: etcdserver: leader changed")


def test_looks_that_fail_end_no_wait(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    platform, _ = made({ASKED: [BEGUN, AWAY, NEW_LEADER, AWAY, BEGUN, AWAY, items(*STACK)]})
    platform.up(None)
    told = [line for line in capsys.readouterr().err.splitlines() if "does not answer" in line]
    # Each time once.
    assert len(told) == 2
    assert told[0].startswith("dev/warren: the cluster does not answer;")
    assert told[0].endswith("; what was begun goes on, and is looked at again, for 60 s at most")


def test_nor_does_asking_for_reasons(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def found(*_: object) -> None:
        asked.append(None)
        raise WarrenError("the cluster does not answer", ExitCode.PLATFORM)

    monkeypatch.setattr(progress, "SILENCE", -1)
    monkeypatch.setattr(progress.trouble, "found", found)
    platform, _ = made({ASKED: [BEGUN, items(*STACK)]})
    progress.until_ready(platform.kubectl, 60)
    assert asked == [None]


def test_a_cluster_that_stays_away_ends_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = itertools.count(step=25)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    platform, runner = made({ASKED: [BEGUN, AWAY]})
    with pytest.raises(WarrenError, match="dev/warren: the cluster does not answer") as caught:
        progress.until_ready(platform.kubectl, 600)
    assert caught.value.code is ExitCode.PLATFORM
    # Once it answers, then for 25 s, 50 s and 75 s it does not.
    assert sum(line.startswith(ASKED) for line in runner.read_) == 4


def test_who_may_not_look_is_told_at_once(home: Path) -> None:
    said = 'deployments.apps is forbidden: User "jo" cannot list resource "deployments"'
    platform, runner = made({ASKED: [BEGUN, failed(f"Error from server (Forbidden): {said}")]})
    with pytest.raises(WarrenError, match="the cluster forbids it"):
        progress.until_ready(platform.kubectl, 600)
    assert sum(line.startswith(ASKED) for line in runner.read_) == 2
