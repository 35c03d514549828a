"""deploy/commands/stack.py: the commands about the stack as a whole, on a platform that only remembers."""

from __future__ import annotations

import io
import json
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from app.pools import Pool
from deploy import management, monitor_api, platforms
from deploy.commands import control, send, stack
from deploy.errors import ExitCode, WarrenError
from deploy.platforms.base import Endpoints, Instance
from deploy.secrets import Secrets, load
from deploy.session import Session
from deploy.settings import Settings
from tests.unit.conftest import FakeRunner, Menu


def one(service: str, number: int = 1, state: str = "running", *, ready: bool = True) -> Instance:
    node = f"celery@{number}" if service == "worker" else ""
    return Instance(service, f"warren-{service}-{number}", state, ready, "5 minutes", node)


STACK = [one("rabbitmq"), one("worker"), one("monitor"), one("flower")]


class Platform:
    """Remembers what it was told."""

    name = "compose"
    secrets = property(lambda _: load())

    def __init__(self, instances: Sequence[Instance] = ()) -> None:
        self.instances = list(instances)
        self.calls: list[tuple[Any, ...]] = []
        self.code = 0
        self.scalers: dict[str, Any] = {}
        self.wrong: list[str] = []

    def troubles(self) -> list[str]:
        return self.wrong

    def autoscalers(self) -> dict[str, Any]:
        return self.scalers

    def status(self) -> list[Instance]:
        return self.instances

    def overview(self) -> tuple[list[Instance], dict[str, Any]]:
        return self.instances, self.scalers

    def endpoints(self) -> Endpoints:
        return Endpoints(host="127.0.0.1", amqp=1, management=2, prometheus=3, flower=4, monitor=5)

    def logs(self, *values: Any) -> int:
        self.calls.append(("logs", *values))
        return self.code

    def __getattr__(self, name: str) -> Any:
        return lambda *values: self.calls.append((name, *values))


def session_on(platform: Platform, secrets: Secrets, *, dry: bool = False, **settings: Any) -> Session:
    session = Session(FakeRunner(dry=dry))  # type: ignore[arg-type]
    session.__dict__.update(platform=platform, secrets=secrets, settings=Settings(**settings))
    return session


# --- up


def test_up_says_where_everything_is_and_shows_no_secret(
    home: Path, secrets: Secrets, capsys: pytest.CaptureFixture[str]
) -> None:
    platform = Platform()
    stack.up(session_on(platform, secrets), 3)
    said = capsys.readouterr().out
    assert platform.calls == [("up", 3)]
    assert "http://127.0.0.1:5  (user operator, password in .warren/secrets/monitor-operator)" in said
    assert "http://127.0.0.1:4  (user operator, password in .warren/secrets/flower-login)" in said
    assert "http://127.0.0.1:2  (user admin, password in .warren/secrets/admin)" in said
    assert not any(secret in said for secret in secrets.values())
    assert (home / ".warren" / "platform").read_text() == "compose\n"


def test_a_dry_up_remembers_and_says_nothing(home: Path, secrets: Secrets, capsys: pytest.CaptureFixture[str]) -> None:
    stack.up(session_on(Platform(), secrets, dry=True), None, try_it=True)
    assert capsys.readouterr().out == ""
    assert not (home / ".warren").exists()


class Ending(Platform):
    """Its `up` ends by ``by``; ``after`` is what `overview` finds then, or what that ends by."""

    def __init__(self, by: BaseException, after: Sequence[Instance] | WarrenError = ()) -> None:
        super().__init__()
        self.by, self.after = by, after

    def up(self, workers: int | None) -> None:
        raise self.by

    def overview(self) -> tuple[list[Instance], dict[str, Any]]:
        if isinstance(self.after, WarrenError):
            raise self.after
        return list(self.after), {}


SILENT = WarrenError("the cluster does not answer", ExitCode.PLATFORM)


