"""The whole way, as its users go it: `make up` in a fresh checkout, daily operations, accidents, `down`.

The tests of a platform share one stack and run in the order in which they stand here.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from msgspec.structs import replace

from app import eventlog
from app.factory import client
from deploy import secrets
from deploy.errors import ExitCode
from deploy.services import SERVICES, broker_url
from deploy.settings import Settings
from tests.support.checkout import Checkout
from tests.support.eventually import eventually

# The service of the pool that these stacks have, see conftest.py.
HEAVY = "worker-heavy"


def port(stack: Checkout, name: str) -> int:
    return int(stack.json("config")["settings"][f"WARREN_{name.upper()}_PORT"])


def url(stack: Checkout, role: str) -> str:
    return broker_url(role, secrets.load(stack.folder / ".warren" / "secrets"), "127.0.0.1", port(stack, "amqp"))


@pytest.fixture
def producer(stack: Checkout) -> Iterator[Celery]:
    app = client(replace(Settings(), broker_url=url(stack, "producer")))
    yield app
    app.close()


def succeeded(stack: Checkout) -> set[str]:
    """Ids of all tasks that ever succeeded, from the event log."""
    return {
        event["uuid"]
        for entry in eventlog.replay(url(stack, "monitor"), "first")
        for event in entry.events
        if event["type"] == "task-succeeded"
    }


def identities(stack: Checkout) -> list[str] | list[int]:
    return stack.containers() if stack.platform == "compose" else sorted(stack.processes())


def test_make_up_shows_a_result_and_where_everything_is(stack: Checkout) -> None:
    assert stack.first is not None
    printed = stack.first.stdout
    assert "add 2 3 = 5" in printed
    for name in ("monitor", "flower", "management"):
        assert f"http://127.0.0.1:{port(stack, name)}" in printed
    assert "invoke call add 2 3 --wait" in printed


def test_nothing_printed_is_a_secret(stack: Checkout) -> None:
    assert stack.first is not None
    printed = stack.first.stdout + stack.first.stderr + stack.invoke("config").stdout
    printed += stack.invoke("status", "--json", "--echo").stderr + stack.invoke("logs", "--tail", "1000").stdout
    for name, value in secrets.load(stack.folder / ".warren" / "secrets").items():
        assert value not in printed, name


def test_a_second_make_up_changes_nothing(stack: Checkout) -> None:
    before = identities(stack)
    assert "add 2 3 = 5" in stack.run("make", "up").stdout
    assert identities(stack) == before


def test_status_shows_every_service_ready(stack: Checkout) -> None:
    answer = stack.json("status")
    assert answer["platform"] == stack.platform
    assert {one["service"] for one in answer["instances"] if one["ready"]} == {*SERVICES, HEAVY}
    assert {"default", "video", "reports", "dead_letters", "celery.events"} <= {
        queue["queue"] for queue in answer["queues"]
    }


def test_call_waits_for_the_result(stack: Checkout) -> None:
    assert stack.invoke("call", "add", "2", "3", "--wait").stdout == "5\n"


def test_a_failing_task_is_exit_code_1_with_its_traceback(stack: Checkout) -> None:
    done = stack.invoke("call", "fail", '"on purpose"', "--wait", check=False)
    assert done.returncode == ExitCode.FAILED
    assert "Traceback" in done.stderr
    assert "error: app.tasks.fail ended as FAILURE: RuntimeError('on purpose')" in done.stderr


def test_result_is_known_to_another_process(stack: Checkout) -> None:
    task = stack.invoke("call", "add", "4", "5").stdout.strip()
    answer = eventually(lambda: (one := stack.json("result", task))["state"] == "SUCCESS" and one, 60)
    assert answer["result"] == "9"


def failed_task(stack: Checkout) -> dict[str, Any]:
    """A task that failed, as the monitor knows it."""
    task = stack.invoke("call", "fail", '"on purpose"').stdout.strip()
    return dict(eventually(lambda: (one := stack.json("task", task))["state"] == "FAILURE" and one, 30))


def test_a_failed_task_is_known_with_its_traceback_and_its_worker(stack: Checkout) -> None:
    task = failed_task(stack)
    assert task["name"] == "app.tasks.fail"
    assert "RuntimeError: on purpose" in task["traceback"]
    assert task["worker"] in {one["node"] for one in stack.workers()}
    # Its sender may tell of it after the worker did.
    assert {step["state"] for step in task["steps"]} == {"PENDING", "RECEIVED", "STARTED", "FAILURE"}
    assert task["steps"][-1]["state"] == "FAILURE"
    # By the monitor, not for want of it from the event log.
    shown = told_by_the_monitor(stack, task["id"])
    for text in ("app.tasks.fail  FAILURE", task["worker"], "Traceback (most recent call last):", "'on purpose'"):
        assert text in shown.stdout


def told_by_the_monitor(stack: Checkout, task: str) -> subprocess.CompletedProcess[str]:
    """What `invoke task` prints when the monitor answers in time, which it may not on a busy host."""
    return eventually(lambda: (one := stack.invoke("task", task)).stderr == "" and one, 60, "the monitor tells of it")


def test_history_finds_it_and_events_tell_it(stack: Checkout) -> None:
    task = failed_task(stack)
    listed = stack.json("history", "--failed", "--since", "5m", "--name", "app.*", "--text", "on purpose")["tasks"]
    assert listed[0]["id"] == task["id"]
    assert {one["state"] for one in listed} == {"FAILURE"}
    line = next(line for line in stack.invoke("history").stdout.splitlines() if task["id"] in line)
    assert "FAILURE  app.tasks.fail" in line
    told = stack.invoke("events", "--since", "5m", "--id", task["id"]).stdout.splitlines()
    assert sorted(line.split("[")[0] for line in told) == [
        f"Status: {state}" for state in ("FAILURE", "PENDING", "RECEIVED", "STARTED")
    ]
    (only,) = stack.invoke("events", "--type", "failed", "--id", task["id"], "--json").stdout.splitlines()
    assert json.loads(only)["exception"] == "RuntimeError('on purpose')"


def test_events_are_followed_until_ctrl_c(stack: Checkout) -> None:
    following = stack.start("events", "--follow", "--tail", "0", "--type", "succeeded")
    try:
        # Each is sent until one is told: when it has begun to follow is not to be seen from here.
        sent: list[str] = []

        def told() -> str:
            sent.append(stack.invoke("call", "add", "2", "3", "--wait", "--json").stdout)
            assert following.stdout
            ready, _, _ = select.select([following.stdout], [], [], 1)
            return following.stdout.readline() if ready else ""

        assert "SUCCESS[app.tasks.add]" in eventually(told, 60)
    finally:
        os.killpg(following.pid, signal.SIGINT)
        following.communicate(timeout=30)
    assert following.returncode == 0


def test_watch_shows_workers_queues_and_failures(stack: Checkout) -> None:
    task = failed_task(stack)
    right = {"behind": None, "error": None}
    found = eventually(lambda: (one := stack.json("watch"))["monitor"] == right and one, 60, "the monitor answers")
    known = {one["node"] for one in (*stack.workers(), *stack.workers(HEAVY))}
    assert {one["name"] for one in found["workers"] if one["alive"]} == known
    assert "default" in {queue["queue"] for queue in found["queues"]}
    assert found["failures"][0]["id"] == task["id"]
    frame = eventually(
        lambda: "monitor up to date" in (one := stack.invoke("watch", "--once").stdout) and one, 60, "it answers"
    )
    assert task["id"] in frame


def test_the_monitors_page_and_api_want_a_login(stack: Checkout) -> None:
    where = ("127.0.0.1", port(stack, "monitor"))
    assert f"http://127.0.0.1:{where[1]}" in stack.invoke("open", "monitor", "--dry").stdout
    found = {}
    for path in ("/healthz", "/readyz", "/tasks", "/metrics"):
        connection = http.client.HTTPConnection(*where, timeout=10)
        connection.request("GET", path)
        found[path] = connection.getresponse().status
        connection.close()
    assert found == {"/healthz": 200, "/readyz": 200, "/tasks": 401, "/metrics": 401}


def test_a_wrong_key_of_the_monitor_is_said_and_what_to_do(stack: Checkout) -> None:
    file = stack.folder / ".warren" / "secrets" / "monitor-token"
    right = file.read_text()
    try:
        file.write_text("wrong\n")
        done = stack.invoke("history", check=False)
    finally:
        file.write_text(right)
    assert done.returncode == ExitCode.MONITOR
    assert "refuses the key in .warren/secrets/monitor-token" in done.stderr


def test_an_unknown_task_names_near_ones(stack: Checkout) -> None:
    done = stack.invoke("call", "ad", "2", "3", check=False)
    assert done.returncode == ExitCode.UNKNOWN
    assert "app.tasks.add" in done.stderr


def test_the_monitor_told_of_it(stack: Checkout) -> None:
    def told() -> bool:
        return re.search(r"Status: SUCCESS\[app\.tasks\.add\] ID ", stack.invoke("logs", "monitor").stdout) is not None

    eventually(told, 60, "the monitor's line")


def test_revoke_ends_a_running_task(stack: Checkout) -> None:
    task = stack.invoke("call", "sleep", "600").stdout.strip()
    eventually(lambda: stack.json("result", task)["state"] == "STARTED", 60)
    done = stack.invoke("revoke", task, "--terminate")
    assert re.fullmatch(rf"{task}: ran on \S+, ended with SIGTERM\n", done.stdout)
    eventually(lambda: stack.json("result", task)["state"] == "REVOKED", 60)


def test_a_revoke_holds_with_no_worker_up(stack: Checkout, producer: Celery) -> None:
    stack.invoke("scale-workers", "0")
    runs, revoked, by_name = (
        producer.send_task(name, args=args).id
        for name, args in (("app.tasks.add", [2, 3]), ("app.tasks.add", [4, 5]), ("app.tasks.fail", ["never"]))
    )
    said = stack.invoke("revoke", revoked).stdout
    assert said.startswith(f"{revoked}: waiting in queue default")
    assert said.endswith(": it will be discarded\n")
    eventually(lambda: stack.json("history", "--name", "app.tasks.fail", "--state", "PENDING")["tasks"], 60)
    asked = stack.invoke("revoke", "--name", "app.tasks.fail", check=False)
    assert asked.returncode == ExitCode.REFUSED
    assert by_name in asked.stdout
    assert "say --yes to do it" in asked.stderr
    assert [one["id"] for one in stack.json("revoke", "--name", "app.tasks.fail", "--yes")["tasks"]] == [by_name]
    assert [one["id"] for one in stack.json("revoked", "--limit", "2")["revoked"]] == [by_name, revoked]
    stack.invoke("scale-workers", "1")
    for task, state in ((runs, "SUCCESS"), (revoked, "REVOKED"), (by_name, "REVOKED")):
        eventually(lambda task=task, state=state: stack.json("result", task)["state"] == state, 60)  # type: ignore[misc]
    assert f"{revoked}: had ended before: revoked" in stack.invoke("revoke", revoked).stdout


def test_four_workers(stack: Checkout) -> None:
    stack.invoke("scale-workers", "4")
    assert [one["ready"] for one in stack.workers()] == [True] * 4
    # Workers have a second to answer, which a busy host may not give them.
    eventually(lambda: len(stack.json("ping")["pong"]) == 4 + len(stack.workers(HEAVY)), 60, "all of them answer")


def test_scaling_down_keeps_the_busy_one(stack: Checkout) -> None:
    task = stack.invoke("call", "sleep", "250").stdout.strip()
    worker = eventually(lambda: (one := stack.json("result", task))["state"] == "STARTED" and one, 60)["worker"]
    stack.invoke("scale-workers", "1")
    (left,) = stack.workers()
    assert left["node"] == worker
    ends_undisturbed(stack, task)


def ends_undisturbed(stack: Checkout, task: str) -> None:
    """Ends ``task``, which still runs."""
    assert stack.json("result", task)["state"] == "STARTED"
    stack.invoke("revoke", task, "--terminate")
    eventually(lambda: stack.json("result", task)["state"] == "REVOKED", 60)
    kinds = [event["type"] for event in eventlog.find(url(stack, "ops"), task)]
    assert kinds.count("task-started") == 1, kinds


def test_a_pool_is_scaled_by_itself_and_keeps_its_busy_worker(stack: Checkout) -> None:
    before = [one["node"] for one in stack.workers()]
    stack.invoke("scale-workers", "2", "--pool", "heavy")
    nodes = {one["node"] for one in stack.workers(HEAVY) if one["ready"]}
    assert len(nodes) == 2
    pools = {row["name"]: (row["pool"], row["queues"]) for row in stack.json("workers")}
    assert pools == {
        **dict.fromkeys(before, ("default", ["default"])),
        **dict.fromkeys(nodes, ("heavy", ["reports", "video"])),
    }
    task = stack.invoke("call", "sleep", "250", "--queue", "video").stdout.strip()
    answer = eventually(lambda: (one := stack.json("task", task)["answer"])["kind"] == "running" and one, 60)
    assert answer["worker"] in nodes
    assert "of at most 3600 s" in answer["line"]
    stack.invoke("scale-workers", "1", "--pool", "heavy")
    assert [one["node"] for one in stack.workers(HEAVY)] == [answer["worker"]]
    assert [one["node"] for one in stack.workers()] == before
    ends_undisturbed(stack, task)
    assert stack.invoke("exec", HEAVY, "--", "printenv", "WARREN_POOL").stdout.strip() == "heavy"
    assert f"app.tasks.sleep[{task}]" in stack.invoke("logs", HEAVY).stdout


def test_a_paused_pool_waits_and_the_others_work_on(stack: Checkout) -> None:
    stack.invoke("pause", "--pool", "heavy")
    try:
        # Those that start now keep to it.
        stack.invoke("restart", HEAVY)
        task = stack.invoke("call", "add", "4", "5", "--queue", "reports").stdout.strip()
        assert stack.invoke("call", "add", "2", "3", "--wait").stdout == "5\n"
        answer = eventually(lambda: (one := stack.json("task", task)["answer"])["kind"] == "waiting" and one, 60)
        assert "reports was paused at" in answer["line"]
    finally:
        stack.invoke("resume", "--pool", "heavy")
    eventually(lambda: stack.json("result", task)["state"] == "SUCCESS", 60)


def test_kill_9_of_every_worker_loses_nothing(stack: Checkout, producer: Celery) -> None:
    stack.invoke("scale-workers", "2")
    known = succeeded(stack)
    sent = [producer.send_task("app.tasks.sleep", args=[0.1]) for _ in range(400)]
    for share in (60, 150, 240):
        eventually(lambda: len(succeeded(stack) - known) >= share, 120, f"{share} tasks done")  # noqa: B023
        victims = stack.worker_pids()
        assert victims
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
    # By their results, which are on the broker's disk before a task is acknowledged. A killed worker may not have sent its
    # last events yet, so some tasks that have ended say so to nobody else.
    assert [one.get(timeout=240) for one in sent] == [0.1] * 400
    eventually(lambda: all(one["ready"] for one in stack.workers()), 120, "workers are back")


@pytest.mark.parametrize("platform", ["compose"], indirect=True)
def test_a_container_that_has_no_handlers_yet_can_be_stopped(stack: Checkout) -> None:
    """As Celery in its first half second: the kernel drops signals that the first process does not handle."""
    described = subprocess.run(
        ["docker", "inspect", "--format", "{{.Config.Image}}", *stack.containers()],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    image = next(one for one in described if one.startswith("warren-app:"))
    name = f"{stack.project}-starting"
    program = "import time; print('runs', flush=True); time.sleep(600)"
    started = subprocess.Popen(
        ["docker", "run", "--rm", "--name", name, image, "python3", "-c", program], stdout=subprocess.PIPE, text=True
    )
    try:
        assert started.stdout
        assert started.stdout.readline() == "runs\n"
        subprocess.run(["docker", "kill", "--signal", "TERM", name], check=True, capture_output=True)
        assert started.wait(60) == 128 + signal.SIGTERM
    finally:
        subprocess.run(["docker", "rm", "--force", name], check=False, capture_output=True)


def test_an_edit_of_the_tasks_takes_effect(stack: Checkout) -> None:
    name = f"made_{uuid.uuid4().hex[:6]}"
    with (stack.folder / "app" / "tasks.py").open("a") as file:
        file.write(f"\n\n@shared_task\ndef {name}() -> str:\n    return 'made today'\n")
    stack.invoke("restart", "worker")
    assert stack.invoke("call", name, "--wait").stdout == '"made today"\n'


def test_a_changed_setting_of_the_broker_interrupts_no_task(stack: Checkout) -> None:
    seen = ""
    # `up` waits for it; on a busy host the shorter one may be over before it is seen to run.
    for seconds in (6, 60):
        if seen != "STARTED":
            task = stack.invoke("call", "sleep", str(seconds)).stdout.strip()
            seen = eventually(lambda: began(stack, task), 120)  # noqa: B023
    assert seen == "STARTED"
    stack.set(WARREN_DELIVERY_LIMIT="19")
    stack.invoke("up")
    eventually(lambda: stack.json("result", task)["state"] == "SUCCESS", 120)
    kinds = [event["type"] for event in eventlog.find(url(stack, "ops"), task)]
    assert kinds.count("task-started") == 1, kinds


def began(stack: Checkout, task: str) -> str:
    """The state of a task that runs, or has ended."""
    state = str(stack.json("result", task)["state"])
    return "" if state in {"PENDING", "RECEIVED"} else state


def test_a_wrong_password_is_said_and_what_to_do(stack: Checkout) -> None:
    file = stack.folder / ".warren" / "secrets" / "producer"
    right = file.read_text()
    try:
        file.write_text("wrong\n")
        done = stack.invoke("call", "add", "2", "3", check=False)
    finally:
        file.write_text(right)
    assert done.returncode == ExitCode.BROKER
    assert "refuses the password of user producer in .warren/secrets/producer" in done.stderr


def broker_tool(stack: Checkout, *command: str) -> None:
    """Runs one of RabbitMQ's own tools where the broker runs."""
    code = (
        "import sys; from deploy.run import Runner; from deploy.session import Session; "
        "sys.exit(Session(Runner()).platform.exec('rabbitmq', sys.argv[1:]))"
    )
    stack.run(".venv/bin/python", "-c", code, *command)


