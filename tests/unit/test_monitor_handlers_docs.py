"""What docs/handlers.md shows is run as it stands there."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from time import time

import pytest

from app.monitor.handlers import TYPES, load
from app.monitor.handlers.command import Command
from app.monitor.handlers.registry import FIELDS
from app.monitor.handlers.webhook import Webhook, signature
from app.settings import AppSettings, from_environment
from deploy.paths import ROOT
from tests.support.handlers import event, receiver

TEXT = (ROOT / "docs" / "handlers.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
SETTINGS = dict(line.split("=", 1) for line in re.findall(r"^[A-Z_]+=.*$", TEXT, re.MULTILINE))

numbers = itertools.count()


def test_the_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"documented_handlers_{next(numbers)}"
    (tmp_path / f"{name}.py").write_text(PYTHON[0])
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = load(AppSettings(monitor_handlers=(name,)))
    assert registry.wanted("task-failed", "shop.pay") == (f"{name}.tell",)
    assert registry.wanted("task-failed", "mail.send") == ()
    assert registry.wanted("task-orphaned", "mail.send") == (f"{name}.tell",)
    said: list[str] = []

    def chat(page: BaseHTTPRequestHandler, body: bytes) -> None:
        said.append(json.loads(body)["text"])
        page.send_response(204)
        page.end_headers()

    with receiver(chat) as url:
        monkeypatch.setenv("CHAT_URL", url)
        registry.handlers[0].call(event(1, exception="ValueError('x')"))
    assert said == ["task-failed: shop.pay id-1 ValueError('x')"]


def test_all_types_and_fields_are_named() -> None:
    assert [one for one in (*TYPES, *FIELDS) if f"`{one}`" not in TEXT] == []


def test_the_check_of_a_signature() -> None:
    (code,) = (block for block in PYTHON if "is_from_warren" in block)
    names: dict[str, object] = {}
    exec(code, names)
    is_from_warren = names["is_from_warren"]
    assert callable(is_from_warren)
    answers: list[bool] = []

    def page(page: BaseHTTPRequestHandler, body: bytes) -> None:
        header = page.headers["X-Warren-Signature"]
        answers.extend(
            [
                is_from_warren("the key", header, body),
                is_from_warren("no key", header, body),
                is_from_warren("the key", header, body + b" "),
            ]
        )
        page.send_response(200)
        page.end_headers()

    with receiver(page) as url:
        Webhook(url, "the key")(event())
    assert answers == [True, False, False]
    now = int(time())
    assert not is_from_warren("the key", signature("the key", now - 301, b"{}"), b"{}")
    for wrong in ("", "t=", "t=x,sha256=y", "sha256=", f"t={now},sha256=ä", f"t={now}", "=,=", ",,,"):
        assert not is_from_warren("the key", wrong, b"{}")


def test_the_settings() -> None:
    environment = {name: value for name, value in SETTINGS.items() if name.startswith("MONITOR_")}
    assert set(environment) == {
        *("MONITOR_HANDLERS", "MONITOR_WEBHOOK_URL", "MONITOR_WEBHOOK_EVENTS", "MONITOR_COMMAND"),
        "MONITOR_COMMAND_EVENTS",
    }
    settings = from_environment(environment)
    assert settings.monitor_handlers == ("app.handlers",)
    assert Command.parse(settings.monitor_command)._arguments[1:] == ("-m", "shop.report", "--level", "warning")


def test_the_command(tmp_path: Path) -> None:
    code = next(block for block in PYTHON if "json.load(sys.stdin)" in block)
    program, file = tmp_path / "report.py", tmp_path / "failed-tasks"
    program.write_text(code.replace("/tmp/failed-tasks", str(file)))
    command = Command.parse(f"{shlex.quote(sys.executable)} {shlex.quote(str(program))}")
    command(event(1, time="2026-11-22T13:20:01.123Z", exception="ValueError('x')"))
    assert file.read_text() == "2026-11-22T13:20:01.123Z shop.pay id-1 ValueError('x')\n"
