"""The services of the stack and the environment of each: only what it needs, with its own broker user."""

from __future__ import annotations

from urllib.parse import quote

from deploy.definitions import VHOST
from deploy.platforms.base import in_url
from deploy.secrets import Secrets
from deploy.settings import Settings

__all__ = ["FLOWER_LOGIN", "SERVICES", "broker_url", "environments"]

# In the order in which they start.
SERVICES = ("rabbitmq", "worker", "monitor", "flower")

FLOWER_LOGIN = "operator"


def broker_url(role: str, secrets: Secrets, host: str, port: int) -> str:
    return f"amqp://{role}:{quote(secrets[role], safe='')}@{in_url(host)}:{port}/{VHOST}"


def environments(
    settings: Settings, secrets: Secrets, host: str, port: int, management_port: int
) -> dict[str, dict[str, str]]:
    """Environment variables by service, for a broker that the services reach at ``host`` and the two ports."""

    def common(role: str) -> dict[str, str]:
        return {
            "CELERY_BROKER_URL": broker_url(role, secrets, host, port),
            "CELERY_RESULT_BACKEND": settings.result_backend,
            "CELERY_APP": settings.celery_app,
            "WARREN_QUEUES": ",".join(settings.queues),
            "WARREN_TASK_TIME_LIMIT": str(settings.task_time_limit),
            "WARREN_LOG_LEVEL": settings.log_level,
        }

    return {
        "worker": {**common("worker"), "WARREN_WORKER_CONCURRENCY": settings.worker_concurrency},
        "monitor": {**common("monitor"), "MONITOR_FORMAT": settings.monitor_format},
        "flower": {
            **common("flower"),
            "FLOWER_PERSISTENT": "true",
            "FLOWER_DB": "/data/flower",
            # Milliseconds. Flower's default saves at a clean exit only, so a kill would lose everything.
            "FLOWER_STATE_SAVE_INTERVAL": "10000",
            # A save of 20,000 tasks holds Flower up for half a second; its default of 100,000 for two.
            "FLOWER_MAX_TASKS": "20000",
            # Workers send events anyway; asking each of them to every 5 s only costs.
            "FLOWER_ENABLE_EVENTS": "false",
            "FLOWER_BASIC_AUTH": f"{FLOWER_LOGIN}:{secrets['flower-login']}",
            "FLOWER_COOKIE_SECRET": secrets["flower-cookie"],
            "FLOWER_BROKER_API": (
                f"http://flower:{quote(secrets['flower'], safe='')}@{in_url(host)}:{management_port}/api/"
            ),
            "FLOWER_ADDRESS": "0.0.0.0",  # noqa: S104 - inside its container; the published port is bound to WARREN_BIND
            "FLOWER_PORT": "5555",
        },
    }
