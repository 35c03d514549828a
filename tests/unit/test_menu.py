"""The menu: what is typed, through Invoke's real parser and our real tasks, and what each command gets of it."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from invoke import Collection, Program

from deploy.commands import (
    control,
    dead_letters,
    develop,
    events,
    history,
    limits,
    manifests,
    queues,
    release,
    results,
    revokes,
    send,
    stack,
    task,
    workers,
)
from deploy.commands import retry as retrying
from deploy.commands.watch import command as watch
from deploy.errors import ExitCode, WarrenError
from deploy.menu import COMMANDS, whole_number
from deploy.paths import ROOT
from deploy.session import Session
from tests.unit.conftest import Menu

ID = "5b6c9e0a-8f2d-4a51-9c0e-3d1f7a2b4c6d"
OTHER = "00000000-8f2d-4a51-9c0e-3d1f7a2b4c6d"

LETTERS: dict[str, Any] = {
    **{"words": [], "every": False, "reason": "", "name": "", "queue": "", "limit": 50},
    **{"as_json": False, "yes": False},
}

# The function behind each command, and the names of what it gets after the session.
BEHIND: dict[str, tuple[Any, str, list[str]]] = {
    "up": (stack, "up", ["workers", "try_it"]),
    "down": (stack, "down", ["volumes", "yes"]),
    "restart": (stack, "restart", ["services"]),
    "status": (stack, "status", ["as_json"]),
    "logs": (stack, "logs", ["services", "follow", "tail"]),
    "scale-workers": (stack, "scale_workers", ["workers", "pool", "most"]),
    "exec": (stack, "execute", ["service", "words"]),
    "config": (stack, "config", ["as_json"]),
    "build": (stack, "build", []),
    "render": (manifests, "render", ["overlay"]),
    "release": (release, "release", ["image", "into"]),
    "definitions": (manifests, "definitions", []),
    "diff": (manifests, "diff", []),
    "open": (stack, "open_page", ["page"]),
    "queues": (queues, "queues", ["every", "as_json"]),
    "purge": (queues, "purge", ["queue", "yes", "as_json"]),
    "pause": (queues, "pause", ["names", "as_json"]),
    "resume": (queues, "resume", ["names", "as_json"]),
    "schedule": (queues, "schedule", ["limit", "as_json"]),
    "dead-letters": (dead_letters, "dead_letters", ["words"]),
    "inspect": (workers, "inspect", ["kind", "worker", "as_json"]),
    "workers": (workers, "workers", ["every", "as_json"]),
    "rate-limit": (limits, "rate_limit", ["words", "as_json"]),
    "time-limit": (limits, "time_limit", ["names", "soft", "hard", "default", "as_json"]),
    "retry": (retrying, "retry", ["ids", "name", "since", "queue", "yes", "as_json"]),
    "shell": (stack, "shell", []),
    "call": (send, "call", ["name", "args"]),
    "result": (results, "result", ["id", "as_json"]),
    "history": (history, "history", ["limit", "as_json"]),
    "task": (task, "show", ["id", "as_json"]),
    "events": (events, "events", []),
    "watch": (watch, "watch", ["interval", "once", "as_json"]),
    "revoke": (revokes, "revoke", ["ids", "terminate", "signal", "name", "older_than", "queue", "yes", "as_json"]),
    "revoked": (revokes, "revoked", ["since", "limit", "as_json"]),
    "ping": (control, "ping", ["as_json"]),
    "lint": (develop, "lint", []),
    "test": (develop, "test", ["args"]),
    "lock": (develop, "lock", []),
}


class Got:
    """What commands were called with, instead of running them."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.sessions: list[Session] = []

    def records(self, name: str, parameters: list[str]) -> Any:
        def record(s: Session, *values: Any, **named: Any) -> None:
            self.sessions.append(s)
            self.calls.append((name, {**dict(zip(parameters, values, strict=False)), **named}))

        return record


