"""Free ports for what the tests start, which no other process of the tests is given meanwhile."""

from __future__ import annotations

import itertools
import os
import random
import socket

import pytest

from deploy.ports import free

__all__ = ["free_port", "needs_ipv6"]

# Below those that Linux gives to connections by itself (32768 and up), and to NodePorts of a cluster (30000 and up): a port
# is chosen long before its server listens on it. Each process of the tests has a thousand of them to itself.
FIRST = 12000
SHARE = 1000
SHARES = 16

ours = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % SHARES
# Not from the first one on: another run of the tests may be at it.
offsets = itertools.count(random.randrange(SHARE))


def free_port(host: str = "127.0.0.1") -> int:
    """A port of ``host`` that nothing listens on, and that was not given before."""
    return next(port for offset in offsets if free(host, port := FIRST + ours * SHARE + offset % SHARE))


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this host has no IPv6")
