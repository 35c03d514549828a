"""The component `monitoring`: alerts that fire when they should, and only metrics that somebody exposes."""

from __future__ import annotations

import json
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import HttpWaitStrategy

import tasks
from app.events.status import Status
from app.monitor.metrics import Metrics
from deploy.paths import ROOT
from tests.support import containers, promtool

FOLDER = ROOT / "k8s" / "components" / "monitoring"
DASHBOARDS = sorted((FOLDER / "dashboards").glob("*.json"))
ALERTS = [file for file in sorted((FOLDER / "alerts").glob("*.yaml")) if file.name != "kustomization.yaml"]


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


def rule(file: Path) -> dict[str, Any]:
    (group,) = read(file)["spec"]["groups"]
    (found,) = group["rules"]
    return dict(found)


def queries(dashboard: Path) -> list[str]:
    return [target["expr"] for panel in json.loads(dashboard.read_text())["panels"] for target in panel["targets"]]


def used() -> set[str]:
    """The names of all metrics in alerts and dashboards."""
    texts = [rule(file)["expr"] for file in ALERTS] + [query for file in DASHBOARDS for query in queries(file)]
    return {name for text in texts for name in re.findall(r"\b(?:warren|rabbitmq|erlang|flower)_[a-z_0-9]+", text)}


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what Prometheus' operator makes of them: `rules.yaml`; and of each query of a dashboard a rule."""
    if reason := promtool.missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("rules")
    groups = [group for file in ALERTS for group in read(file)["spec"]["groups"]]
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    shown = [
        {
            "record": "shown",
            "expr": query.replace("$namespace", "w").replace("$__rate_interval", "1m"),
            "labels": {"n": f"{n}"},
        }
        for file in DASHBOARDS
        for n, query in enumerate(queries(file))
    ]
    (folder / "dashboards.yaml").write_text(
        yaml.safe_dump({"groups": [{"name": f"{n}", "rules": [one]} for n, one in enumerate(shown)]})
    )
    (folder / "alerts.yaml").write_text((Path(__file__).parent / "alerts.yaml").read_text())
    return folder


def test_prometheus_understands_every_alert_and_every_query_of_a_dashboard(rules: Path) -> None:
    done = promtool.promtool(rules, "check", "rules", "rules.yaml", "dashboards.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


def test_alerts_fire_when_they_should_and_only_then(rules: Path) -> None:
    done = promtool.promtool(rules, "test", "rules", "alerts.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested() -> None:
    tested = (Path(__file__).parent / "alerts.yaml").read_text()
    assert [rule(file)["alert"] for file in ALERTS if rule(file)["alert"] not in tested] == []


@pytest.mark.parametrize("file", ALERTS, ids=lambda file: file.stem)
def test_an_alert_says_what_is_wrong_how_bad_and_what_to_type_next(file: Path) -> None:
    alert = rule(file)
    assert alert["labels"]["severity"] in ("warning", "critical")
    assert "{{ $labels.namespace }}" in alert["annotations"]["summary"]
    commands = re.findall(r"invoke ([a-z-]+)", alert["annotations"]["description"])
    assert commands
    assert set(commands) <= set(tasks.namespace.task_names)
    assert read(file)["metadata"]["name"] == f"warren-{file.stem}"


def test_every_alert_file_is_applied() -> None:
    assert read(FOLDER / "alerts" / "kustomization.yaml")["resources"] == [file.name for file in ALERTS]


def test_dashboards_are_found_by_grafanas_sidecar() -> None:
    (generator,) = read(FOLDER / "kustomization.yaml")["configMapGenerator"]
    assert generator["files"] == [f"dashboards/{file.name}" for file in reversed(DASHBOARDS)]
    assert generator["options"]["labels"] == {"grafana_dashboard": "1"}
    assert [json.loads(file.read_text())["uid"] for file in DASHBOARDS] == [file.stem for file in DASHBOARDS]


def names(text: str) -> set[str]:
    """The series that a page of metrics has or may have."""
    found = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        found |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"} if kind == "histogram" else {name}
    return found


def test_the_monitor_exposes_every_metric_of_its_own_that_is_asked_for() -> None:
    text = Metrics(Status(), lambda: [], dict, dict).text().decode()
    assert {name for name in used() if name.startswith("warren_")} - names(text) == set()


def page(url: str, words: dict[str, Any]) -> str:
    with urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(words, doseq=True)}", timeout=30) as answer:
        return str(answer.read().decode())


@pytest.fixture(scope="module")
def broker_metrics() -> Iterator[str]:
    """What the two pages that the PodMonitor reads expose on a broker of the version that Kubernetes gets."""
    if reason := containers.missing("4.3"):
        pytest.skip(reason)
    containers.clean_up_with_ryuk_or_without()
    endpoints = read(FOLDER / "rabbitmq.yaml")["spec"]["podMetricsEndpoints"]
    # Ready is who lists queues; the port opens before.
    ready = HttpWaitStrategy(15692, "/metrics").for_response_predicate(lambda text: "rabbitmq_queues " in text)
    broker = DockerContainer(containers.image("4.3")).with_exposed_ports(15692)
    with broker.waiting_for(ready.with_startup_timeout(120)) as running:
        site = f"http://{running.get_container_host_ip()}:{running.get_exposed_port(15692)}"
        pages = [page(site + one["path"], {**one.get("params", {}), "vhost": "/"}) for one in endpoints]
    yield "\n".join(pages)


def test_the_broker_exposes_every_metric_that_is_asked_for(broker_metrics: str) -> None:
    assert {name for name in used() if name.startswith(("rabbitmq_", "erlang_"))} - names(broker_metrics) == set()


@pytest.mark.parametrize(
    ("queue", "kept"),
    [
        ("default", True),
        ("dead_letters", True),
        ("celery.events", True),
        ("celery_delayed_27", False),
        ("celery@worker-5d6-x.celery.pidbox", False),
        ("celeryev.f7f669d1-f2c0-4aea-b727-9fd0c1f5ab28", False),
        ("f7f669d1-f2c0-4aea-b727-9fd0c1f5ab28", False),
    ],
)
def test_queues_of_single_connections_make_no_series(queue: str, kept: bool) -> None:
    _, detailed = read(FOLDER / "rabbitmq.yaml")["spec"]["podMetricsEndpoints"]
    (dropped,) = [one["regex"] for one in detailed["metricRelabelings"] if one["action"] == "drop"]
    assert (re.fullmatch(dropped, queue) is None) is kept