@pytest.fixture
def got(monkeypatch: pytest.MonkeyPatch) -> Got:
    recorder = Got()
    for command, (module, function, parameters) in BEHIND.items():
        monkeypatch.setattr(module, function, recorder.records(command, parameters))
    return recorder


CALL = {"kwargs": "", "wait": False, "timeout": "60", "queue": "", "countdown": "", "as_json": False}

REVOKE = {
    **{"ids": [], "terminate": False, "signal": "", "name": "", "older_than": "", "queue": "", "yes": False},
    "as_json": False,
}
HISTORY = {
    **{"limit": 20, "as_json": False, "failed": False, "state": "", "attention": False, "sort": "time"},
    **{"reverse": False, "name": "", "worker": "", "queue": "", "since": "", "until": "", "text": ""},
}
EVENTS = {
    **{"since": "", "until": "", "follow": False, "types": "", "name": "", "id_": ""},
    **{"tail": None, "heartbeats": False, "as_json": False},
}

TIME_LIMIT = {"names": ["add"], "soft": "", "hard": "", "default": False, "as_json": False}
RETRY = {"ids": [], "name": "", "since": "", "queue": "", "yes": False, "as_json": False}

PARSED: list[tuple[str, str, dict[str, Any]]] = [
    ("history", "history", HISTORY),
    ("history --failed --json", "history", {**HISTORY, "failed": True, "as_json": True}),
    (
        "history --state FAILURE,RETRY --attention --since 1h --until 5m --sort runtime --reverse --limit 5",
        "history",
        {
            **{**HISTORY, "state": "FAILURE,RETRY", "attention": True, "since": "1h", "until": "5m"},
            **{"sort": "runtime", "reverse": True, "limit": 5},
        },
    ),
    (
        "history --name shop.* --worker celery@a --queue mail --text -5",
        "history",
        {**HISTORY, "name": "shop.*", "worker": "celery@a", "queue": "mail", "text": "-5"},
    ),
    ("task order-7 --json", "task", {"id": "order-7", "as_json": True}),
    ("events", "events", EVENTS),
    ("events -f", "events", {**EVENTS, "follow": True}),
    (
        f"events --since 1h --until 5m --type failed,retried --name shop.* --id {ID} --tail 0 --heartbeats --json",
        "events",
        {
            **{"since": "1h", "until": "5m", "follow": False, "types": "failed,retried", "name": "shop.*"},
            **{"id_": ID, "tail": 0, "heartbeats": True, "as_json": True},
        },
    ),
    ("watch", "watch", {"interval": 1.0, "once": False, "as_json": False}),
    ("watch --interval 0.5 --once --json", "watch", {"interval": 0.5, "once": True, "as_json": True}),
    ("call add 2 3", "call", {**CALL, "name": "add", "args": ["2", "3"]}),
    ("call add 2 3 -w", "call", {**CALL, "name": "add", "args": ["2", "3"], "wait": True}),
    ("call add -w 2 3", "call", {**CALL, "name": "add", "args": ["2", "3"], "wait": True}),
    ("call -w add 2 3", "call", {**CALL, "name": "add", "args": ["2", "3"], "wait": True}),
    ("call add 2 --wait 3", "call", {**CALL, "name": "add", "args": ["2", "3"], "wait": True}),
    ("call add", "call", {**CALL, "name": "add", "args": []}),
    ("call add -12 3.5", "call", {**CALL, "name": "add", "args": ["-12", "3.5"]}),
    ("call add -.5 -1e3 -w", "call", {**CALL, "name": "add", "args": ["-.5", "-1e3"], "wait": True}),
    ("call add 2 -3 --timeout 5", "call", {**CALL, "name": "add", "args": ["2", "-3"], "timeout": "5"}),
    ("call add 2 --timeout=5 3", "call", {**CALL, "name": "add", "args": ["2", "3"], "timeout": "5"}),
    ("call add --timeout -5", "call", {**CALL, "name": "add", "args": [], "timeout": "-5"}),
    ("call add --countdown=-5", "call", {**CALL, "name": "add", "args": [], "countdown": "-5"}),
    ("call add -- 2 3", "call", {**CALL, "name": "add", "args": ["2", "3"]}),
    ("call add 2 -- -w --help -3", "call", {**CALL, "name": "add", "args": ["2", "-w", "--help", "-3"]}),
    ("call -w add -- 2", "call", {**CALL, "name": "add", "args": ["2"], "wait": True}),
    ("call add -- -- 2", "call", {**CALL, "name": "add", "args": ["--", "2"]}),
    ("call add status", "call", {**CALL, "name": "add", "args": ["status"]}),
    ("call status up", "call", {**CALL, "name": "status", "args": ["up"]}),
    ("call add down --queue mail", "call", {**CALL, "name": "add", "args": ["down"], "queue": "mail"}),
    ("call add - x=y", "call", {**CALL, "name": "add", "args": ["-", "x=y"]}),
    ('call add "a-b" [1,-2]', "call", {**CALL, "name": "add", "args": ['"a-b"', "[1,-2]"]}),
    ('call add --kwargs {"x":-1} 2', "call", {**CALL, "name": "add", "args": ["2"], "kwargs": '{"x":-1}'}),
    ("call --name add 2 3", "call", {**CALL, "name": "add", "args": ["2", "3"]}),
    ("call add --json", "call", {**CALL, "name": "add", "args": [], "as_json": True}),
    (
        f"revoke {ID} {OTHER} --terminate",
        "revoke",
        {**REVOKE, "ids": [ID, OTHER], "terminate": True},
    ),
    (
        f"revoke --terminate {ID} --signal SIGKILL {OTHER}",
        "revoke",
        {**REVOKE, "ids": [ID, OTHER], "terminate": True, "signal": "SIGKILL"},
    ),
    ("revoke", "revoke", REVOKE),
    (
        "revoke --name app.tasks.add --older-than 1h --queue mail --yes",
        "revoke",
        {**REVOKE, "name": "app.tasks.add", "older_than": "1h", "queue": "mail", "yes": True},
    ),
    ("revoked", "revoked", {"since": "", "limit": 20, "as_json": False}),
    ("revoked --since 1h --limit 5 --json", "revoked", {"since": "1h", "limit": 5, "as_json": True}),
    ("logs", "logs", {"services": [], "follow": False, "tail": 100}),
    ("logs worker -f", "logs", {"services": ["worker"], "follow": True, "tail": 100}),
    ("logs -f worker flower --tail 0", "logs", {"services": ["worker", "flower"], "follow": True, "tail": 0}),
    ("logs status", "logs", {"services": ["status"], "follow": False, "tail": 100}),
    ("restart worker monitor", "restart", {"services": ["worker", "monitor"]}),
    ("scale-workers 4", "scale-workers", {"workers": 4, "pool": "default", "most": None}),
    ("scale-workers 0", "scale-workers", {"workers": 0, "pool": "default", "most": None}),
    ("scale-workers 1 --max 8", "scale-workers", {"workers": 1, "pool": "default", "most": 8}),
    ("scale-workers --workers 4", "scale-workers", {"workers": 4, "pool": "default", "most": None}),
    ("up", "up", {"workers": None, "try_it": False}),
    ("up --workers 3 --try-it", "up", {"workers": 3, "try_it": True}),
    ("up --workers 0", "up", {"workers": 0, "try_it": False}),
    ("down --volumes --yes", "down", {"volumes": True, "yes": True}),
    ("result " + ID, "result", {"id": ID, "as_json": False}),
    ("open flower", "open", {"page": "flower"}),
    ("queues --all --json", "queues", {"every": True, "as_json": True}),
    ("purge mail", "purge", {"queue": "mail", "yes": False, "as_json": False}),
    ("purge --yes mail --json", "purge", {"queue": "mail", "yes": True, "as_json": True}),
    ("pause", "pause", {"names": [], "as_json": False}),
    ("pause mail default --json", "pause", {"names": ["mail", "default"], "as_json": True}),
    ("resume mail", "resume", {"names": ["mail"], "as_json": False}),
    ("schedule", "schedule", {"limit": 50, "as_json": False}),
    ("schedule --limit 5 --json", "schedule", {"limit": 5, "as_json": True}),
    ("dead-letters", "dead-letters", LETTERS),
    ("dead-letters show ID --json", "dead-letters", {**LETTERS, "words": ["show", "ID"], "as_json": True}),
    (
        "dead-letters requeue --all --name shop.*",
        "dead-letters",
        {**LETTERS, "words": ["requeue"], "every": True, "name": "shop.*"},
    ),
    (
        "dead-letters --limit 5 drop a b --yes",
        "dead-letters",
        {**LETTERS, "words": ["drop", "a", "b"], "limit": 5, "yes": True},
    ),
    ("inspect active", "inspect", {"kind": "active", "worker": "", "as_json": False}),
    ("inspect conf --worker celery@a --json", "inspect", {"kind": "conf", "worker": "celery@a", "as_json": True}),
    ("workers", "workers", {"every": False, "as_json": False}),
    ("workers --all --json", "workers", {"every": True, "as_json": True}),
    ("rate-limit", "rate-limit", {"words": [], "as_json": False}),
    ("rate-limit add 10/m", "rate-limit", {"words": ["add", "10/m"], "as_json": False}),
    ("time-limit", "time-limit", {**TIME_LIMIT, "names": []}),
    ("time-limit add --soft 5 --hard 6", "time-limit", {**TIME_LIMIT, "soft": "5", "hard": "6"}),
    ("time-limit --default add --json", "time-limit", {**TIME_LIMIT, "default": True, "as_json": True}),
    (f"retry {ID} {OTHER}", "retry", {**RETRY, "ids": [ID, OTHER]}),
    (
        "retry --name shop.* --since 1h --queue mail --yes --json",
        "retry",
        {"ids": [], "name": "shop.*", "since": "1h", "queue": "mail", "yes": True, "as_json": True},
    ),
    ("shell", "shell", {}),
    ("test tests/unit", "test", {"args": ["tests/unit"]}),
    ("test tests/unit -- -k name -x", "test", {"args": ["tests/unit", "-k", "name", "-x"]}),
]


