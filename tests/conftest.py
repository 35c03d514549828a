"""How the tests share a machine, where pytest-xdist runs several at a time: `invoke test` does."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.sharing import rank, scheduler


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: rank(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return scheduler(config, log)
