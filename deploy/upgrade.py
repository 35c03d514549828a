"""Whether a broker can be given another image: refused is what would leave one that does not start (docs/upgrade.md)."""

from __future__ import annotations

import re

from deploy.errors import ExitCode, WarrenError

__all__ = ["require", "version"]

# The tag of an image, as `rabbitmq:4.3-management` or `registry.example:5000/rabbitmq:4.3.1@sha256:...`.
TAG = re.compile(r":(\d+)\.(\d+)[^/:]*(?:@.*)?$")


def version(image: str) -> tuple[int, int] | None:
    """Which RabbitMQ ``image`` is, as its tag says; None where it does not."""
    found = TAG.search(image)
    return (int(found[1]), int(found[2])) if found else None


def require(running: str, wanted: str, nodes: int = 1) -> None:
    """Raises WarrenError where ``wanted`` can't take the place of the image ``running``, on each of ``nodes`` in turn.

    Images whose tags don't say a version are let through.
    """
    before, after = version(running), version(wanted)
    if before is None or after is None or before == after:
        return
    old, new = (f"{number[0]}.{number[1]}" for number in (before, after))
    if after < before:
        raise WarrenError(
            f"the broker is RabbitMQ {old}, and {new} does not start on what that has written; "
            f"name {running} in WARREN_RABBITMQ_IMAGE, or begin anew: `invoke down --volumes`",
            ExitCode.REFUSED,
        )
    if nodes > 1 and (after[0] != before[0] or after[1] - before[1] > 1):
        raise WarrenError(
            f"the broker's {nodes} nodes are RabbitMQ {old}; they are replaced one by one, and work together with the next "
            f"version only, not with {new}: take each version between (docs/upgrade.md)",
            ExitCode.REFUSED,
        )