@pytest.mark.parametrize(("typed", "command", "values"), PARSED, ids=[one[0] for one in PARSED])
def test_what_is_typed_is_what_the_command_gets(
    menu: Menu, got: Got, typed: str, command: str, values: dict[str, Any]
) -> None:
    ended = menu(*typed.split())
    assert ended.err == ""
    assert (ended.code, got.calls) == (0, [(command, values)])


def test_words_after_two_dashes_arrive_where_invoke_itself_runs() -> None:
    """It drops them while it looks for its own options, before it has loaded our tasks."""
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "revoke", "--", "-no-id"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.startswith("error: '-no-id' is no task id")


def test_a_word_with_blanks_is_one_word(menu: Menu, got: Got) -> None:
    menu("call", "add", '"two words"', "--", "[1, 2]")
    assert got.calls[0][1]["args"] == ['"two words"', "[1, 2]"]


@pytest.mark.parametrize(
    ("typed", "commands"),
    [
        ("up status", ["up", "status"]),
        ("up --workers 2 status --json ping", ["up", "status", "ping"]),
        ("down -v up", ["down", "up"]),
        ("scale-workers 2 status", ["scale-workers", "status"]),
        ("status logs worker", ["status", "logs"]),
    ],
)
def test_commands_in_a_row(menu: Menu, got: Got, typed: str, commands: list[str]) -> None:
    assert menu(*typed.split()).code == 0
    assert [name for name, _ in got.calls] == commands


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("call add 2 --nope", "error: call has no option --nope; see `invoke call --help`"),
        ("call add 2 --nope=3", "error: call has no option --nope; see `invoke call --help`"),
        ("status --nope", "error: status has no option --nope; see `invoke status --help`"),
        ("test -k", "error: test has no option -k; see `invoke test --help`"),
        ("up -x", "error: up has no option -x; see `invoke up --help`"),
        ("scale-workers -1", "the number of workers is a whole number of at least 0, not '-1'"),
        ("scale-workers abc", "the number of workers is a whole number of at least 0, not 'abc'"),
        ("scale-workers 1.5", "the number of workers is a whole number of at least 0, not '1.5'"),
        ("up --workers -1", "error: --workers is a whole number of at least 0, not '-1'"),
        ("up --workers 2x", "error: --workers is a whole number of at least 0, not '2x'"),
        ("logs --tail -1", "error: --tail is a whole number of at least 0, not '-1'"),
        ("history --limit 0", "error: --limit is a whole number of at least 1, not '0'"),
        ("history --limit 1000000", "error: --limit is at most 100000, not 1000000"),
        ("events --tail -1", "error: --tail is a whole number of at least 0, not '-1'"),
        ("watch --interval 0", "error: --interval is a number of seconds from 0.2 to 3600, not '0'"),
        ("watch --interval soon", "error: --interval is a number of seconds from 0.2 to 3600, not 'soon'"),
        ("task", "error: 'task' did not receive required positional arguments: 'id'; see `invoke task --help`"),
        ("schedule --limit 0", "error: --limit is a whole number of at least 1, not '0'"),
        ("purge", "error: 'purge' did not receive required positional arguments: 'queue'; see `invoke purge --help`"),
        (
            "inspect",
            "error: 'inspect' did not receive required positional arguments: 'what'; see `invoke inspect --help`",
        ),
        ("logs --tail all", "error: --tail is a whole number of at least 0, not 'all'"),
        (
            "scale-workers",
            "error: 'scale-workers' did not receive required positional arguments: 'workers'; see `invoke scale-workers -",
        ),
        ("call", "error: 'call' did not receive required positional arguments: 'name'"),
        ("nosuch", "error: No idea what 'nosuch' is; see `invoke --list`"),
        ("status nosuch", "error: No idea what 'nosuch' is; see `invoke status --help`"),
        ("status -- more", "error: No idea what 'more' is;"),
        ("status -5", "error: No idea what '-5' is;"),
        ("--platform local status", "error: --platform belongs behind the command: invoke COMMAND --platform"),
        ("up --workers", "error: --workers needs a value; see `invoke up --help`"),
    ],
)
def test_what_cannot_be_right_is_one_line_and_exit_code_2(menu: Menu, got: Got, typed: str, line: str) -> None:
    ended = menu(*typed.split())
    assert ended.code == ExitCode.USAGE
    assert ended.err.count("\n") == 1
    assert line in ended.err
    assert ended.err.startswith("error: ")
    assert got.calls == []


