"""deploy/platforms/kubernetes/logs.py: where there is nothing to show, that is an error and not a line among none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.errors import ExitCode, WarrenError
from tests.unit.test_kubernetes import KUBECTL, READ, items, made, pod, workload

MAY = f"{KUBECTL} auth can-i get pods --subresource log"
PULLS = [{"name": "worker", "restartCount": 0, "state": {"waiting": {"reason": "ImagePullBackOff"}}}]
CRASHED = [{**PULLS[0], "restartCount": 1}]
STUCK = pod("worker-a", ready=False, containerStatuses=PULLS)


@pytest.mark.parametrize(
    ("answers", "services", "told", "code"),
    [
        (
            {MAY: "no\n"},
            ["worker"],
            "the cluster forbids it: this user may not get the logs of pods",
            ExitCode.PLATFORM,
        ),
        ({f"{READ} get pods": items(STUCK)}, ["worker"], "nothing has been logged yet", ExitCode.FAILED),
        ({}, ["monitor"], "nothing has been logged yet", ExitCode.FAILED),
        (
            {f"{READ} get deployment worker-heavy": ""},
            ["worker-heavy"],
            "the pool heavy is not up yet; `invoke up`",
            ExitCode.FAILED,
        ),
        # It has no workers now.
        (
            {f"{READ} get deployment worker-heavy": json.dumps(workload("worker-heavy", 0, 0))},
            ["worker-heavy"],
            "nothing has been logged yet",
            ExitCode.FAILED,
        ),
    ],
)
def test_what_keeps_from_any_logs_is_an_error(
    home: Path, answers: dict[str, Any], services: list[str], told: str, code: ExitCode
) -> None:
    platform, runner = made(answers)
    with pytest.raises(WarrenError) as caught:
        platform.logs(services, follow=False, tail=7)
    assert told in str(caught.value)
    assert caught.value.code is code
    assert runner.attached == []


@pytest.mark.parametrize("may", ["yes\n", ""])
def test_one_that_has_written_something_will_do(home: Path, may: str) -> None:
    crashed = pod("worker-b", ready=False, containerStatuses=CRASHED)
    platform, runner = made({MAY: may, f"{READ} get pods": items(STUCK, crashed)})
    platform.logs(["worker", "worker-heavy"], follow=False, tail=7)
    assert len(runner.attached) == 1
