"""The monitor's HTTP API, asked with the key of this deployment."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from deploy.errors import ExitCode, WarrenError, reason
from deploy.platforms.base import Endpoints
from deploy.secrets import Secrets

__all__ = ["behind", "get", "post", "task"]

# Seconds. It answers in hundredths of one, and cuts a search through a million tasks short itself.
PATIENCE = 10


def get(
    endpoints: Endpoints,
    secrets: Secrets,
    path: str,
    values: Mapping[str, str | int | None] | None = None,
    *,
    patience: float = PATIENCE,
    missing: Any = None,
) -> Any:
    """What the monitor answers at ``path``, decoded; ``missing`` where there is no such thing.

    Those of ``values`` that are None or empty are left out of the question.

    Raises:
        WarrenError: it can't be reached, refuses the key or answers as no monitor would (exit code 10), or it says that a
            value is wrong (2).
    """
    asked = {name: value for name, value in (values or {}).items() if value not in (None, "")}
    status, body = answer(
        endpoints, f"{path}?{urlencode(asked)}" if asked else path, patience, secrets["monitor-token"]
    )
    if status == 404 and missing is not None:
        return missing
    decoded, said = understood(endpoints, status, body, path)
    if said is None:
        return decoded
    if status == 400:
        raise WarrenError(said, ExitCode.USAGE)
    raise WarrenError(f"{place(endpoints)} can't answer ({said}); see `invoke logs monitor`", ExitCode.MONITOR)


# What the monitor answers where it is well, and what was asked for can't be done: with this task, or with the broker.
REFUSALS = {
    404: ExitCode.UNKNOWN,
    409: ExitCode.FAILED,
    502: ExitCode.BROKER,
    503: ExitCode.BROKER,
    504: ExitCode.BROKER,
}


def post(endpoints: Endpoints, secrets: Secrets, path: str, values: Mapping[str, bool] | None = None) -> Any:
    """Has the monitor do something, and what it answers, decoded.

    Raises:
        WarrenError: it refuses (exit code 1 for this task, 5 for want of the broker, 7 for an unknown task), can't be
            reached or refuses the key (10).
    """
    body = json.dumps(values or {}).encode()
    status, text = answer(endpoints, path, PATIENCE, secrets["monitor-token"], body)
    decoded, said = understood(endpoints, status, text, path)
    if said is None:
        return decoded
    raise WarrenError(said, REFUSALS.get(status, ExitCode.MONITOR))


def understood(endpoints: Endpoints, status: int, body: bytes, path: str) -> tuple[Any, str | None]:
    """What was answered, decoded, or in words why it was not.

    Raises:
        WarrenError: the key is refused, or no monitor would answer that (exit code 10).
    """
    where = place(endpoints)
    if status == 401:
        raise WarrenError(
            f"{where} refuses the key {endpoints.refused('monitor-token', 'monitor')}",
            ExitCode.MONITOR,
        )
    try:
        decoded = json.loads(body)
    except ValueError:
        decoded = None
    if status == 200 and decoded is not None:
        return decoded, None
    said = decoded.get("error") if isinstance(decoded, dict) else None
    if not said:
        raise WarrenError(
            f"{where} answers {status} to {path}, not as the monitor does; is another program on WARREN_MONITOR_PORT?",
            ExitCode.MONITOR,
        )
    return None, str(said)


def task(endpoints: Endpoints, secrets: Secrets, id_: str) -> dict[str, Any] | None:
    """All that the monitor knows of a task; None if it does not know it.

    Raises:
        WarrenError: as :func:`get`.
    """
    found: dict[str, Any] = get(endpoints, secrets, f"/tasks/{quote(id_, safe='')}", missing={})
    return found or None


def behind(endpoints: Endpoints, patience: float = PATIENCE) -> str | None:
    """Why the monitor's answers are not those of now, in its own words; None if they are."""
    status, body = answer(endpoints, "/readyz", patience)
    if status == 200:
        return None
    said = body.decode(errors="replace").strip()
    try:
        decoded = json.loads(said)
    except ValueError:
        return said
    return str(decoded.get("error", said)) if isinstance(decoded, dict) else said


def answer(
    endpoints: Endpoints, target: str, patience: float, token: str = "", sent: bytes | None = None
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(endpoints.host, endpoints.monitor, timeout=patience)
    headers = {"Accept": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        if sent is None:
            connection.request("GET", target, headers=headers)
        else:
            connection.request("POST", target, sent, {**headers, "Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise WarrenError(
            f"{place(endpoints)} does not answer ({reason(error)}); `invoke status` shows what runs, `invoke up` starts it",
            ExitCode.MONITOR,
        ) from error
    finally:
        connection.close()


def place(endpoints: Endpoints) -> str:
    return f"the monitor at {endpoints.host}:{endpoints.monitor}"
