"""Which image a broker can get after which."""

from __future__ import annotations

import pytest

from deploy.errors import ExitCode, WarrenError
from deploy.platforms.compose import containers
from deploy.upgrade import require, version


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("rabbitmq:4.3-management", (4, 3)),
        ("rabbitmq:4.10.2", (4, 10)),
        ("registry.example:5000/team/rabbitmq:4.0-management@sha256:0a", (4, 0)),
        ("registry.example:5000/rabbitmq", None),
        ("rabbitmq", None),
        ("rabbitmq:latest", None),
        ("rabbitmq:4-management", None),
        ("", None),
    ],
)
def test_the_tag_says_the_version(image: str, said: tuple[int, int] | None) -> None:
    assert version(image) == said


@pytest.mark.parametrize(
    ("running", "wanted", "nodes"),
    [
        ("rabbitmq:4.3-management", "rabbitmq:4.3-management", 3),
        ("rabbitmq:4.3.1", "registry.example/rabbitmq:4.3.0", 3),
        ("rabbitmq:4.0-management", "rabbitmq:4.3-management", 1),
        ("rabbitmq:4.2", "rabbitmq:4.3", 3),
        ("ours:latest", "rabbitmq:4.0", 3),
        ("rabbitmq:4.3", "ours:latest", 3),
    ],
)
def test_what_works_is_let_through(running: str, wanted: str, nodes: int) -> None:
    require(running, wanted, nodes)


@pytest.mark.parametrize(
    ("running", "wanted", "nodes", "said"),
    [
        (
            "rabbitmq:4.3-management",
            "rabbitmq:4.0-management",
            1,
            "4.0 does not start .*; name rabbitmq:4.3",
        ),
        ("rabbitmq:4.10", "rabbitmq:4.9", 3, "4.9 does not start"),
        ("rabbitmq:4.1", "rabbitmq:4.3", 3, "take each version between"),
        ("rabbitmq:4.3", "rabbitmq:5.0", 3, "take each version between"),
    ],
)
def test_what_would_leave_a_broker_that_does_not_start_is_refused(
    running: str, wanted: str, nodes: int, said: str
) -> None:
    with pytest.raises(WarrenError, match=said) as refused:
        require(running, wanted, nodes)
    assert refused.value.code is ExitCode.REFUSED


def test_the_brokers_image_is_found_among_the_containers() -> None:
    listed = [
        {"Labels": "com.docker.compose.service=worker", "Image": "warren-app"},
        {"Labels": "com.docker.compose.service=rabbitmq", "Image": "rabbitmq:4.0-management"},
    ]
    assert containers.broker_image(listed) == "rabbitmq:4.0-management"
    assert containers.broker_image([]) == ""