@pytest.mark.parametrize(
    "typed",
    [
        "--help call",
        "call --help",
        "call -h",
        "call add --help",
        "call add 2 3 --help",
        "call add --wait -h",
        "call --wait -h 2",
    ],
)
def test_help_anywhere_is_the_commands_help_and_runs_nothing(menu: Menu, got: Got, typed: str) -> None:
    ended = menu(*typed.split())
    assert ended.code == 0
    assert "Send a task and print its id" in ended.out
    assert "--countdown" in ended.out
    assert got.calls == []


@pytest.mark.parametrize("command", sorted(BEHIND))
def test_every_command_has_help(menu: Menu, got: Got, command: str) -> None:
    ended = menu(command, "--help")
    assert (ended.code, ended.err, got.calls) == (0, "", [])
    assert f"invoke [--core-opts] {command} " in ended.out
    assert "--platform" in ended.out


def test_the_list_has_every_command_of_this_table(menu: Menu) -> None:
    listed = json.loads(menu("--list", "--list-format", "json").out)
    assert {one["name"] for one in listed["tasks"]} == set(BEHIND)
    assert set(COMMANDS) == set(BEHIND)


@pytest.fixture
def namespace() -> Collection:
    found = runpy.run_path(str(ROOT / "tasks.py"))["namespace"]
    assert isinstance(found, Collection)
    return found