def test_a_full_disk_is_said_at_once_and_nothing_is_sent(stack: Checkout) -> None:
    try:
        broker_tool(stack, "rabbitmqctl", "set_disk_free_limit", "1000000GB")
        eventually(lambda: "alarm" in stack.invoke("call", "add", "2", "3", check=False).stderr, 60, "the alarm")
        sent = stack.invoke("call", "add", "2", "3", "--wait", check=False)
        revoked = stack.invoke("revoke", str(uuid.uuid4()), check=False)
    finally:
        broker_tool(stack, "rabbitmqctl", "set_disk_free_limit", "100MB")
    for done in (sent, revoked):
        assert done.returncode == ExitCode.BROKER
        assert "error: the broker takes no messages: its disk space alarm is on." in done.stderr
    eventually(lambda: stack.invoke("call", "add", "2", "3", "--wait", check=False).stdout == "5\n", 60)


def test_an_engine_that_does_not_answer(stack: Checkout) -> None:
    nobody = {"DOCKER_HOST": f"unix://{stack.folder}/nobody.sock"}
    done = stack.invoke("up", "--platform", "compose", check=False, **nobody)
    assert done.returncode == ExitCode.PLATFORM
    assert "the Docker engine does not answer" in done.stderr
    assert "--platform local" in done.stderr


