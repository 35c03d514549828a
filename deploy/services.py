"""The services of the stack and the environment of each: only what it needs, with its own broker user."""

from __future__ import annotations

from urllib.parse import quote

from app.environment import as_text
from app.pools import DEFAULT, POOLS, Pool
from deploy.definitions import VHOST
from deploy.errors import ExitCode, WarrenError
from deploy.platforms.base import in_url
from deploy.secrets import Secrets
from deploy.settings import Settings, of_pools

__all__ = [
    "EDGE",
    "FLOWER_LOGIN",
    "MONITOR_LOGINS",
    "SERVICES",
    "broker_url",
    "environments",
    "is_worker",
    "kind",
    "known_to_all",
    "not_up_yet",
    "of_its_workers",
    "of_pool",
    "services",
    "worker_services",
]

# In the order in which they start; where the settings name further pools, those follow the worker.
SERVICES = ("rabbitmq", "worker", "monitor", "flower")

# One more, on Compose, where the user wants it.
EDGE = "edge"

FLOWER_LOGIN = "operator"

# Who may log in to the monitor's page; their passwords are the secrets monitor-operator and monitor-viewer.
MONITOR_LOGINS = ("operator", "viewer")

# What the user sets of the monitor, as the fields of the settings.
MONITOR_SETTINGS = (
    *("monitor_format", "monitor_keep_days", "monitor_keep_tasks", "monitor_handlers"),
    *("monitor_webhook_url", "monitor_webhook_events", "monitor_command", "monitor_command_events"),
    *("monitor_unclaimed_after", "monitor_stalled_factor", "monitor_silent_after", "monitor_url_prefix"),
)

# What the user sets of Flower, likewise.
FLOWER_SETTINGS = (
    *("flower_max_tasks", "flower_purge_offline_workers", "flower_ready_seconds", "flower_deaf_seconds"),
    *("flower_read_only", "flower_url_prefix"),
)
FLOWER_OAUTH = (
    *("flower_auth_provider", "flower_auth", "flower_oauth2_key", "flower_oauth2_secret", "flower_oauth2_redirect_uri"),
    *("flower_github_oauth_domain", "flower_gitlab_oauth_domain", "flower_gitlab_auth_allowed_groups"),
    *("flower_gitlab_min_access_level", "flower_oauth2_okta_base_url"),
)


def flower_login(settings: Settings, secrets: Secrets) -> dict[str, str]:
    """Who Flower lets in: whoever the provider knows where one is set, and the operator by password where none is."""
    if not settings.flower_auth_provider:
        return {"FLOWER_BASIC_AUTH": f"{FLOWER_LOGIN}:{secrets['flower-login']}"}
    return {name.upper(): value for name in FLOWER_OAUTH if (value := getattr(settings, name))}


def of_pool(pool: Pool | str) -> str:
    """The service of a pool's workers."""
    name = pool if isinstance(pool, str) else pool.name
    return "worker" if name == DEFAULT else f"worker-{name}"


def of_its_workers(pool: Pool) -> dict[str, str]:
    """The environment variables that only workers of ``pool`` have, beside those of all workers."""
    return {} if pool.name == DEFAULT else {"WARREN_POOL": pool.name, "WARREN_WORKER_CONCURRENCY": pool.concurrency}


def known_to_all(settings: Settings) -> dict[str, str]:
    """The variables of pools that every service has: their queues and time limits.

    Another number of workers, or of the tasks that one of them runs at a time, would else start everybody anew.
    """
    return {
        name: value for name, value in of_pools(settings).items() if not name.endswith(("_WORKERS", "_CONCURRENCY"))
    }


def is_worker(service: str) -> bool:
    """Whether ``service`` is the workers of a pool, also of one that the settings do not name any more."""
    return kind(service) == "worker"


def kind(service: str) -> str:
    """The one of SERVICES that ``service`` is like."""
    return "worker" if service.startswith("worker-") else service


def nothing_runs(place: str = "") -> WarrenError:
    """The error where a command needs a stack that is up; ``place`` says where there is none."""
    return WarrenError(f"{place}{': ' if place else ''}nothing runs; `invoke up` starts the stack", ExitCode.FAILED)


