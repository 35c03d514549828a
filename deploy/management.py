"""RabbitMQ's management API, with the rights of one role."""

from __future__ import annotations

import base64
import http.client
import json
from typing import Any
from urllib.parse import quote

from deploy.definitions import VHOST
from deploy.errors import ExitCode, WarrenError, reason
from deploy.platforms.base import Endpoints
from deploy.secrets import Secrets

__all__ = ["alarms", "bound", "get", "queues"]

# Seconds. It answers in a few hundredths of one.
PATIENCE = 5


def get(endpoints: Endpoints, secrets: Secrets, path: str, role: str = "ops", missing: Any = None) -> Any:
    """What the API answers at ``/api/<path>``, decoded; ``missing`` where there is no such thing.

    Raises:
        WarrenError: it can't be reached, or refuses the login (both exit code 5).
    """
    login = base64.b64encode(f"{role}:{secrets[role]}".encode()).decode()
    connection = http.client.HTTPConnection(endpoints.host, endpoints.management, timeout=PATIENCE)
    where = f"the broker's management API at {endpoints.broker_api}"
    try:
        connection.request("GET", f"/api/{path}", headers={"Authorization": f"Basic {login}"})
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise WarrenError(
            f"{where} does not answer ({reason(error)}); {endpoints.no_answer}",
            ExitCode.BROKER,
        ) from error
    finally:
        connection.close()
    if response.status == 401:
        raise WarrenError(
            f"{where} refuses the password of user {role} {endpoints.refused(role, 'rabbitmq')}",
            ExitCode.BROKER,
        )
    if response.status == 404 and missing is not None:
        return missing
    # A health check that fails answers 503 and says why in the same form.
    if response.status != 200 and not (response.status == 503 and path.startswith("health/")):
        raise WarrenError(f"{where} answers {response.status} to /api/{path}", ExitCode.BROKER)
    try:
        return json.loads(body)
    except ValueError as error:
        raise WarrenError(
            f"{where} does not answer as RabbitMQ does; is another program on WARREN_MANAGEMENT_PORT?", ExitCode.BROKER
        ) from error


def queues(endpoints: Endpoints, secrets: Secrets) -> list[dict[str, Any]]:
    """The queues of Warren's virtual host."""
    answer = get(endpoints, secrets, f"queues/{quote(VHOST, safe='')}")
    return sorted(answer, key=lambda queue: queue["name"])


def bound(endpoints: Endpoints, secrets: Secrets, exchange: str) -> list[str]:
    """The names of the queues that are bound to an exchange now; none where there is no such exchange.

    The list of queues itself is a few seconds old on some versions; bindings are read afresh.
    """
    path = f"exchanges/{quote(VHOST, safe='')}/{quote(exchange, safe='')}/bindings/source"
    answer = get(endpoints, secrets, path, missing=[])
    return sorted({binding["destination"] for binding in answer if binding["destination_type"] == "queue"})


def alarms(endpoints: Endpoints, secrets: Secrets) -> list[str]:
    """The resources ("disk", "memory") for whose shortage the broker takes no messages now."""
    answer = get(endpoints, secrets, "health/checks/alarms")
    return sorted({alarm["resource"] for alarm in answer.get("alarms", [])})
