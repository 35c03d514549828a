"""Settings that the containers read. The deployment's settings (`deploy/settings.py`) include all of these."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, field

from app.environment import Variables, complaint, read
from app.event_types import TASK_TYPES, TYPES, WORKER_TYPES
from app.pools import DEFAULT, NAMES, POOLS, Pool
from app.pools import read as read_pools

__all__ = ["AppSettings", "from_environment"]

# No dots: a delayed task's binding is `#.<queue>`, so a queue `b` would also get what is meant for `a.b`.
QUEUE_NAMES = r"^[a-z][a-z0-9_-]{0,62}$"

# A password with other characters would end the name of the host, or be taken for its port.
AMQP = r"amqps?://([^\s/?#@]*@)?[^\s/?#@;]*(/[^\s?@;]*)?(\?[^\s@;]*)?"
AMQP_EXPECTED = "an amqp:// address (other characters than letters, digits, - and _ in its password are written as %2F)"

# Of a prefix: what needs no quoting.
URL_PATH = r"^/?[A-Za-z0-9._~/-]*$"

Queues = Annotated[
    tuple[Annotated[str, Meta(pattern=QUEUE_NAMES)], ...],
    Meta(
        min_length=1,
        title="a list of queue names, such as default,mail (a-z, 0-9, - and _; no dots)",
        examples=["video,reports"],
        extra={"list": True},
    ),
]
# At least 2: the soft limit, in whole seconds, comes before it.
Seconds = Annotated[
    int, Meta(ge=2, le=604_800, title="a number of seconds from 2 to 604800 (a week)", examples=["3600"])
]
Concurrency = Annotated[
    str,
    Meta(pattern=r"^(auto|[1-9][0-9]{0,3})$", title="auto or a number of processes from 1 to 9999", examples=["1"]),
]
Workers = Annotated[int, Meta(ge=0, le=1000, title="a number of workers from 0 to 1000", examples=["1"])]

# What the variables of a pool take.
OF_A_POOL = {"queues": Queues, "concurrency": Concurrency, "time_limit": Seconds, "workers": Workers}

# What the monitor tells of tasks and workers, as handlers are given it.
EVENT_TYPES = f"^({'|'.join(TYPES)})$"
EventTypes = Annotated[
    tuple[Annotated[str, Meta(pattern=EVENT_TYPES)], ...],
    Meta(
        min_length=1,
        title="a list of events: "
        + ", ".join((TASK_TYPES[0], *(one.removeprefix("task") for one in TASK_TYPES[1:]), *WORKER_TYPES)),
        extra={"list": True},
    ),
]
# What a login to Flower by OAuth needs, as fields.
OAUTH = ("auth_provider", "auth", "oauth2_key", "oauth2_secret", "oauth2_redirect_uri")
# What somebody would want to be woken for.
TROUBLE = ("task-failed", "task-unclaimed", "task-stalled", "task-orphaned")


class AppSettings(Variables, frozen=True, kw_only=True):
    """One field an environment variable; see ``.env.example`` for the same in words."""

    broker_url: Annotated[str, Meta(pattern=f"^{AMQP}(;{AMQP})*$", title=AMQP_EXPECTED)] = field(
        default="amqp://127.0.0.1:5672/warren", name="CELERY_BROKER_URL"
    )
    result_backend: Annotated[str, Meta(min_length=1, title="the URL of a Celery result backend")] = field(
        default="rpc://", name="CELERY_RESULT_BACKEND"
    )
    celery_app: Annotated[
        str,
        Meta(pattern=r"^[A-Za-z_][\w.]*(:[A-Za-z_][\w.]*)?$", title="the place of a Celery app, package.module:app"),
    ] = field(default="app", name="CELERY_APP")
    # Those of the default pool.
    queues: Queues = ("default",)
    task_time_limit: Seconds = 300
    worker_concurrency: Concurrency = "auto"
    # Beside the default pool; each has variables of its own, see app/pools.py.
    pools: Annotated[
        tuple[Pool, ...],
        Meta(
            title="a list of names of pools, such as heavy,quick (a-z and 0-9, at most 21 characters)",
            examples=["heavy"],
            extra={"written": Annotated[NAMES, Meta(extra={"list": True})]},
        ),
    ] = ()
    # The pool that this worker belongs to.
    pool: Annotated[str, Meta(title="the name of a pool")] = DEFAULT
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(title="one of debug, info, warning, error")
    ] = "info"
    health_dir: Annotated[str, Meta(min_length=1, title="a folder")] = "/tmp/warren"  # noqa: S108 - a tmpfs in containers
    revokes_max_age: Annotated[
        str, Meta(pattern=r"^[1-9][0-9]{0,5}[YMDhms]$", title="an age such as 7D, 12h or 30m")
    ] = "7D"
    # Whether the pages lead everybody to HTTPS of whom a proxy in front says that they came by HTTP.
    https_only: Annotated[bool, Meta(title="true or false")] = False
    monitor_format: Annotated[Literal["text", "json"], Meta(title="text or json")] = field(
        default="text", name="MONITOR_FORMAT"
    )
    monitor_dir: Annotated[str, Meta(min_length=1, title="a folder")] = field(default="/data", name="MONITOR_DIR")
    monitor_address: Annotated[
        str, Meta(pattern=r"^(\*|[0-9a-fA-F.:]+)$", title="an IP address, or * for all, of IPv4 and IPv6")
    ] = field(default="127.0.0.1", name="MONITOR_ADDRESS")
    monitor_port: Annotated[int, Meta(ge=1, le=65535, title="a port from 1 to 65535")] = field(
        default=5556, name="MONITOR_PORT"
    )
    # Whether a proxy is in front, through which all but this host's own programs come: then who asks is whom X-Forwarded-For
    # names last. Who reaches the monitor beside the proxy may say there what it likes, and guess passwords without end.
    monitor_behind_proxy: Annotated[Literal["on", "off"], Meta(title="on or off")] = field(
        default="off", name="MONITOR_BEHIND_PROXY"
    )
    # The path that a proxy has the page and the API under, and leaves in the requests. The monitor answers without it, too.
    monitor_url_prefix: Annotated[
        str, Meta(pattern=URL_PATH, title="a path such as /monitor", examples=["/monitor"])
    ] = field(default="", name="MONITOR_URL_PREFIX")
    # Empty: nobody gets in by it.
    monitor_token: Annotated[str, Meta(title="the key of the monitor's API")] = field(default="", name="MONITOR_TOKEN")
    monitor_operator_password: Annotated[str, Meta(title="a password")] = field(
        default="", name="MONITOR_OPERATOR_PASSWORD"
    )
    monitor_viewer_password: Annotated[str, Meta(title="a password")] = field(
        default="", name="MONITOR_VIEWER_PASSWORD"
    )
    monitor_cookie_secret: Annotated[str, Meta(title="a key")] = field(default="", name="MONITOR_COOKIE_SECRET")
    monitor_webhook_key: Annotated[str, Meta(title="a key")] = field(default="", name="MONITOR_WEBHOOK_KEY")
    # Empty: the page offers no revoke, or no retry.
    monitor_ops_url: Annotated[str, Meta(pattern=f"^({AMQP})?$", title=AMQP_EXPECTED)] = field(
        default="", name="MONITOR_OPS_URL"
    )
    monitor_producer_url: Annotated[str, Meta(pattern=f"^({AMQP})?$", title=AMQP_EXPECTED)] = field(
        default="", name="MONITOR_PRODUCER_URL"
    )
    monitor_keep_days: Annotated[int, Meta(ge=1, le=3650, title="a number of days from 1 to 3650")] = field(
        default=30, name="MONITOR_KEEP_DAYS"
    )
    monitor_keep_tasks: Annotated[int, Meta(ge=1, le=100_000_000, title="a number of tasks from 1 to 100000000")] = (
        field(default=1_000_000, name="MONITOR_KEEP_TASKS")
    )
    monitor_handlers: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")], ...],
        Meta(title="a list of Python modules", examples=["shop.alerts"], extra={"list": True}),
    ] = field(default=(), name="MONITOR_HANDLERS")
    monitor_webhook_url: Annotated[
        str, Meta(pattern=r"^(https?://[^\s/]\S*)?$", title="an http address", examples=["https://example.org/tasks"])
    ] = field(default="", name="MONITOR_WEBHOOK_URL")
    monitor_webhook_events: EventTypes = field(default=TROUBLE, name="MONITOR_WEBHOOK_EVENTS")
    monitor_command: Annotated[str, Meta(title="a command", examples=["/usr/bin/logger -t tasks"])] = field(
        default="", name="MONITOR_COMMAND"
    )
    monitor_command_events: EventTypes = field(default=TROUBLE, name="MONITOR_COMMAND_EVENTS")
    monitor_unclaimed_after: Annotated[
        int, Meta(ge=1, le=604_800, title="a number of seconds from 1 to 604800 (a week)")
    ] = field(default=300, name="MONITOR_UNCLAIMED_AFTER")
    monitor_stalled_factor: Annotated[int, Meta(ge=2, le=10_000, title="a whole number from 2 to 10000")] = field(
        default=10, name="MONITOR_STALLED_FACTOR"
    )
    # Workers tell every two seconds that they live.
    monitor_silent_after: Annotated[int, Meta(ge=3, le=3600, title="a number of seconds from 3 to 3600")] = field(
        default=15, name="MONITOR_SILENT_AFTER"
    )

    # Flower itself reads its own variables; these are what it is told of them, and what the launcher reads.
    flower_max_tasks: Annotated[int, Meta(ge=100, le=1_000_000, title="a number of tasks from 100 to 1000000")] = field(
        default=20_000, name="FLOWER_MAX_TASKS"
    )
    flower_purge_offline_workers: Annotated[
        int, Meta(ge=10, le=31_536_000, title="a number of seconds from 10 to 31536000 (a year)")
    ] = field(default=3600, name="FLOWER_PURGE_OFFLINE_WORKERS")
    # Workers tell every two seconds that they live; where there are none, the broker is asked every ten.
    flower_ready_seconds: Annotated[int, Meta(ge=5, le=3600, title="a number of seconds from 5 to 3600")] = field(
        default=30, name="FLOWER_READY_SECONDS"
    )
    # Beyond any pause of a busy machine.
    flower_deaf_seconds: Annotated[int, Meta(ge=1, le=86_400, title="a number of seconds from 1 to 86400 (a day)")] = (
        field(default=300, name="FLOWER_DEAF_SECONDS")
    )
    flower_read_only: Annotated[bool, Meta(title="true or false")] = field(default=False, name="FLOWER_READ_ONLY")
    flower_url_prefix: Annotated[str, Meta(pattern=URL_PATH, title="a path such as /flower", examples=["/flower"])] = (
        field(default="", name="FLOWER_URL_PREFIX")
    )
    # Empty: a name and a password of its own, nothing foreign.
    flower_auth_provider: Annotated[
        str,
        Meta(
            pattern=r"^([A-Za-z_]\w*(\.[A-Za-z_]\w*)+)?$",
            title="the place of a login handler",
            examples=["flower.views.auth.GoogleAuth2LoginHandler"],
        ),
    ] = field(default="", name="FLOWER_AUTH_PROVIDER")
    # As Flower takes it: anything else with a star in it would let nobody in, or end Flower.
    flower_auth: Annotated[
        str,
        Meta(
            pattern=r"^([^*\s]*|[^*|\s]*\.\*[^*|\s]*@[^*|@\s]+)$",
            title="an address, several with | between them, or .* before an @ and a domain",
            examples=[".*@example.org"],
        ),
    ] = field(default="", name="FLOWER_AUTH")
    flower_oauth2_key: Annotated[str, Meta(title="a key", examples=["0123.apps.example.org"])] = field(
        default="", name="FLOWER_OAUTH2_KEY"
    )
    flower_oauth2_secret: Annotated[str, Meta(title="a key", examples=["0123abcd"])] = field(
        default="", name="FLOWER_OAUTH2_SECRET"
    )
    flower_oauth2_redirect_uri: Annotated[
        str, Meta(pattern=r"^(https?://\S+)?$", title="an http address", examples=["https://flower.example.org/login"])
    ] = field(default="", name="FLOWER_OAUTH2_REDIRECT_URI")
    # What some providers need beyond that; see docs/flower.md.
    flower_github_oauth_domain: Annotated[str, Meta(title="a host name", examples=["github.example.org"])] = field(
        default="", name="FLOWER_GITHUB_OAUTH_DOMAIN"
    )
    flower_gitlab_oauth_domain: Annotated[str, Meta(title="a host name", examples=["gitlab.example.org"])] = field(
        default="", name="FLOWER_GITLAB_OAUTH_DOMAIN"
    )
    flower_gitlab_auth_allowed_groups: Annotated[
        str, Meta(title="a list of groups", examples=["shop/ops,shop/dev"])
    ] = field(default="", name="FLOWER_GITLAB_AUTH_ALLOWED_GROUPS")
    flower_gitlab_min_access_level: Annotated[str, Meta(pattern=r"^[0-9]*$", title="a number", examples=["30"])] = (
        field(default="", name="FLOWER_GITLAB_MIN_ACCESS_LEVEL")
    )
    flower_oauth2_okta_base_url: Annotated[
        str, Meta(pattern=r"^(https?://\S+)?$", title="an http address", examples=["https://shop.okta.com/oauth2"])
    ] = field(default="", name="FLOWER_OAUTH2_OKTA_BASE_URL")
    flower_metrics_token: Annotated[str, Meta(title="a key")] = field(default="", name="FLOWER_METRICS_TOKEN")

    @classmethod
    def complete(cls, values: dict[str, Any], environment: Mapping[str, str], origin: Mapping[str, str]) -> list[str]:
        general = cls(**{name: value for name, value in values.items() if name not in {"pools", "pool"}}).default_pool
        values["pools"], lines = read_pools(
            values.get("pools", ()),
            general,
            OF_A_POOL,
            environment,
            lambda variable, text: complaint(variable, text, origin),
        )
        own = values.get("pool", DEFAULT)
        if own not in {general.name, *(one.name for one in values["pools"])}:
            lines.append(f"WARREN_POOL={own} is no pool that {POOLS} names")
        return lines

    @property
    def default_pool(self) -> Pool:
        """The pool of WARREN_QUEUES."""
        return Pool(
            name=DEFAULT,
            queues=self.queues,
            time_limit=self.task_time_limit,
            concurrency=self.worker_concurrency,
        )

    @property
    def every_pool(self) -> tuple[Pool, ...]:
        """The default pool, and the others."""
        return (self.default_pool, *self.pools)

    @property
    def own_pool(self) -> Pool:
        """The pool that this worker belongs to."""
        return next(pool for pool in self.every_pool if pool.name == self.pool)

    @property
    def every_queue(self) -> tuple[str, ...]:
        """The queues of all pools; the first is where a task goes that names none."""
        return tuple(queue for pool in self.every_pool for queue in pool.queues)

    def time_limit_of(self, queue: str | None) -> int:
        """Seconds that a task of ``queue`` may take; of one that nobody knows, the longest that any task may."""
        return next((pool.time_limit for pool in self.every_pool if queue in pool.queues), self.longest_time_limit)

    @property
    def longest_time_limit(self) -> int:
        """Seconds that a task may take in the pool that is the most patient."""
        return max(pool.time_limit for pool in self.every_pool)

    @property
    def task_soft_time_limit(self) -> int:
        """Seconds after which a task of the default pool gets SoftTimeLimitExceeded."""
        return self.default_pool.soft_time_limit

    @property
    def stop_grace(self) -> int:
        """Seconds that a stopping worker gets, in the pool that is the most patient."""
        return max(pool.stop_grace for pool in self.every_pool)

    @property
    def half_a_login(self) -> list[str]:
        """A line where a part of what Flower's login by OAuth needs is missing: it would let everybody in, or nobody."""
        missing = [f"FLOWER_{name.upper()}" for name in OAUTH if not getattr(self, f"flower_{name}")]
        some = 0 < len(missing) < len(OAUTH)
        return [f"a login by OAuth needs {', '.join(missing)} too (docs/flower.md)"] if some else []

    @property
    def revokes_seconds(self) -> int:
        """For how long a revoke holds, in seconds; in RabbitMQ's units for the age of a stream."""
        units = {"Y": 365 * 86_400, "M": 30 * 86_400, "D": 86_400, "h": 3600, "m": 60, "s": 1}
        return int(self.revokes_max_age[:-1]) * units[self.revokes_max_age[-1]]

    @property
    def consumer_timeout(self) -> int:
        """Seconds that the broker waits for an acknowledgement: beyond any task that a stopping worker may still end.

        A shorter one would hand the task to a second worker while the first still runs it.
        """
        return self.stop_grace + 60


def from_environment(environment: Mapping[str, str] | None = None) -> AppSettings:
    """The settings of this process.

    Raises:
        app.environment.Mistake: a line for each wrong variable.
    """
    return read(AppSettings, os.environ if environment is None else environment)