def not_up_yet(service: str) -> WarrenError:
    """The error where workers of a pool are to change whose queues the broker does not have."""
    pool = service.removeprefix("worker-")
    return WarrenError(f"the pool {pool} is not up yet; `invoke up` makes its queues and starts it", ExitCode.FAILED)


def worker_services(settings: Settings) -> dict[str, Pool]:
    """The services of all pools, the default one first."""
    return {of_pool(pool): pool for pool in settings.every_pool}


def services(settings: Settings) -> tuple[str, ...]:
    """All services: those of SERVICES, where the other pools follow the worker, and the edge if the user wants it."""
    workers = tuple(worker_services(settings))
    always = tuple(one for service in SERVICES for one in (workers if service == "worker" else (service,)))
    return (*always, EDGE) if settings.edge == "on" else always


def broker_url(role: str, secrets: Secrets, host: str, port: int) -> str:
    return f"amqp://{role}:{quote(secrets[role], safe='')}@{in_url(host)}:{port}/{VHOST}"


def environments(
    settings: Settings, secrets: Secrets, host: str, port: int, management_port: int
) -> dict[str, dict[str, str]]:
    """Environment variables by service, for a broker that the services reach at ``host`` and the two ports.

    Workers of all pools have those of ``worker``, and then those of :func:`of_its_workers`.
    """

    pools = known_to_all(settings)
    if pools:
        pools = {POOLS: as_text(settings.pools), **pools}

    def common(role: str) -> dict[str, str]:
        return {
            "CELERY_BROKER_URL": broker_url(role, secrets, host, port),
            "CELERY_RESULT_BACKEND": settings.result_backend,
            "CELERY_APP": settings.celery_app,
            "WARREN_QUEUES": ",".join(settings.queues),
            "WARREN_TASK_TIME_LIMIT": str(settings.task_time_limit),
            **pools,
            "WARREN_LOG_LEVEL": settings.log_level,
        }

    return {
        "worker": {
            **common("worker"),
            "WARREN_WORKER_CONCURRENCY": settings.worker_concurrency,
            "WARREN_REVOKES_MAX_AGE": settings.revokes_max_age,
        },
        "monitor": {
            **common("monitor"),
            **{name.upper(): as_text(getattr(settings, name)) for name in MONITOR_SETTINGS},
            "MONITOR_ADDRESS": "0.0.0.0",  # noqa: S104 - inside its container, as Flower's below
            "MONITOR_PORT": "5556",
            "MONITOR_TOKEN": secrets["monitor-token"],
            "MONITOR_OPERATOR_PASSWORD": secrets["monitor-operator"],
            "MONITOR_VIEWER_PASSWORD": secrets["monitor-viewer"],
            "MONITOR_COOKIE_SECRET": secrets["monitor-cookie"],
            "MONITOR_WEBHOOK_KEY": secrets["monitor-webhook"],
            # For who is logged in as an operator: revoke as ops, send again as a producer. The monitor itself only reads.
            "MONITOR_OPS_URL": broker_url("ops", secrets, host, port),
            "MONITOR_PRODUCER_URL": broker_url("producer", secrets, host, port),
        },
        "flower": {
            **common("flower"),
            **{name.upper(): as_text(getattr(settings, name)) for name in FLOWER_SETTINGS},
            **flower_login(settings, secrets),
            "FLOWER_PERSISTENT": "true",
            "FLOWER_DB": "/data/flower",
            # Milliseconds. A kill loses nothing: the next start takes from the event log what was not saved.
            "FLOWER_STATE_SAVE_INTERVAL": "30000",
            "FLOWER_LOGGING": settings.log_level,
            # Workers send events anyway; asking each of them to every 5 s only costs.
            "FLOWER_ENABLE_EVENTS": "false",
            "FLOWER_COOKIE_SECRET": secrets["flower-cookie"],
            "FLOWER_METRICS_TOKEN": secrets["flower-metrics"],
            "FLOWER_BROKER_API": (
                f"http://flower:{quote(secrets['flower'], safe='')}@{in_url(host)}:{management_port}/api/"
            ),
            "FLOWER_ADDRESS": "0.0.0.0",  # noqa: S104 - inside its container; the published port is bound to WARREN_BIND
            "FLOWER_PORT": "5555",
        },
    }
