"""tests/support/sharing.py: which tests stay together where several run at a time."""

from __future__ import annotations

import pytest

from tests.support.sharing import group, rank

E2E = "tests/e2e"
IN_ORDER = [
    f"{E2E}/test_kubernetes.py::test_a",
    f"{E2E}/test_stack.py::test_a[compose]",
    f"{E2E}/test_docs.py::test_a[local-up-1]",
    f"{E2E}/test_push.py::test_a",
    "tests/integration/test_where.py::test_a[rabbitmq-4.3]",
    "tests/integration/test_where.py::test_a[1280-rabbitmq-4.0]",
    "tests/integration/test_where.py::test_a[rabbitmq-local-killed]",
    "tests/unit/test_settings.py::test_a[local]",
]


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        (IN_ORDER[0], f"{E2E}/test_kubernetes_production.py::test_b[1]", True),
        (IN_ORDER[1], f"{E2E}/test_edge.py::test_b[x-compose]", True),
        (IN_ORDER[1], IN_ORDER[2], False),
        (IN_ORDER[4], "tests/integration/test_where.py::test_b[rabbitmq-4.3-x]", True),
        (IN_ORDER[4], IN_ORDER[5], False),
        (IN_ORDER[4], "tests/integration/test_rights.py::test_a[rabbitmq-4.3]", False),
        (IN_ORDER[7], "tests/unit/test_settings.py::test_b", True),
        (IN_ORDER[7], IN_ORDER[2], False),
    ],
)
def test_what_shares_something_stays_together(one: str, other: str, together: bool) -> None:
    assert (group(one) == group(other)) is together


def test_what_takes_longest_begins_first() -> None:
    assert sorted([*IN_ORDER[3:], *IN_ORDER[:3]], key=rank) == IN_ORDER
