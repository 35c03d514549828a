"""From MONITOR_HANDLERS and the other settings to handlers."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from app.environment import Mistake
from app.monitor.handlers import load
from app.settings import AppSettings
from deploy.paths import ROOT

numbers = itertools.count()

MakeModule = Callable[[str], str]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeModule:
    """Writes a module where it can be imported; its name."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text: str) -> str:
        # Of its own for each: modules stay imported.
        name = f"handlers_of_test_{next(numbers)}"
        (tmp_path / f"{name}.py").write_text("from app.monitor.handlers import on\n" + dedent(text))
        return name

    return write


def mistakes(settings: AppSettings) -> list[str]:
    with pytest.raises(Mistake) as raised:
        load(settings)
    for line in raised.value.lines:
        assert line.startswith("MONITOR_"), line
        assert "\n" not in line
    return raised.value.lines


def test_nothing_is_loaded_by_default() -> None:
    assert load(AppSettings()).names == ()


def test_functions_of_modules_become_handlers(module: MakeModule) -> None:
    one = module(
        """
        @on("task-failed", name="shop.*")
        def tell(event): ...

        @on("worker-offline")
        @on("task-failed")
        def write(event): ...

        def helper(event): ...
        """
    )
    two = module("""
        @on("task-succeeded")
        def tell(event): ...
        """)
    registry = load(AppSettings(monitor_handlers=(one, two, one)))
    assert registry.names == (f"{one}.tell", f"{one}.write", f"{two}.tell")
    assert registry.wanted("task-failed", "shop.pay") == (f"{one}.tell", f"{one}.write")


def test_a_module_may_show_handlers_of_another(module: MakeModule) -> None:
    inner = module('@on("task-failed")\ndef tell(event): ...\n')
    outer = module(f"from {inner} import tell\n")
    assert load(AppSettings(monitor_handlers=(outer, inner))).names == (f"{inner}.tell",)


def test_a_wrapped_function_is_called_through_its_wrapper(module: MakeModule) -> None:
    name = module(
        """
        import functools

        def loud(function):
            @functools.wraps(function)
            def wrapper(event):
                event["loud"] = True
                return function(event)
            return wrapper

        @loud
        @on("task-failed")
        def tell(event):
            event["told"] = True
        """
    )
    (handler,) = load(AppSettings(monitor_handlers=(name,))).handlers
    event: dict[str, object] = {}
    handler.call(event)
    assert event == {"loud": True, "told": True}


BAD = [
    ("", "has no handlers"),
    ("def tell(event): ...", "has no handlers"),
    ("import nothing_of_this_name", "can't be imported: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
    ("1 / 0", "can't be imported: ZeroDivisionError: division by zero"),
    ("def tell(event)\n    pass", "can't be imported: SyntaxError"),
    ("raise SystemExit", "can't be imported: SystemExit"),
    ("import sys; sys.exit('two\\nlines')", "can't be imported: SystemExit: two lines"),
    ('@on("task-fialed")\ndef tell(event): ...', "did you mean task-failed"),
    ("@on\ndef tell(event): ...", "@on takes types of events"),
    ('@on("task-failed")\nasync def tell(event): ...', "tell must be a plain function"),
    ('@on("task-failed")\ndef tell(): ...', "tell must take one argument, the event"),
    ('class A:\n    @on("task-failed")\n    def tell(self, event): ...', "A.tell must take one argument"),
    ('class A:\n    @staticmethod\n    @on("task-failed")\n    def tell(event): ...', "A.tell can't be found"),
    ('@on("task-failed")\ndef tell(event): ...\n\n@on("task-sent")\ndef tell(event): ...', "tell can't be found"),
    ('from celery import shared_task\n\n@shared_task\n@on("task-sent")\ndef tell(event): ...', "tell can't be found"),
    (
        'def make():\n    @on("task-sent")\n    def tell(event): ...\n    return tell\n\na, b = make(), make()',
        "two handlers are called",
    ),
]


def test_what_a_module_shows_beside_is_not_asked_anything(module: MakeModule) -> None:
    # As with a task of Celery's whose app has ended: who asks it for its class hears of an unknown task.
    name = module(
        """
        class Far:
            @property
            def __class__(self):
                raise KeyError("no such task")

        far = Far()

        @on("task-failed")
        def tell(event): ...
        """
    )
    assert load(AppSettings(monitor_handlers=(name,))).names == (f"{name}.tell",)


@pytest.mark.parametrize(("text", "said"), BAD, ids=[said[:30] for _, said in BAD])
def test_a_bad_module_is_one_line(module: MakeModule, text: str, said: str) -> None:
    name = module(text)
    (line,) = mistakes(AppSettings(monitor_handlers=(name,)))
    assert said in line
    assert name in line


def test_the_line_of_a_mistake_is_named(module: MakeModule) -> None:
    name = module("\n\n@on('task-fialed')\ndef tell(event): ...\n")
    (line,) = mistakes(AppSettings(monitor_handlers=(name,)))
    assert f"{name}.py line 4)" in line


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module", "there is no module no_such_module;"),
        ("no_such_module.handlers", "there is no module no_such_module; .* (for no_such_module.handlers)"),
        ("app.no_such_module", "there is no module app.no_such_module;"),
        ("shop/handlers.py", "shop/handlers.py is no module's name"),
        (".handlers", "is no module's name"),
    ],
)
def test_a_module_that_is_not_there(name: str, said: str) -> None:
    (line,) = mistakes(AppSettings(monitor_handlers=(name,)))
    assert all(part in line for part in said.split(".*"))