def test_down_volumes_asks_first(stack: Checkout) -> None:
    done = stack.invoke("down", "--volumes", check=False)
    assert done.returncode == ExitCode.REFUSED
    assert "--yes" in done.stderr
    assert stack.json("status")["up"]


def test_down_leaves_no_process_and_up_finds_the_history(stack: Checkout) -> None:
    task = stack.invoke("call", "add", "1", "1").stdout.strip()
    eventually(lambda: stack.json("result", task)["state"] == "SUCCESS", 60)
    failed = failed_task(stack)
    stack.invoke("down")
    assert identities(stack) == []
    assert not stack.json("status")["up"]
    stack.invoke("up")
    assert stack.json("result", task)["result"] == "2"
    shown = told_by_the_monitor(stack, failed["id"])
    assert "RuntimeError: on purpose" in shown.stdout
    assert failed["worker"] in shown.stdout
    assert stack.json("task", failed["id"]) == failed


def test_a_call_to_a_stack_that_is_down(stack: Checkout) -> None:
    stack.invoke("down")
    done = stack.invoke("call", "add", "2", "3", check=False)
    assert done.returncode == ExitCode.BROKER
    assert "`invoke up`" in done.stderr


def test_a_taken_port_names_its_variable(stack: Checkout) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port(stack, "flower")))
        other.listen(1)
        done = stack.invoke("up", check=False)
    assert done.returncode == ExitCode.PORT
    assert "WARREN_FLOWER_PORT=" in done.stderr
    assert identities(stack) == []


