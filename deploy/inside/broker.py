"""Writes what a broker pod's RabbitMQ reads at its start: settings, plugins, definitions with password hashes, the cookie.

    python3 -m deploy.inside.broker CONFIG DATA

The pod's first container runs it, with the settings as environment variables and the Secret mounted at WARREN_SECRETS, so
that a broker on Kubernetes gets the same definitions as one on Compose, from the same files.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

from app.environment import Mistake, read
from deploy.definitions import FOLDER, broker_settings, definitions
from deploy.secrets import KEDA, ROLES, Secrets
from deploy.settings import Settings

__all__ = ["main", "write"]

# As a broker sees these files: CONFIG is mounted there.
HOME = "/etc/rabbitmq"

# Of a URL (RFC 3986).
UNQUOTED = r"[A-Za-z0-9._~-]+"

PLUGINS: tuple[str, ...] = ("rabbitmq_management", "rabbitmq_prometheus")

# The first pod of the StatefulSet forms the cluster, by its name, and the others join it: no node has to ask the API server.
# RabbitMQ 4.0's would: with that version a node is alone, and is told nothing of others.
DISCOVERY = "rabbitmq_peer_discovery_k8s"
CLUSTER = """\
cluster_formation.peer_discovery_backend = k8s
cluster_formation.target_cluster_size_hint = {nodes}
"""


def write(settings: Settings, secrets: Secrets, nodes: int, config: Path, data: Path) -> None:
    """Fills ``config``, the broker's /etc/rabbitmq, and puts the cookie into ``data``, its home."""
    conf = config / "conf.d"
    conf.mkdir(exist_ok=True)
    for file in (FOLDER / "conf.d").glob("*.conf"):
        (conf / file.name).write_text(file.read_text())
    (conf / "25-definitions.conf").write_text(f"load_definitions = {HOME}/definitions.json\n")
    (conf / "30-settings.conf").write_text(broker_settings(settings))
    plugins: tuple[str, ...] = PLUGINS
    if nodes > 1:
        plugins = (*PLUGINS, DISCOVERY)
        (conf / "40-cluster.conf").write_text(CLUSTER.format(nodes=nodes))
    (config / "enabled_plugins").write_text(f"[{','.join(plugins)}].\n")
    private(config / "definitions.json", json.dumps(definitions(settings, secrets)))
    private(data / ".erlang.cookie", secrets["erlang-cookie"])


def written(file: Path, of: str = "warren") -> str:
    """What a key of the Secret ``of`` holds.

    Raises:
        Mistake: it is no text.
    """
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        line = f"{file.name} of the Secret {of} is no text (UTF-8); mend it, then delete the pods of the stack"
        raise Mistake([line]) from None


def password(file: Path) -> str:
    """What other pods put into addresses as it is.

    Raises:
        Mistake: an address would not be one any more, or be one with another password.
    """
    if re.fullmatch(UNQUOTED, found := written(file)):
        return found
    has = "ends with a line break" if re.fullmatch(UNQUOTED, found.strip()) else "is empty, or has other characters"
    raise Mistake(
        [
            f"{file.name} of the Secret warren {has}: a password takes letters, digits, - and _; "
            "mend it, then delete the pods of the stack"
        ]
    )


def private(file: Path, text: str) -> None:
    # Erlang refuses a cookie that others may read, and an older one may not be written to.
    file.unlink(missing_ok=True)
    file.touch(0o400 | 0o200)
    file.write_text(text)
    file.chmod(0o400)


def main(arguments: list[str]) -> int:
    folder = Path(os.environ["WARREN_SECRETS"])
    try:
        settings = read(Settings, os.environ)
        secrets = Secrets({name: password(folder / name) for name in ROLES})
        secrets["erlang-cookie"] = written(folder / "erlang-cookie").strip()
        # Beside it, where the component keda mounts its own.
        if (file := folder.with_name(f"{folder.name}-keda") / "password").exists():
            secrets[KEDA] = written(file, "warren-keda").strip()
    except (Mistake, OSError) as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)  # noqa: T201
        return 3
    write(settings, secrets, int(os.environ["WARREN_RABBITMQ_NODES"]), Path(arguments[0]), Path(arguments[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