@pytest.mark.parametrize(
    ("after", "before", "kept", "said"),
    [
        ((), None, None, "nothing is left running"),
        # A broker that its operator keeps, without a node.
        ([one("rabbitmq", state="stopped", ready=False)], None, None, "nothing is left running"),
        # Ctrl-C again, while it stops; or another `up` is at it, which this one waited for.
        (STACK, None, "compose", "`invoke down` stops it"),
        (STACK, "compose", "compose", "`invoke down` stops it"),
        ((), "compose", "compose", "nothing is left running"),
        ((), "kubernetes", "kubernetes", "nothing is left running"),
        (SILENT, None, "compose", "`invoke down` stops it"),
    ],
)
def test_ctrl_c_forgets_the_platform_only_where_nothing_runs(
    home: Path,
    secrets: Secrets,
    capsys: pytest.CaptureFixture[str],
    after: Any,
    before: str | None,
    kept: str | None,
    said: str,
) -> None:
    if before:
        platforms.remember(before)
    with pytest.raises(KeyboardInterrupt):
        stack.up(session_on(Ending(KeyboardInterrupt(), after), secrets), None)
    assert platforms.remembered() == kept
    printed = capsys.readouterr().err
    assert said in printed and printed.count("\n") == 1


@pytest.mark.parametrize(
    ("after", "before", "kept"),
    [
        ((), None, None),
        # A stack of another platform runs.
        ((), "kubernetes", "kubernetes"),
        # None of its pods was let in.
        ([one("worker", state="starting", ready=False)], None, "compose"),
        (SILENT, None, "compose"),
        (SILENT, "kubernetes", "compose"),
    ],
)
def test_a_failed_up_forgets_the_platform_only_where_it_left_nothing(
    home: Path, secrets: Secrets, after: Any, before: str | None, kept: str | None
) -> None:
    if before:
        platforms.remember(before)
    with pytest.raises(WarrenError, match="not ready"):
        stack.up(session_on(Ending(WarrenError("not ready", ExitCode.TIMEOUT), after), secrets), None)
    assert platforms.remembered() == kept


def test_an_up_that_waited_for_down_is_remembered(home: Path, secrets: Secrets) -> None:
    class Waiting(Platform):
        def up(self, workers: int | None) -> None:
            platforms.forget()

    stack.up(session_on(Waiting(), secrets), None, edge=True)
    assert (platforms.remembered(), platforms.remembered_edge()) == ("compose", True)