@pytest.mark.parametrize("command", sorted(BEHIND))
def test_every_command_and_every_argument_is_explained(namespace: Collection, command: str) -> None:
    task = namespace[command]
    assert task.__doc__ and len(task.__doc__.splitlines()[0]) > 15
    for argument in task.get_arguments():
        assert argument.help, f"{command} --{argument.name}"


@pytest.mark.parametrize("command", sorted(BEHIND))
def test_what_takes_words_has_an_example(namespace: Collection, command: str) -> None:
    task = namespace[command]
    if task.positional or task.rest:
        # A word at least: an option, or what stands for one of the user's own.
        assert re.search(rf": invoke {command} \S", task.__doc__ or "")


@pytest.mark.parametrize("command", sorted(BEHIND))
def test_explanations_name_options_and_commands_that_there_are(namespace: Collection, command: str) -> None:
    task = namespace[command]
    arguments = task.get_arguments()
    flags = {flag.replace("_", "-") for argument in arguments for flag in argument.names}
    text = " ".join([task.__doc__ or "", *(argument.help or "" for argument in arguments)])
    for option in re.findall(r"--([a-z][a-z-]+)", text):
        assert option in flags, option
    for other in re.findall(r"invoke ([a-z][a-z-]+)", text):
        assert other in BEHIND, other


