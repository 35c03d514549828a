"""How the tests share a machine, where pytest-xdist runs several at a time: `invoke test` does.

What shares a stack or a cluster stays together, in its order; the tests of a file share its fixtures.
"""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not hasattr(config, "workerinput"):
        return
    # Those that take longest begin first, so that none is left alone at the end.
    items.sort(key=rank)
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))


def group(item: pytest.Item) -> str:
    """What ``item`` must stay together with."""
    folder, file = item.path.parent.name, item.path.stem
    if folder == "e2e":
        # Nodes are drained and lose their power: nothing else may run on the cluster then.
        if "kubernetes" in file:
            return "kubernetes"
        # A stack for each platform, which all files share.
        return parameter(item, "platform") or file
    return f"{parameter(item, 'broker')} {file}"


def rank(item: pytest.Item) -> int:
    folder = item.path.parent.name
    if folder == "e2e":
        return 0 if "kubernetes" in item.path.stem else 1
    # Broker by broker: each process starts the one it needs.
    return 2 + ["4.3", "4.0", "local", ""].index(parameter(item, "broker")) if folder == "integration" else 9


def parameter(item: pytest.Item, name: str) -> str:
    return (
        str(item.callspec.params.get(name, ""))
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        else ""
    )
