"""The services as the local platform runs them: the commands of `deploy/compose.yaml` as plain processes."""

from __future__ import annotations

import json
import signal
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from app import health
from app.monitor.history.schema import FILE, connect
from deploy.paths import ROOT
from deploy.services import FLOWER_LOGIN
from tests.support.brokers import HOST, Broker
from tests.support.eventually import eventually
from tests.support.login import basic
from tests.support.ports import free_port
from tests.support.processes import PYTHON, Process

__all__ = ["Flower", "Monitor", "Worker"]

# Seconds. A worker is ready after two or three; a busy machine takes its time.
PATIENCE = 120


class Worker(Process):
    """``celery -A app worker`` with a health folder of its own."""

    def __init__(
        self,
        broker: Broker,
        folder: Path,
        *,
        concurrency: int = 1,
        options: tuple[str, ...] = (),
        values: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
    ) -> None:
        self.node = f"{uuid.uuid4().hex[:8]}@test"
        self.health = folder / self.node
        super().__init__(
            [
                PYTHON,
                "-m",
                "celery",
                "-A",
                "app",
                "worker",
                "--without-mingle",
                "--loglevel",
                "info",
                "--hostname",
                self.node,
                *options,
            ],
            {
                **broker.environment("worker"),
                "WARREN_WORKER_CONCURRENCY": str(concurrency),
                "WARREN_HEALTH_DIR": str(self.health),
                **(values or {}),
            },
            folder / f"{self.node}.log",
            cwd,
        )

    @property
    def ready(self) -> bool:
        if self.popen.poll() is not None:
            raise AssertionError(self.tail())
        return health.ready(str(self.health))

    def wait(self) -> None:
        eventually(lambda: self.ready, PATIENCE, lambda: f"the worker is ready; {self.tail()}")


class Monitor(Process):
    """``python -m app.monitor`` on a free port; its lines are those of its standard output and error."""

    def __init__(self, broker: Broker, folder: Path, values: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        self.token = broker.secrets["monitor-token"]
        self.folder = Path((values or {}).get("MONITOR_DIR", folder / "monitor"))
        folder.mkdir(exist_ok=True)
        super().__init__(
            [PYTHON, "-m", "app.monitor"],
            {
                **broker.environment("monitor"),
                "MONITOR_DIR": str(self.folder),
                "MONITOR_ADDRESS": HOST,
                "MONITOR_PORT": str(self.port),
                **(values or {}),
            },
            folder / "monitor.log",
        )

    def says(self, *words: str, timeout: float = 60) -> str:
        """The first line that has all of ``words``."""
        return eventually(
            lambda: next((line for line in self.lines if all(word in line for word in words)), None) or "",
            timeout,
            lambda: f"a line with {words}; {self.tail()}",
        )

    def ask(self, path: str, token: str | None = None) -> tuple[int, Any]:
        """Status and decoded body of what the API answers."""
        request = urllib.request.Request(f"http://{HOST}:{self.port}{path}")
        request.add_header("Authorization", f"Bearer {token or self.token}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        return status, json.loads(text) if text.startswith((b"{", b"[")) else text.decode()

    def task(self, task_id: str) -> dict[str, Any]:
        """What the API tells of a task; nothing while it knows none."""
        status, found = self.ask(f"/tasks/{urllib.parse.quote(task_id, safe='')}")
        return dict(found) if status == 200 else {}

    def tasks(self, query: str = "") -> Iterator[dict[str, Any]]:
        """All tasks that match, page by page."""
        cursor = ""
        while True:
            status, page = self.ask(f"/tasks?limit=1000&{query}{cursor}")
            assert status == 200, page
            yield from page["tasks"]
            if page["next"] is None:
                return
            cursor = f"&cursor={urllib.parse.quote(page['next'])}"

    @property
    def position(self) -> int:
        """Offset of the last message of the log that is in the history; -1 where none is. Read from its file."""
        if not (self.folder / FILE).exists():
            return -1
        with closing(connect(self.folder / FILE, readonly=True)) as connection:
            row = connection.execute("SELECT offset FROM position").fetchone()
        return int(row[0]) if row else -1

    def reaches(self, offset: int, timeout: float = 120) -> None:
        """Waits until the message at ``offset`` is in the history."""
        eventually(lambda: self.position >= offset, timeout, lambda: f"the monitor is at {offset}; {self.tail()}")


class Flower(Process):
    """``python -m app.flower`` on a free port, its state in ``folder``."""

    def __init__(self, broker: Broker, folder: Path, values: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        self.login = (FLOWER_LOGIN, broker.secrets["flower-login"])
        super().__init__(
            [PYTHON, "-m", "app.flower"],
            {
                **broker.environment("flower"),
                "FLOWER_ADDRESS": HOST,
                "FLOWER_PORT": str(self.port),
                "FLOWER_DB": str(folder / "flower"),
                **(values or {}),
            },
            folder / "flower.log",
        )

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def get(self, path: str, login: bool = True) -> Any:
        """What Flower's API answers, decoded."""
        request = urllib.request.Request(f"{self.url}{path}")
        if login:
            request.add_header("Authorization", basic(*self.login))
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text.startswith((b"{", b"[")) else text.decode()

    def ask(self, path: str, *, authorization: str = "", data: bytes | None = None) -> tuple[int, str]:
        """Status and text of an answer, whichever; without a login, unless ``authorization`` is one."""
        request = urllib.request.Request(f"{self.url}{path}", data=data)
        if authorization:
            request.add_header("Authorization", authorization)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    @property
    def ready(self) -> bool:
        """Whether it has seen the end of the event log lately."""
        if self.popen.poll() is not None:
            raise AssertionError(self.tail())
        try:
            return self.ask("/readyz")[0] == 200
        except OSError:
            return False

    def tasks(self) -> dict[str, dict[str, Any]]:
        """All tasks that it shows, by id."""
        return dict(self.get("/api/tasks?limit=1000000"))

    def task(self, task_id: str) -> dict[str, Any]:
        return dict(self.get(f"/api/task/info/{urllib.parse.quote(task_id)}"))

    def wait(self) -> None:
        eventually(
            lambda: self.popen.poll() is not None or self.ready, PATIENCE, lambda: f"Flower is ready; {self.tail()}"
        )
        assert self.popen.poll() is None, self.tail()

    def restart(self, number: int = signal.SIGTERM) -> None:
        if number == signal.SIGKILL:
            self.kill()
        else:
            self.end()
        self.start()
        self.wait()