def test_ctrl_c_in_up_leaves_nothing_running(stack: Checkout) -> None:
    up = stack.start("up")
    eventually(
        lambda: len(identities(stack)) >= (1 if stack.platform == "compose" else 3), 60, "it has started something"
    )
    os.killpg(up.pid, signal.SIGINT)
    printed, _ = up.communicate(timeout=120)
    assert up.returncode == ExitCode.INTERRUPTED, printed
    assert "nothing is left running" in printed
    eventually(lambda: identities(stack) == [], 60, lambda: f"nothing is left: {identities(stack)}")


def test_down_volumes_deletes_the_data_and_keeps_the_secrets(stack: Checkout) -> None:
    before = dict(secrets.load(stack.folder / ".warren" / "secrets"))
    stack.invoke("up")
    task = stack.invoke("call", "add", "1", "1").stdout.strip()
    eventually(lambda: stack.json("result", task)["state"] == "SUCCESS", 60)
    stack.invoke("down", "--volumes", "--yes")
    stack.invoke("up")
    assert stack.invoke("result", task, check=False).returncode == ExitCode.UNKNOWN
    assert dict(secrets.load(stack.folder / ".warren" / "secrets")) == before


def test_time_is_up(stack: Checkout) -> None:
    """A service that does not get ready is named, with what it wrote last."""
    stack.invoke("down")
    stack.set(WARREN_UP_TIMEOUT="1")
    done = stack.invoke("up", check=False)
    assert done.returncode == ExitCode.TIMEOUT, done.stderr
    assert "rabbitmq" in done.stderr