def test_the_monitor_does_not_start_with_one(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "MONITOR_DIR": str(tmp_path), "MONITOR_HANDLERS": "no_such_module"}
    done = subprocess.run(
        [sys.executable, "-m", "app.monitor"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert done.stderr == (
        "error: MONITOR_HANDLERS: there is no module no_such_module; check the name, and that it is beside your app\n"
    )


def test_all_mistakes_are_said_at_once(module: MakeModule) -> None:
    bad = AppSettings(
        monitor_handlers=("no_such_module", module("1 / 0")),
        monitor_webhook_url="https://",
        monitor_command='"unclosed',
    )
    assert len(mistakes(bad)) == 4


def test_a_webhook_and_a_command_get_the_events_of_their_settings() -> None:
    registry = load(
        AppSettings(
            monitor_webhook_url="https://example.org/hook",
            monitor_webhook_key="key",
            monitor_webhook_events=("task-failed", "worker-offline"),
            monitor_command=f"{sys.executable} -c pass",
            monitor_command_events=("task-orphaned",),
        )
    )
    assert registry.names == ("webhook", "command")
    assert registry.wanted("task-failed", "a") == ("webhook",)
    assert registry.wanted("worker-offline", "") == ("webhook",)
    assert registry.wanted("task-orphaned", "a") == ("command",)


@pytest.mark.parametrize(
    "url",
    [
        "example.org/secret",
        "ftp://example.org/secret",
        "https:///secret",
        "https://example.org:99999/secret",
        "https://example.org:port/secret",
        "https://[::1/secret",
        "https://example.org/two words/secret",
        "https://example.org/secret\r\nX: y",
        f"https://{'a' * 70}.example.org/secret",
    ],
)
def test_a_bad_address_is_said_without_its_secrets(url: str) -> None:
    (line,) = mistakes(AppSettings(monitor_webhook_url=url, monitor_webhook_key="key"))
    assert line.startswith("MONITOR_WEBHOOK_URL is no address")
    assert "secret" not in line


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ('tell "secret', "MONITOR_COMMAND can't be read (No closing quotation)"),
        ("''", "MONITOR_COMMAND: there is no program"),
        ("#", "MONITOR_COMMAND: there is no program #"),
        ("/no/such/program --password secret", "there is no program /no/such/program that can be run"),
        ("/etc", "there is no program /etc that can be run"),
        (" ", "MONITOR_COMMAND names no program"),
    ],
)
def test_a_bad_command_is_said_without_its_arguments(command: str, said: str) -> None:
    (line,) = mistakes(AppSettings(monitor_command=command))
    assert said in line
    assert "secret" not in line


def test_an_unknown_event_is_said() -> None:
    (line,) = mistakes(
        AppSettings(monitor_command=f"{sys.executable} -c pass", monitor_command_events=("task-fialed",))
    )
    assert line == "MONITOR_COMMAND_EVENTS: there is no event 'task-fialed'; did you mean task-failed?"
