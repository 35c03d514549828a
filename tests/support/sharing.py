"""Which tests stay together, and which begin first, where several run at a time.

What shares a stack or a cluster stays together, in its order; the tests of a file share its fixtures. pytest-xdist has marks
for that, which its 3.8 does not see with pytest 9.2; so it is told by its scheduler.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["group", "rank", "scheduler"]

BROKER = re.compile(r"\[.*?rabbitmq-(4\.3|4\.0|local)\b")
PLATFORM = re.compile(r"\[(?:[^]]*-)?(compose|local)\b")

# In the order in which they begin: first what takes longest, so that none is left alone at the end. Then broker by broker,
# since each process starts the one it needs.
FIRST = ["kubernetes", "compose", "local", "e2e", "4.3", "4.0", "rabbitmq local"]


def group(test: str) -> str:
    """What the test of this id must stay together with."""
    path = test.partition("::")[0]
    folder, file = path.split("/")[-2:]
    if folder == "e2e":
        # Nodes are drained and lose their power: nothing else may run on the cluster then.
        if "kubernetes" in file:
            return "kubernetes"
        # A stack for each platform, which all files share.
        found = PLATFORM.search(test)
        return found[1] if found else path
    found = BROKER.search(test) if folder == "integration" else None
    return f"{found[1]} {path}" if found else path


def rank(test: str) -> int:
    """When it begins: those with a smaller number before."""
    first = group(test).partition(" ")[0]
    if "/e2e/" in test.partition("::")[0]:
        return FIRST.index(first if first in FIRST else "e2e")
    if first == "local":
        first = "rabbitmq local"
    return FIRST.index(first) if first in FIRST else len(FIRST)


def scheduler(config: Any, log: Any) -> Any:
    """pytest-xdist's, which gives out groups."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    return Groups(config, log)
