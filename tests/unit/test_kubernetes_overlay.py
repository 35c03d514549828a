"""deploy/platforms/kubernetes/overlay.py: what .env says, as kustomize takes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.pools import Pool
from deploy.errors import ExitCode, WarrenError
from deploy.paths import ROOT
from deploy.platforms.kubernetes import overlay
from deploy.services import FLOWER_OAUTH, FLOWER_SETTINGS, MONITOR_SETTINGS
from deploy.settings import Settings

DEV = ROOT / "k8s" / "overlays" / "dev"
HEAVY = Pool(name="heavy", queues=("video", "audio"), time_limit=600, concurrency="1", workers=3)


def written(settings: Settings, scaled: Any = None) -> dict[str, Any]:
    folder = overlay.write(settings, "warren-app:0123", DEV, scaled or {})
    made: dict[str, Any] = json.loads((folder / "kustomization.yaml").read_text())
    return made


def patches(made: dict[str, Any]) -> dict[str, Any]:
    assert all(one["target"]["labelSelector"].endswith(f"/name={one['target']['name']}") for one in made["patches"])
    return {one["target"]["name"]: json.loads(one["patch"])["spec"] for one in made["patches"]}


def test_the_defaults_change_only_namespace_and_our_own_image(home: Path) -> None:
    made = written(Settings())
    assert made["namespace"] == "warren"
    assert (overlay.FOLDER / made["resources"][0]).resolve() == DEV
    # What the overlay pins of others is its own: a broker's version above all.
    assert made["images"] == [{"name": "warren-app", "newName": "warren-app", "newTag": "0123"}]
    assert made["configMapGenerator"] == made["patches"] == made["secretGenerator"] == []


def test_images_that_the_settings_name_are_theirs(home: Path) -> None:
    made = written(Settings(rabbitmq_image="registry.example/rabbitmq:4.2", python_image="python@sha256:0123"))
    assert made["images"][1:] == [
        {"name": "rabbitmq", "newName": "registry.example/rabbitmq", "newTag": "4.2"},
        {"name": "python", "newName": "python", "digest": "sha256:0123"},
    ]


def test_a_setting_goes_into_the_config_map_that_has_it(home: Path) -> None:
    made = written(Settings(queues=("a", "b"), delivery_limit=7, log_level="debug", monitor_keep_days=3))
    assert {one["name"]: one["literals"] for one in made["configMapGenerator"]} == {
        "warren-tasks": ['WARREN_QUEUES="a,b"'],
        "warren-broker": ['WARREN_DELIVERY_LIMIT="7"'],
        "warren-app": ['WARREN_LOG_LEVEL="debug"'],
        "warren-monitor": ['MONITOR_KEEP_DAYS="3"'],
    }
    assert {one["behavior"] for one in made["configMapGenerator"]} == {"merge"}


@pytest.mark.parametrize(
    "backend", ["redis://:hunter2@redis/0", "redis://redis/0?password=hunter2", "azureblockblob://AccountKey=hunter2=="]
)
def test_a_setting_that_holds_a_password_goes_into_a_secret(home: Path, backend: str) -> None:
    webhook = "https://hooks.example/services/T0/B0"
    made = written(Settings(result_backend=backend, monitor_webhook_url=webhook, log_level="debug"))
    assert made["secretGenerator"] == [
        {
            "name": "private-settings",
            "literals": [f'CELERY_RESULT_BACKEND="{backend}"', f'MONITOR_WEBHOOK_URL="{webhook}"'],
        }
    ]
    assert made["configMapGenerator"] == [
        {"name": "warren-app", "behavior": "merge", "literals": ['WARREN_LOG_LEVEL="debug"']}
    ]
    made = written(Settings(result_backend="redis://redis/0"))
    assert made["secretGenerator"] == []
    assert made["configMapGenerator"][0]["literals"] == ['CELERY_RESULT_BACKEND="redis://redis/0"']


def test_the_longest_task_and_the_brokers_memory_reach_their_pods(home: Path) -> None:
    made = written(Settings(task_time_limit=1000, rabbitmq_memory_mb=2048, project="shop"))
    assert made["namespace"] == "shop"
    assert patches(made) == {
        "worker": {"template": {"spec": {"terminationGracePeriodSeconds": 1030}}},
        "rabbitmq": {
            "template": {
                "spec": {
                    "containers": [
                        {
                            "name": "rabbitmq",
                            "resources": {"requests": {"memory": "2048Mi"}, "limits": {"memory": "2048Mi"}},
                        }
                    ]
                }
            }
        },
    }


def test_tasks_at_a_time_are_told_to_their_own_workers_only(home: Path) -> None:
    made = written(Settings(worker_concurrency="4", task_time_limit=1000))
    (tasks,) = made["configMapGenerator"]
    assert tasks["literals"] == ['WARREN_TASK_TIME_LIMIT="1000"']
    own = {"name": "worker", "env": [{"name": "WARREN_WORKER_CONCURRENCY", "value": "4"}]}
    assert patches(made) == {
        "worker": {"template": {"spec": {"terminationGracePeriodSeconds": 1030, "containers": [own]}}}
    }


def test_a_login_elsewhere_reaches_flower_its_secret_as_one(home: Path) -> None:
    made = written(
        Settings(
            flower_auth_provider="flower.views.auth.GithubLoginHandler",
            flower_auth=".*@example.org",
            flower_oauth2_key="the-key",
            flower_oauth2_secret="hidden",
            flower_oauth2_redirect_uri="https://flower.example.org/login",
        )
    )
    (flower,) = made["configMapGenerator"]
    assert (flower["name"], sorted(flower["literals"])) == (
        "warren-flower",
        [
            'FLOWER_AUTH=".*@example.org"',
            'FLOWER_AUTH_PROVIDER="flower.views.auth.GithubLoginHandler"',
            'FLOWER_OAUTH2_KEY="the-key"',
            'FLOWER_OAUTH2_REDIRECT_URI="https://flower.example.org/login"',
        ],
    )
    assert made["secretGenerator"] == [{"name": "flower-oauth", "envs": ["flower-oauth.env"]}]
    file = overlay.FOLDER / "flower-oauth.env"
    assert (file.read_text(), oct(file.stat().st_mode & 0o777)) == ("FLOWER_OAUTH2_SECRET=hidden\n", "0o600")


def test_every_variable_of_the_pods_is_in_one_file_or_in_a_secret() -> None:
    names = [
        line.partition("=")[0]
        for file in sorted(overlay.CONFIG.glob("*.env"))
        for line in file.read_text().splitlines()
        if line[0] != "#"
    ]
    assert len(set(names)) == len(names)
    elsewhere = {"flower_oauth2_secret"}
    assert {name.upper() for name in (*MONITOR_SETTINGS, *FLOWER_SETTINGS, *FLOWER_OAUTH) if name not in elsewhere} <= {
        *names
    }


def test_the_number_of_workers_is_said_or_taken_away_or_left(home: Path) -> None:
    assert patches(written(Settings(), {"worker": 5})) == {"worker": {"replicas": 5}}
    assert patches(written(Settings(), {"worker": None, "worker-heavy": 2})) == {
        "worker": {"replicas": None},
        "worker-heavy": {"replicas": 2},
    }


def test_a_pool_is_the_workers_under_another_name(home: Path) -> None:
    made = written(Settings(pools=(HEAVY,)))
    assert made["resources"][1:] == ["worker-heavy"]
    (tasks,) = made["configMapGenerator"]
    # How many workers it has, and how many tasks each runs, is not there: another number would start all anew.
    assert (tasks["name"], sorted(tasks["literals"])) == (
        "warren-tasks",
        [
            'WARREN_POOLS="heavy"',
            'WARREN_POOL_HEAVY_QUEUES="video,audio"',
            'WARREN_POOL_HEAVY_TIME_LIMIT="600"',
        ],
    )
    pool = json.loads((overlay.FOLDER / "worker-heavy" / "kustomization.yaml").read_text())
    assert pool["nameSuffix"] == "-heavy"
    spec = patches(pool)["worker"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] == 630
    own = [{"name": "WARREN_POOL", "value": "heavy"}, {"name": "WARREN_WORKER_CONCURRENCY", "value": "1"}]
    assert spec["containers"] == [{"name": "worker", "env": own}]
    assert {"pairs": {"app.kubernetes.io/name": "worker-heavy"}, "includeSelectors": True} in pool["labels"]


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("warren-app:1", {"newName": "warren-app", "newTag": "1"}),
        ("registry.example:5000/team/app:1.2", {"newName": "registry.example:5000/team/app", "newTag": "1.2"}),
        ("registry.example:5000/app", {"newName": "registry.example:5000/app", "newTag": "latest"}),
        ("app@sha256:0123", {"newName": "app", "digest": "sha256:0123"}),
    ],
)
def test_an_image_in_kustomizes_parts(image: str, parts: dict[str, str]) -> None:
    assert overlay.parts(image) == parts


def test_overlays_are_ours_by_name_or_ones_own_by_path() -> None:
    assert overlay.base(Settings()) == DEV
    assert overlay.base(Settings(), "k8s/overlays/dev") == DEV
    assert overlay.base(Settings(kube_overlay=str(DEV))) == DEV
    with pytest.raises(WarrenError) as caught:
        overlay.base(Settings(kube_overlay="stage"))
    assert caught.value.code is ExitCode.SETTINGS
    assert "there is no overlay 'stage'; choose one of dev" in str(caught.value)


def test_variables_of_ones_own_go_along_as_on_the_other_platforms(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app.env").write_text(
        '# Ours.\nKEY=1\nexport NAME="x y"  # of us\nGREETING=h\u00e9 \U0001f600\nQUOTED=\'"q"\'\n'
    )
    monkeypatch.setattr("deploy.platforms.kubernetes.overlay.ROOT", tmp_path)
    monkeypatch.setattr("deploy.platforms.kubernetes.overlay.CONFIG", ROOT / "k8s" / "base" / "config")
    made = written(Settings())
    # kustomize takes the outer quotes away.
    assert made["secretGenerator"] == [
        {"name": "app-env", "literals": ['KEY="1"', 'NAME="x y"', 'GREETING="h\u00e9 \U0001f600"', 'QUOTED=""q""']}
    ]
    # kustomize reads YAML, which has no surrogates.
    assert "\\u" not in (overlay.FOLDER / "kustomization.yaml").read_text()
    (tmp_path / "app.env").write_text("no variable\n")
    with pytest.raises(WarrenError, match=r"line 1 of app\.env is not NAME=value") as caught:
        written(Settings())
    assert caught.value.code is ExitCode.SETTINGS