# --- what every command shares


@pytest.mark.parametrize(
    ("typed", "echo", "dry"),
    [
        ("status", False, False),
        ("status --echo", True, False),
        ("status -e", True, False),
        ("status --dry", False, True),
        ("--echo status", True, False),
        ("--dry status", False, True),
        ("call add 2 --dry --echo", True, True),
    ],
)
def test_echo_and_dry(menu: Menu, got: Got, typed: str, echo: bool, dry: bool) -> None:
    assert menu(*typed.split()).code == 0
    assert (got.sessions[0].runner.echo, got.sessions[0].runner.dry) == (echo, dry)


def fails_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(stack, "status", fail)


@pytest.mark.parametrize("code", list(ExitCode))
def test_an_error_is_its_lines_and_its_code(menu: Menu, monkeypatch: pytest.MonkeyPatch, code: ExitCode) -> None:
    fails_with(monkeypatch, WarrenError("the first\nthe second", code))
    assert menu("status") == (code, "", "error: the first\nerror: the second\n")


def test_ctrl_c_is_130(menu: Menu, monkeypatch: pytest.MonkeyPatch) -> None:
    fails_with(monkeypatch, KeyboardInterrupt())
    assert menu("status") == (130, "", "interrupted\n")


def test_an_error_ends_a_row_of_commands(menu: Menu, got: Got, monkeypatch: pytest.MonkeyPatch) -> None:
    fails_with(monkeypatch, WarrenError("no", ExitCode.BROKER))
    assert menu("up", "status", "ping").code == ExitCode.BROKER
    assert [name for name, _ in got.calls] == ["up"]