def test_trying_it_runs_a_task(
    home: Path, secrets: Secrets, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(send, "value_of", lambda _, name, args: f"{name}{args}")
    stack.up(session_on(Platform(), secrets), None, try_it=True)
    assert capsys.readouterr().out.startswith("add 2 3 = app.tasks.add[2, 3]\n")


def test_trying_it_with_a_project_of_the_users_own_asks_its_workers(
    home: Path, secrets: Secrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(control, "ping", lambda _, as_json: asked.append(as_json))
    stack.up(session_on(Platform(), secrets, celery_app="shop.celery:app"), None, try_it=True)
    assert asked == [False]


# --- down


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Any:
    def type_in(text: str | None) -> None:
        keyboard = io.StringIO(text or "")
        monkeypatch.setattr(keyboard, "isatty", lambda: text is not None)
        monkeypatch.setattr(sys, "stdin", keyboard)

    return type_in


def test_data_is_not_deleted_where_nobody_can_be_asked(home: Path, secrets: Secrets, terminal: Any) -> None:
    terminal(None)
    platform = Platform(STACK)
    with pytest.raises(WarrenError) as caught:
        stack.down(session_on(platform, secrets), volumes=True, yes=False)
    assert int(caught.value.code) == 9
    assert str(caught.value) == (
        "`down --volumes` deletes the broker's data (waiting tasks, the event log) and the monitor's and Flower's history; "
        "say --yes to do it"
    )
    assert platform.calls == []


@pytest.mark.parametrize(
    ("answer", "done"), [("y\n", True), ("YES\n", True), ("n\n", False), ("\n", False), ("yep\n", False)]
)
def test_a_person_is_asked(home: Path, secrets: Secrets, terminal: Any, answer: str, done: bool) -> None:
    terminal(answer)
    platform = Platform(STACK)
    if done:
        stack.down(session_on(platform, secrets), volumes=True, yes=False)
        assert platform.calls == [("down", True)]
    else:
        with pytest.raises(WarrenError, match=r"^nothing was changed$") as caught:
            stack.down(session_on(platform, secrets), volumes=True, yes=False)
        assert caught.value.code is ExitCode.REFUSED
        assert platform.calls == []


def test_through_the_menu_it_is_exit_code_9(menu: Menu, terminal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal(None)
    monkeypatch.setattr("deploy.platforms.choose", lambda *_: Platform(STACK))
    ended = menu("down", "--volumes")
    assert (ended.code, ended.out) == (9, "")
    assert ended.err.startswith("error: `down --volumes` deletes ")


@pytest.mark.parametrize(
    ("volumes", "yes", "dry", "said"),
    [
        (False, False, False, "The stack is down. Its data is kept.\n"),
        (True, True, False, "The stack is down. Its data is deleted; the secrets are kept.\n"),
        (True, False, True, ""),
    ],
)
def test_down(
    home: Path,
    secrets: Secrets,
    terminal: Any,
    capsys: pytest.CaptureFixture[str],
    *,
    volumes: bool,
    yes: bool,
    dry: bool,
    said: str,
) -> None:
    terminal(None)
    chosen = home / ".warren" / "platform"
    chosen.parent.mkdir()
    chosen.write_text("compose\n")
    platform = Platform(STACK)
    stack.down(session_on(platform, secrets, dry=dry), volumes=volumes, yes=yes)
    assert platform.calls == [("down", volumes)]
    assert capsys.readouterr().out == said
    assert chosen.exists() is dry


class Elsewhere(Endpoints):
    place = "dev/shop"


class Passing(Endpoints):
    lasting = False


def test_what_is_said_of_a_stack_elsewhere_names_the_place(
    home: Path, secrets: Secrets, terminal: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(None)
    platform = Platform(STACK)
    session = session_on(platform, secrets)
    session.__dict__["endpoints"] = Elsewhere("127.0.0.1", amqp=1, management=2, prometheus=3, flower=4, monitor=5)
    with pytest.raises(
        WarrenError, match=r"^dev/shop: `down --volumes` deletes the broker's data .*; say --yes to do it$"
    ):
        stack.down(session, volumes=True, yes=False)
    assert platform.calls == []
    stack.down(session, volumes=False, yes=False)
    stack.restart(session, ["worker"])
    stack.scale_workers(session, 2)
    stack.status(session, as_json=False)
    printed = capsys.readouterr()
    assert "dev/shop:" in printed.err.splitlines()
    assert printed.out.startswith(
        "dev/shop: The stack is down. Its data is kept.\ndev/shop: Restarted worker.\ndev/shop: 2 workers.\n"
    )


def test_down_where_nothing_runs_says_so_and_where_something_does(
    home: Path, secrets: Secrets, terminal: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(None)
    chosen = home / ".warren" / "platform"
    chosen.parent.mkdir()
    chosen.write_text("kubernetes\n")
    platform = Platform()
    platform.wrong = ["stacks of this cluster are in shop (WARREN_PROJECT)"]
    stack.down(session_on(platform, secrets), volumes=False, yes=False)
    assert capsys.readouterr() == ("Nothing ran. All data is kept.\n", f"{platform.wrong[0]}\n")
    # There it is still to be found.
    assert chosen.exists()
    platform.wrong = []
    stack.down(session_on(platform, secrets), volumes=True, yes=True)
    assert capsys.readouterr().out == "Nothing ran. All data is deleted; the secrets are kept.\n"
    assert not chosen.exists()
    assert platform.calls == [("down", False), ("down", True)]


# --- services


def test_a_broker_that_others_run_is_left_to_them(
    secrets: Secrets, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Endpoints, "broker_is_others", property(lambda _: True))
    platform = Platform()
    stack.restart(session_on(platform, secrets), [])
    assert platform.calls == [("restart", ["worker", "monitor", "flower"])]
    printed = capsys.readouterr()
    assert printed.out == "Restarted worker, monitor, flower.\n"
    assert "others run the broker, and restart it" in printed.err
    with pytest.raises(WarrenError, match="others run the broker, and restart it; nothing was done") as caught:
        stack.restart(session_on(platform, secrets), ["rabbitmq"])
    assert caught.value.code is ExitCode.UNKNOWN
    assert len(platform.calls) == 1


@pytest.mark.parametrize("call", [stack.restart, lambda s, services: stack.logs(s, services, False, 1)])
def test_a_service_that_there_is_not(secrets: Secrets, call: Any) -> None:
    platform = Platform(STACK)
    with pytest.raises(WarrenError) as caught:
        call(session_on(platform, secrets), ["worker", "redis"])
    assert caught.value.code is ExitCode.UNKNOWN
    assert str(caught.value) == "there is no service 'redis'; choose from rabbitmq, worker, monitor, flower"
    assert platform.calls == []


def test_an_edge_that_is_off_is_turned_on_only_where_it_can_be(secrets: Secrets) -> None:
    platform = Platform(STACK)
    with pytest.raises(WarrenError, match="the edge is off; `invoke up --edge` turns it on") as caught:
        stack.execute(session_on(platform, secrets), "edge", ["true"])
    assert caught.value.code is ExitCode.UNKNOWN
    platform.name = "kubernetes"
    with pytest.raises(WarrenError, match=r"the edge works with Docker Compose, .* the platform kubernetes$") as caught:
        stack.execute(session_on(platform, secrets), "edge", ["true"])
    assert caught.value.code is ExitCode.UNKNOWN


def test_without_a_name_all_services_are_meant(secrets: Secrets) -> None:
    platform = Platform(STACK)
    everything = ["rabbitmq", "worker", "monitor", "flower"]
    stack.restart(session_on(platform, secrets), [])
    stack.logs(session_on(platform, secrets), [], False, 5)
    stack.logs(session_on(platform, secrets), ["worker"], True, 0)
    assert platform.calls == [("restart", everything), ("logs", everything, False, 5), ("logs", ["worker"], True, 0)]


def test_the_exit_code_of_logs_is_ours(secrets: Secrets) -> None:
    platform = Platform(STACK)
    platform.code = 3
    with pytest.raises(SystemExit) as caught:
        stack.logs(session_on(platform, secrets), [], False, 5)
    assert caught.value.code == 3


# --- status and queues

QUEUES = [
    {
        "name": "default",
        "arguments": {"x-queue-type": "quorum"},
        "messages_ready": 3,
        "messages_unacknowledged": 1,
        "consumers": 2,
        "message_stats": {"publish_details": {"rate": 1.5}, "ack_details": {"rate": 0.5}},
    },
    {"name": "celery.events", "arguments": {"x-queue-type": "stream"}},
    {"name": "celery_delayed_3", "arguments": {"x-queue-type": "quorum"}},
    {"name": "celery@1.celery.pidbox", "arguments": {"x-expires": 10000}},
    {"name": "unknown"},
]


@pytest.fixture(autouse=True)
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A monitor that is up to date and knows no task that needs attention."""
    monkeypatch.setattr(monitor_api, "get", lambda *_, **__: {"attention": {"unclaimed": 0, "stalled": 0}})
    monkeypatch.setattr(monitor_api, "behind", lambda *_, **__: None)


@pytest.fixture
def queues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(management, "queues", lambda *_: QUEUES)


def test_status_as_json(queues: None, secrets: Secrets, capsys: pytest.CaptureFixture[str]) -> None:
    stack.status(session_on(Platform(STACK), secrets), as_json=True)
    answer = json.loads(capsys.readouterr().out)
    assert (answer["platform"], answer["up"], answer["error"]) == ("compose", True, None)
    assert [instance["service"] for instance in answer["instances"]] == ["rabbitmq", "worker", "monitor", "flower"]
    assert [queue["queue"] for queue in answer["queues"]] == ["default", "celery.events"]
    assert answer["queues"][0] == {
        "queue": "default",
        "ready": 3,
        "unacked": 1,
        "consumers": 2,
        "in_per_second": 1.5,
        "out_per_second": 0.5,
        "type": "quorum",
        "state": "running",
    }


def test_status_for_people(queues: None, secrets: Secrets, capsys: pytest.CaptureFixture[str]) -> None:
    stack.status(
        session_on(Platform([one("rabbitmq"), one("worker", state="failed", ready=False)]), secrets), as_json=False
    )
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["rabbitmq", "warren-rabbitmq-1", "running", "yes", "5", "minutes"] in said
    assert ["worker", "warren-worker-1", "failed", "no", "5", "minutes"] in said
    assert ["default", "3", "1", "2"] in said
    assert not any("celery_delayed_3" in line for line in said)


def test_status_says_why_something_is_not_ready(
    queues: None, secrets: Secrets, capsys: pytest.CaptureFixture[str]
) -> None:
    platform = Platform([one("worker", ready=False)])
    platform.wrong = ["dev/warren: no node takes it (worker-a); add a node"]
    stack.status(session_on(platform, secrets), as_json=False)
    assert "error: dev/warren: no node takes it (worker-a); add a node\n" in capsys.readouterr().err
    platform = Platform()
    platform.wrong = ["stacks of this cluster are in shop (WARREN_PROJECT)"]
    stack.status(session_on(platform, secrets), as_json=False)
    assert capsys.readouterr().err == "stacks of this cluster are in shop (WARREN_PROJECT)\n"


def test_status_of_nothing_does_not_ask_the_broker(
    secrets: Secrets, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(management, "queues", lambda *_: pytest.fail("asked"))
    stack.status(session_on(Platform(), secrets), as_json=False)
    assert capsys.readouterr().out == "Nothing runs. `invoke up` starts the stack.\n"
    stack.status(session_on(Platform([one("rabbitmq", state="starting", ready=False)]), secrets), as_json=True)
    assert json.loads(capsys.readouterr().out)["queues"] == []


def test_status_tells_of_tasks_that_need_attention(
    queues: None, secrets: Secrets, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attention = {"unclaimed": 2, "stalled": 0, "orphaned": 1}
    asked: list[str] = []
    monkeypatch.setattr(monitor_api, "get", lambda *of, **_: asked.append(of[2]) or {"attention": attention})
    stack.status(session_on(Platform(STACK), secrets), as_json=False)
    assert capsys.readouterr().err == (
        "3 tasks need attention (2 unclaimed, 1 orphaned): `invoke history --attention`\n"
    )
    stack.status(session_on(Platform(STACK), secrets), as_json=True)
    assert json.loads(capsys.readouterr().out)["attention"] == attention
    assert asked == ["/counts", "/counts"]
    attention["unclaimed"] = 0
    stack.status(session_on(Platform(STACK), secrets), as_json=False)
    assert capsys.readouterr().err == "1 task needs attention (1 orphaned): `invoke history --attention`\n"


def test_status_of_a_monitor_that_is_late_or_silent(
    queues: None, secrets: Secrets, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(monitor_api, "behind", lambda *_, **__: "9 events behind the log (3 s)")
    stack.status(session_on(Platform(STACK), secrets), as_json=False)
    assert capsys.readouterr().err == "error: the monitor is not up to date: 9 events behind the log (3 s)\n"

    def silent(*_: Any, **__: Any) -> None:
        raise WarrenError("the monitor does not answer; start it", ExitCode.MONITOR)

    monkeypatch.setattr(monitor_api, "get", silent)
    stack.status(session_on(Platform(STACK), secrets), as_json=True)
    answer = json.loads(capsys.readouterr().out)
    assert (answer["attention"], answer["error"]) == (None, "the monitor does not answer")


def test_status_does_not_ask_a_monitor_that_is_not_up(
    queues: None, secrets: Secrets, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(monitor_api, "get", lambda *_, **__: pytest.fail("asked"))
    stack.status(session_on(Platform([one("rabbitmq"), one("monitor", ready=False)]), secrets), as_json=True)
    assert json.loads(capsys.readouterr().out)["attention"] is None


@pytest.mark.parametrize("as_json", [True, False])
def test_status_where_the_broker_does_not_answer_still_shows_what_runs(
    secrets: Secrets, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    def fail(*_: Any) -> None:
        raise WarrenError("it does not answer", ExitCode.BROKER)

    monkeypatch.setattr(management, "queues", fail)
    stack.status(session_on(Platform(STACK), secrets), as_json)
    said = capsys.readouterr()
    assert "warren-rabbitmq-1" in said.out
    if as_json:
        assert json.loads(said.out)["error"] == "it does not answer"
    else:
        assert said.err == "error: it does not answer\n"


def test_status_says_a_thing_once_that_keeps_it_from_the_broker_and_the_monitor(
    secrets: Secrets, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise WarrenError("the cluster forbids it; ask for it", ExitCode.PLATFORM)

    monkeypatch.setattr(management, "queues", forbidden)
    monkeypatch.setattr(monitor_api, "get", forbidden)
    stack.status(session_on(Platform(STACK), secrets), as_json=False)
    assert capsys.readouterr().err == "error: the cluster forbids it; ask for it\n"


# --- shell


def test_a_shell_is_celerys_with_pythons_own_prompt_where_a_worker_runs(secrets: Secrets) -> None:
    platform = Platform(STACK)
    platform.exec = lambda *values: platform.calls.append(("exec", *values)) or 0  # type: ignore[attr-defined]
    stack.shell(session_on(platform, secrets))
    assert platform.calls == [("exec", "worker", ["celery", "-A", "app", "shell", "--python"])]
    platform.exec = lambda *_: 3  # type: ignore[attr-defined]
    with pytest.raises(SystemExit) as caught:
        stack.shell(session_on(platform, secrets))
    assert caught.value.code == 3


# --- scaling


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    asked: list[int] = []

    def nodes(_: Session, workers: int) -> set[str]:
        asked.append(workers)
        return {"celery@2"}

    monkeypatch.setattr(control, "busy_nodes", nodes)
    return asked


@pytest.mark.parametrize(
    ("workers", "asked", "busy_ones"), [(5, [], set()), (3, [], set()), (0, [], set()), (2, [3], {"celery@2"})]
)
def test_workers_are_asked_who_is_busy_only_when_some_of_them_stop(
    busy: list[int], secrets: Secrets, workers: int, asked: list[int], busy_ones: set[str]
) -> None:
    platform = Platform(
        [one("rabbitmq"), *(one("worker", number) for number in (1, 2, 3)), one("worker", 4, "stopped")]
    )
    stack.scale_workers(session_on(platform, secrets), workers)
    assert (busy, platform.calls) == (asked, [("scale", workers, busy_ones, "default")])


def test_of_a_pool_only_its_own_workers_count(
    busy: list[int], secrets: Secrets, capsys: pytest.CaptureFixture[str]
) -> None:
    platform = Platform([one("worker"), one("worker", 2), one("worker-heavy"), one("worker-heavy", 2)])
    session = session_on(platform, secrets, pools=(Pool(name="heavy", queues=("video",), time_limit=60),))
    stack.scale_workers(session, 2, "heavy")
    assert (busy, capsys.readouterr().out) == ([], "2 workers of the pool heavy.\n")
    stack.scale_workers(session, 1, "heavy")
    # All that may answer are waited for.
    assert busy == [4]
    assert platform.calls[-1] == ("scale", 1, {"celery@2"}, "heavy")
    stack.scale_workers(session, 0, "heavy")
    assert capsys.readouterr().err == "no worker is left there: tasks wait in their queues until there is one\n"
    with pytest.raises(WarrenError, match="there is no pool 'slow'; choose from default, heavy") as caught:
        stack.scale_workers(session, 1, "slow")
    assert caught.value.code is ExitCode.UNKNOWN


def test_services_of_pools_are_known_by_their_names(secrets: Secrets, capsys: pytest.CaptureFixture[str]) -> None:
    platform = Platform()
    session = session_on(platform, secrets, pools=(Pool(name="heavy", queues=("video",), time_limit=60),))
    stack.restart(session, ["worker-heavy"])
    stack.logs(session, [], False, 5)
    assert platform.calls == [
        ("restart", ["worker-heavy"]),
        ("logs", ["rabbitmq", "worker", "worker-heavy", "monitor", "flower"], False, 5),
    ]
    with pytest.raises(WarrenError, match="there is no service 'worker-slow'"):
        stack.restart(session, ["worker-slow"])


@pytest.mark.parametrize(("workers", "said"), [(0, "0 workers.\n"), (1, "1 worker.\n"), (2, "2 workers.\n")])
def test_what_scaling_says(secrets: Secrets, capsys: pytest.CaptureFixture[str], workers: int, said: str) -> None:
    stack.scale_workers(session_on(Platform(STACK[:1]), secrets), workers)
    printed = capsys.readouterr()
    assert printed.out == said
    assert ("tasks wait in their queues" in printed.err) is (workers == 0)


class Scaler:
    """Remembers its bounds."""

    by = "KEDA"

    def __init__(self, least: int = 1, most: int = 10, paused: bool = False) -> None:
        self.least, self.most, self.paused = least, most, paused
        self.asked: list[tuple[Any, ...]] = []

    def bound(self, least: int, most: int | None, patience: float) -> None:
        self.asked.append((least, most, patience))
        self.least, self.most, self.paused = least, most or self.most, not least and not most


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((4, None), "KEDA keeps 4 to 10 workers.\n"),
        ((2, 3), "KEDA keeps 2 to 3 workers.\n"),
        ((0, 5), "KEDA keeps 0 to 5 workers.\n"),
        ((0, None), "KEDA is paused.\n"),
    ],
)
def test_of_an_autoscaler_the_bounds_are_set(
    busy: list[int], secrets: Secrets, capsys: pytest.CaptureFixture[str], asked: tuple[int, int | None], said: str
) -> None:
    platform, scaler = Platform([one("rabbitmq"), one("worker"), one("worker", 2)]), Scaler()
    platform.scalers = {"worker": scaler}
    stack.scale_workers(session_on(platform, secrets, up_timeout=7), asked[0], most=asked[1])
    assert (scaler.asked, platform.calls, busy) == ([(*asked, 7)], [], [])
    printed = capsys.readouterr()
    assert printed.out == said
    assert ("`invoke scale-workers 1` lets it go on" in printed.err) is scaler.paused


def test_a_most_that_nobody_would_keep_is_refused(secrets: Secrets) -> None:
    with pytest.raises(WarrenError, match="--max 2 is less than 4 workers") as caught:
        stack.scale_workers(session_on(Platform(), secrets), 4, most=2)
    assert caught.value.code is ExitCode.USAGE
    platform = Platform()
    with pytest.raises(WarrenError, match="no autoscaler has the number of workers on compose") as caught:
        stack.scale_workers(session_on(platform, secrets), 1, most=2)
    assert (caught.value.code, platform.calls) == (ExitCode.USAGE, [])


def test_status_tells_the_bounds(queues: None, secrets: Secrets, capsys: pytest.CaptureFixture[str]) -> None:
    platform = Platform(STACK)
    platform.scalers = {"worker": Scaler(2, 8), "worker-heavy": Scaler(paused=True)}
    session = session_on(platform, secrets)
    stack.status(session, as_json=False)
    printed = capsys.readouterr().out
    assert "worker: KEDA keeps 2 to 8 workers.\nworker-heavy: KEDA is paused.\n" in printed
    stack.status(session, as_json=True)
    assert json.loads(capsys.readouterr().out)["autoscaling"] == [
        {"service": "worker", "by": "KEDA", "least": 2, "most": 8, "paused": False},
        {"service": "worker-heavy", "by": "KEDA", "least": 1, "most": 10, "paused": True},
    ]


# --- settings and pages


def test_config_shows_what_differs_from_its_default(menu: Menu, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".env").write_text("WARREN_WORKERS=4\n")
    monkeypatch.setenv("WARREN_PLATFORM", "compose")
    lines = {line.split()[0]: line.split()[1:] for line in menu("config").out.splitlines() if line.strip()}
    assert lines["WARREN_WORKERS"] == ["4", "1"]
    assert lines["WARREN_AMQP_PORT"] == ["5672"]
    answer = json.loads(menu("config", "--json").out)
    assert answer["platform"] == "compose"
    assert answer["settings"]["WARREN_WORKERS"] == "4"
    assert "CELERY_BROKER_URL" not in answer["settings"]


@pytest.mark.parametrize("words", [["config"], ["config", "--json"]])
def test_config_shows_no_secret(menu: Menu, home: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.setenv("WARREN_PLATFORM", "compose")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "db+postgresql://shop:s3cret/x@db/shop")
    ended = menu(*words)
    assert ended.code == 0
    assert "s3cret" not in ended.out
    assert "db+postgresql://shop:***@db/shop" in ended.out


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://hooks.example/services/T0/B0/key", "https://hooks.example/***"),
        ("https://me:key@hooks.example:8443/x", "https://hooks.example:8443/***"),
        ("https://me:key@hooks.example?key=1", "https://hooks.example/***"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/***"),
        ("", ""),
    ],
)
def test_config_shows_where_events_are_sent_but_not_the_key_in_the_address(
    home: Path, menu: Menu, monkeypatch: pytest.MonkeyPatch, url: str, told: str
) -> None:
    monkeypatch.setattr("deploy.platforms.choose", lambda *_: Platform(STACK))
    (home / ".env").write_text(f"MONITOR_WEBHOOK_URL={url}\n")
    ended = menu("config", "--json")
    assert json.loads(ended.out)["settings"]["MONITOR_WEBHOOK_URL"] == told
    assert not any(secret in ended.out for secret in load().values())


@pytest.mark.parametrize("words", [["status"], ["status", "--json"], ["status", "--echo"]])
def test_status_shows_no_secret(queues: None, menu: Menu, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.setattr("deploy.platforms.choose", lambda *_: Platform(STACK))
    ended = menu(*words)
    assert ended.code == 0
    assert not any(secret in ended.out + ended.err for secret in load().values())


@pytest.mark.parametrize(
    ("page", "url", "login"),
    [
        ("monitor", "http://127.0.0.1:5", "user operator, password in .warren/secrets/monitor-operator"),
        ("flower", "http://127.0.0.1:4", "user operator, password in .warren/secrets/flower-login"),
        ("rabbitmq", "http://127.0.0.1:2", "user admin, password in .warren/secrets/admin"),
    ],
)
def test_pages(
    secrets: Secrets,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    page: str,
    url: str,
    login: str,
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or False)
    stack.open_page(session_on(Platform(STACK), secrets), page)
    said = capsys.readouterr()
    assert opened == [url]
    assert said.out == f"{url}  ({login})\n"
    assert "no browser could be opened" in said.err


def test_the_page_of_a_broker_of_others_is_for_nobody_who_changes_it(
    secrets: Secrets, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda _: True)
    monkeypatch.setattr(Endpoints, "broker_is_others", True)
    stack.open_page(session_on(Platform(), secrets), "rabbitmq")
    assert capsys.readouterr().out.endswith("(user ops, password in .warren/secrets/ops)\n")


def test_ctrl_c_is_how_a_page_is_left(
    secrets: Secrets, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(webbrowser, "open", lambda _: True)
    monkeypatch.setattr(stack.signal, "pause", interrupted)
    session = session_on(Platform(STACK), secrets)
    session.__dict__["endpoints"] = Passing("127.0.0.1", amqp=1, management=2, prometheus=3, flower=4, monitor=5)
    stack.open_page(session, "flower")
    assert capsys.readouterr().err == "the address works until Ctrl-C ends this command\n"


def test_a_page_that_there_is_not(secrets: Secrets) -> None:
    with pytest.raises(WarrenError) as caught:
        stack.open_page(session_on(Platform(STACK), secrets), "grafana")
    assert (caught.value.code, str(caught.value)) == (
        ExitCode.UNKNOWN,
        "there is no page 'grafana'; choose from monitor, flower, rabbitmq",
    )
