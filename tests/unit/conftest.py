"""What the unit tests share: a checkout of their own below tmp_path, sessions that run nothing, and the menu."""

from __future__ import annotations

import os
import runpy
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from deploy.platforms.base import Endpoints
from deploy.secrets import NAMES, Secrets
from deploy.session import Session
from deploy.settings import Settings
from tests.support.monitor_api import FakeMonitor, serving

# Of the developer's shell, nothing may reach a test.
PREFIXES = ("WARREN_", "CELERY_", "MONITOR_", "FLOWER_", "INVOKE_")


@pytest.fixture(autouse=True)
def bare_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(PREFIXES):
            monkeypatch.delenv(name)
    # Nor the platform of a stack that is up.
    monkeypatch.setattr("deploy.platforms.CHOSEN", tmp_path / "no-platform")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which .env and .warren are looked for, instead of the checkout."""
    state = tmp_path / ".warren"
    for place, value in {
        "deploy.paths.STATE": state,
        "deploy.session.ROOT": tmp_path,
        "deploy.platforms.CHOSEN": state / "platform",
        "deploy.platforms.EDGE": state / "edge",
        "deploy.platforms.STATE": state,
        "deploy.platforms.compose.files.STATE": state,
        "deploy.platforms.kubernetes.context.USED": state / "kubernetes" / "context",
        "deploy.platforms.kubernetes.passwords.STATE": state,
        "deploy.platforms.kubernetes.overlay.FOLDER": state / "kubernetes" / "overlay",
        "deploy.platforms.lock.LOCK": state / "lock",
        "deploy.secrets.FOLDER": state / "secrets",
        "deploy.secrets.load.__defaults__": (state / "secrets",),
    }.items():
        monkeypatch.setattr(place, value)
    # Of a developer's own clusters the tests know nothing.
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    return tmp_path


@pytest.fixture
def settings() -> Settings:
    return Settings()


@pytest.fixture
def secrets() -> Secrets:
    return Secrets({name: f"password-of-{name}" for name in NAMES})


class FakeRunner:
    """Records commands as they would have been typed; answers by the beginning of the command.

    An answer is what the command prints, an exception that it ends with, or a list of these for one call after the other
    (the last one stays).
    """

    echo = False

    def __init__(self, answers: Mapping[str, Any] | None = None, *, dry: bool = False) -> None:
        self.answers = dict(answers or {})
        self.dry = dry
        self.ran: list[str] = []
        self.read_: list[str] = []
        self.attached: list[str] = []
        self.shown: list[str] = []

    def answer(self, line: str) -> str:
        for beginning in sorted(self.answers, key=len, reverse=True):
            if line.startswith(beginning):
                found = self.answers[beginning]
                if isinstance(found, list):
                    found = found.pop(0) if len(found) > 1 else found[0]
                if isinstance(found, BaseException):
                    raise found
                return str(found)
        return ""

    def show(self, line: str) -> None:
        self.shown.append(line)

    def acts(self, line: str) -> bool:
        self.show(line)
        return not self.dry

    def run(self, arguments: Sequence[str], **_: Any) -> None:
        line = shlex.join(arguments)
        if self.acts(line):
            self.ran.append(line)
            self.answer(line)

    def read(self, arguments: Sequence[str], **_: Any) -> str:
        line = shlex.join(arguments)
        self.show(line)
        self.read_.append(line)
        return self.answer(line)

    def differs(self, arguments: Sequence[str]) -> bool:
        return bool(self.attach(arguments))

    def attach(self, arguments: Sequence[str]) -> int:
        line = shlex.join(arguments)
        if self.acts(line):
            self.attached.append(line)
        return int(self.answer(line) or 0)


# Where nothing is reached: what would be is put in its place.
NOWHERE = Endpoints(host="127.0.0.1", amqp=5672, management=2, prometheus=3, flower=4, monitor=5)


def make_session(secrets: Secrets, where: Endpoints = NOWHERE, *, dry: bool = False, **settings: Any) -> Session:
    """A session that runs nothing, with the platform's parts at ``where``."""
    made = Session(FakeRunner(dry=dry))  # type: ignore[arg-type]
    made.__dict__.update(secrets=secrets, settings=Settings(**settings), endpoints=where)
    return made


@pytest.fixture
def api() -> Iterator[FakeMonitor]:
    """A monitor that knows nothing yet."""
    with serving() as made:
        yield made


@pytest.fixture
def session(api: FakeMonitor, secrets: Secrets) -> Session:
    """A session with that monitor."""
    return make_session(secrets, api.where)


class Ended(NamedTuple):
    """How a command of the menu ended, and what it printed."""

    code: int
    out: str
    err: str


Menu = Callable[..., Ended]


@pytest.fixture
def menu(home: Path, capsys: pytest.CaptureFixture[str]) -> Menu:
    """Types a command: ``menu("call", "add", "2", "3")``, through Invoke's own program."""
    from invoke import Program

    from deploy.paths import ROOT

    def type_in(*words: str) -> Ended:
        capsys.readouterr()
        code = 0
        try:
            # Invoke takes the help texts off the tasks when it first parses: each run gets tasks of its own.
            namespace = runpy.run_path(str(ROOT / "tasks.py"))["namespace"]
            Program(namespace=namespace, name="invoke", binary="invoke").run(["invoke", *words])
        except SystemExit as ended:
            code = int(ended.code or 0)
        printed = capsys.readouterr()
        return Ended(code, printed.out, printed.err)

    return type_in