def test_a_bug_keeps_its_traceback(menu: Menu, monkeypatch: pytest.MonkeyPatch) -> None:
    fails_with(monkeypatch, ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        menu("status")


def test_wrong_settings_are_lines_and_exit_code_3(menu: Menu, home: Path) -> None:
    (home / ".env").write_text("WARREN_WORKERS=many\nWARREN_QEUES=a\n")
    ended = menu("config")
    assert (ended.code, ended.out) == (ExitCode.SETTINGS, "")
    assert [line.partition(" ")[0] for line in ended.err.splitlines()] == ["error:", "error:"]
    assert "WARREN_WORKERS=many (in .env)" in ended.err and "did you mean WARREN_QUEUES?" in ended.err


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("7", 7), ("+7", 7), (" 7 ", 7), ("-1", None), ("", None), ("1_0", None)],
)
def test_whole_numbers(text: str, number: int | None) -> None:
    if number is None:
        with pytest.raises(
            WarrenError, match=r"^it is a whole number of at least 0, not .*; for example this$"
        ) as caught:
            whole_number(text, "it", 0, "this")
        assert caught.value.code is ExitCode.USAGE
    else:
        assert whole_number(text, "it", 0, "this") == number


def test_the_least_number_counts() -> None:
    assert whole_number("1", "it", 1, "this") == 1
    with pytest.raises(WarrenError):
        whole_number("0", "it", 1, "this")


# --- which platform

FILES = [
    # invoke.yaml, .env, environment, option -> the platform
    (None, None, None, None, "compose"),
    ("local", None, None, None, "local"),
    ("local", "compose", None, None, "compose"),
    ("compose", None, "local", None, "local"),
    (None, "compose", "local", None, "local"),
    (None, "local", None, None, "local"),
    (None, "local", "local", "compose", "compose"),
    ("local", None, None, "compose", "compose"),
    ("compose", None, None, "local", "local"),
    ("local", "auto", "auto", None, "local"),
]


@pytest.mark.parametrize(("file", "dotenv", "variable", "option", "chosen"), FILES)
def test_the_option_before_the_environment_before_dotenv_before_invoke_yaml(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    file: str | None,
    dotenv: str | None,
    variable: str | None,
    option: str | None,
    chosen: str,
) -> None:
    from deploy import platforms

    asked: list[str] = []
    monkeypatch.setattr(platforms, "make", lambda name, *_: asked.append(name))
    monkeypatch.setattr(platforms, "detect", lambda *_: "compose")
    monkeypatch.setattr(stack, "status", lambda s, _: s.platform)
    # A checkout as Invoke finds it: tasks.py, and invoke.yaml beside it.
    (home / "tasks.py").write_text((ROOT / "tasks.py").read_text())
    if file:
        (home / "invoke.yaml").write_text(f"platform: {file}\n")
    if dotenv:
        (home / ".env").write_text(f"WARREN_PLATFORM={dotenv}\n")
    if variable:
        monkeypatch.setenv("WARREN_PLATFORM", variable)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "tasks", raising=False)
    Program().run(
        ["invoke", "--search-root", str(home), "status", *(["--platform", option] if option else [])], exit=False
    )
    assert asked == [chosen]


def test_a_platform_that_there_is_not(menu: Menu) -> None:
    ended = menu("status", "--platform", "nomad")
    assert (ended.code, ended.err) == (
        ExitCode.USAGE,
        "error: there is no platform 'nomad'; choose one of compose, local, kubernetes\n",
    )


# --- as a program


def test_the_program_ends_with_the_code_of_the_error_and_writes_nothing_but_its_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "config"],
        cwd=ROOT,
        env={**os.environ, "WARREN_WORKERS": "many"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert "error: WARREN_WORKERS=many (in the environment) is not " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("invoke sta", "status"),
        ("invoke up --", "--workers"),
        ("invoke call add --", "--countdown"),
        ("invoke logs worker --", "--follow"),
    ],
)
def test_shells_complete_commands_and_options(menu: Menu, typed: str, offered: str) -> None:
    ended = menu("--complete", "--", *typed.split())
    assert (ended.code, ended.err) == (0, "")
    assert offered in ended.out.split()


def test_a_reader_that_has_enough_is_no_error() -> None:
    code = "from deploy.menu import with_exit_codes as run; run(lambda: [print('x' * 99) for _ in range(9999)])"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stderr
    process.stdout.readline()
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == ("", 0)
    process.stderr.close()
