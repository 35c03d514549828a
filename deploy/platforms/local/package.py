"""RabbitMQ's package on this host: where its scripts are, and whether it is new enough."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from deploy import debian
from deploy.debian import installable
from deploy.errors import ExitCode, WarrenError
from deploy.run import Runner

__all__ = ["ensure", "find", "installable", "missing", "require_supported"]

PACKAGE = "rabbitmq-server"

# Dead-lettering at least once and the stream settings in use came with it.
OLDEST = (3, 10)

# Distributions put wrappers on the PATH that work for root and the user rabbitmq only, and start the system's node.
# These are the scripts behind them.
PACKAGED = "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"
OTHERS = ("/usr/lib/rabbitmq/bin/rabbitmq-server",)


def version(scripts: Path) -> tuple[int, int] | None:
    """The version of the RabbitMQ whose scripts stand in ``scripts``, where its files tell."""
    names = [scripts.parent.name, *(plugin.name for plugin in (scripts.parent / "plugins").glob("rabbit-*"))]
    for name in names:
        found = re.match(r"(?:rabbitmq_server|rabbit)-(\d+)\.(\d+)", name)
        if found:
            return int(found[1]), int(found[2])
    return None


def find(root: Path = Path("/")) -> Path | None:
    """The folder of RabbitMQ's own scripts, or None where it is not installed."""
    packaged = [path.parent for path in root.glob(PACKAGED.lstrip("/"))]
    if packaged:
        return max(packaged, key=lambda scripts: version(scripts) or (0, 0))
    for other in OTHERS:
        if (path := root / other.lstrip("/")).exists():
            return path.resolve().parent
    on_path = shutil.which("rabbitmq-server")
    return Path(on_path).resolve().parent if on_path else None


def require_supported(scripts: Path) -> None:
    """Raises WarrenError where the RabbitMQ in ``scripts`` is too old."""
    found = version(scripts)
    if found and found < OLDEST:
        raise WarrenError(
            f"RabbitMQ {found[0]}.{found[1]} is installed here, and {OLDEST[0]}.{OLDEST[1]} is the oldest that works; "
            "install a newer one (rabbitmq.com/docs/download), or use Docker with --platform compose",
            ExitCode.PLATFORM,
        )


def missing() -> WarrenError:
    return debian.missing(PACKAGE)


def ensure(runner: Runner) -> Path | None:
    """The folder of RabbitMQ's scripts; the package is installed where it is missing and we may.

    None only where ``runner`` is dry and it would have been installed.

    Raises:
        WarrenError: it is missing, with the command to type.
    """
    scripts = find()
    if scripts is None:
        debian.ensure(PACKAGE, "rabbitmq-server", runner)
        scripts = find()
    if scripts is None:
        if runner.dry:
            return None
        raise WarrenError(
            f"{PACKAGE} is installed, but its scripts are not found; see dpkg -L {PACKAGE}", ExitCode.PLATFORM
        )
    require_supported(scripts)
    return scripts
