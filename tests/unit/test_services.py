"""The environment of each service, on both platforms: what the settings and secrets come to."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.settings import from_environment
from deploy.paths import ROOT
from deploy.platforms.local import programs
from deploy.platforms.local.addresses import Ports
from deploy.secrets import Secrets
from deploy.services import environments
from deploy.settings import Settings

PORTS = Ports(1, 2, 3, 4, 5, 6, 7)


def monitor(settings: Settings, secrets: Secrets) -> dict[str, str]:
    return environments(settings, secrets, "rabbitmq", 5672, 15672)["monitor"]


def test_the_monitor_reads_the_users_settings_and_its_own_secrets(secrets: Secrets) -> None:
    settings = Settings(
        monitor_port=7000,
        monitor_format="json",
        monitor_keep_days=3,
        monitor_keep_tasks=1000,
        monitor_handlers=("shop.alerts", "audit"),
        monitor_webhook_url="https://example.org/x?y=%20",
        monitor_webhook_events=("task-failed",),
        monitor_command="sh -c 'cat >&2'",
        monitor_command_events=("task-sent", "worker-offline"),
        monitor_unclaimed_after=60,
        monitor_stalled_factor=4,
        monitor_silent_after=30,
    )
    read = from_environment(monitor(settings, secrets))
    for field in (
        *("monitor_format", "monitor_keep_days", "monitor_keep_tasks", "monitor_handlers", "monitor_webhook_url"),
        *("monitor_webhook_events", "monitor_command", "monitor_command_events", "monitor_unclaimed_after"),
        *("monitor_stalled_factor", "monitor_silent_after", "task_time_limit", "queues"),
    ):
        assert getattr(read, field) == getattr(settings, field), field
    # What is published is Compose's business; inside its container it is always the same.
    assert (read.monitor_address, read.monitor_port) == ("0.0.0.0", 5556)
    assert read.monitor_token == "password-of-monitor-token"
    assert read.monitor_operator_password == "password-of-monitor-operator"
    assert read.monitor_viewer_password == "password-of-monitor-viewer"
    assert read.monitor_cookie_secret == "password-of-monitor-cookie"
    assert read.monitor_webhook_key == "password-of-monitor-webhook"
    assert read.broker_url == "amqp://monitor:password-of-monitor@rabbitmq:5672/warren"
    assert read.monitor_ops_url == "amqp://ops:password-of-ops@rabbitmq:5672/warren"
    assert read.monitor_producer_url == "amqp://producer:password-of-producer@rabbitmq:5672/warren"


def test_nobody_else_gets_the_monitors_secrets(settings: Settings, secrets: Secrets) -> None:
    made = environments(settings, secrets, "rabbitmq", 5672, 15672)
    assert {service for service, values in made.items() if any(name.startswith("MONITOR_") for name in values)} == {
        "monitor"
    }


@pytest.mark.parametrize("bind", ["127.0.0.1", "0.0.0.0", "::1"])
def test_on_the_local_platform_it_listens_where_it_is_reached(
    bind: str, secrets: Secrets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app.env").write_text("SHOP_KEY=of its own\n")
    monkeypatch.setattr(programs, "ROOT", tmp_path)
    made = programs.programs(Settings(bind=bind), secrets, PORTS, {"worker": [1]}, Path("/scripts"))
    (environment,) = [one.environment for one in made if one.service == "monitor"]
    assert (environment["MONITOR_ADDRESS"], environment["MONITOR_PORT"]) == (bind, "5")
    # For handlers, as tasks have it; nobody else.
    assert {one.service for one in made if "SHOP_KEY" in one.environment} == {"worker", "monitor"}


def test_handlers_are_found_where_tasks_are(secrets: Secrets) -> None:
    made = programs.programs(
        Settings(celery_app="shop", app_context=str(ROOT / "tests")), secrets, PORTS, {"worker": [1]}, Path("/scripts")
    )
    worker, watcher = (next(one for one in made if one.service == service) for service in ("worker", "monitor"))
    assert watcher.environment["PYTHONPATH"] == worker.environment["PYTHONPATH"]
    assert watcher.directory == worker.directory
