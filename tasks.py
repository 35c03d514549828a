"""Warren's menu: what an operator can type. `invoke --list` shows it, `invoke COMMAND --help` explains one.

Each command works on every platform; how is in deploy/. Exit codes are listed in docs/operations.md.
"""

from __future__ import annotations

from invoke import Collection

from deploy.menu import command, one_of, whole_number
from deploy.session import Session

JSON = "print JSON for programs"
# What pause and resume are told.
PAUSED = {
    "queues": "queues of tasks (without one: show what is paused)",
    "pool": "all queues of this pool",
    "json": JSON,
}


@command(
    help={
        "workers": "number of workers of the default pool (default: as many as run, or WARREN_WORKERS)",
        "try_it": "run `add 2 3` through a worker and print its result",
        "edge": "put HTTPS in front of the pages, and let nothing else be reached from other hosts (Compose)",
        "no_edge": "without it again",
        "yes": "also in a cluster that this checkout has not used before, or beside other things in a namespace",
    }
)
def up(
    s: Session,
    workers: str = "",
    try_it: bool = False,
    edge: bool = False,
    no_edge: bool = False,
    yes: bool = False,
) -> None:
    """Start the stack and wait until all of it is ready. Does nothing where it is up already."""
    from deploy.commands import stack

    s.confirmed = yes
    count = whole_number(workers, "--workers", 0, "invoke up --workers 4", most=1000) if workers else None
    stack.up(s, count, try_it, one_of("edge", edge, no_edge))


@command(help={"volumes": "also delete the data: waiting tasks, the event log, all history", "yes": "don't ask"})
def down(s: Session, volumes: bool = False, yes: bool = False) -> None:
    """Stop the stack, workers first: they end the tasks that they run."""
    from deploy.commands import stack

    stack.down(s, volumes, yes)


@command(rest="services", help={"services": "rabbitmq, worker, worker-POOL, monitor, flower, edge (default: all)"})
def restart(s: Session, services: list[str]) -> None:
    """Restart services with the code and settings of now: invoke restart worker"""
    from deploy.commands import stack

    stack.restart(s, services)


@command(help={"json": JSON})
def status(s: Session, json: bool = False) -> None:
    """What runs, whether it is ready, and what waits in the queues."""
    from deploy.commands import stack

    stack.status(s, json)


@command(
    rest="services",
    help={
        "services": "rabbitmq, worker, worker-POOL, monitor, flower, edge (default: all)",
        "follow": "go on with what is written from now, until Ctrl-C",
        "tail": "number of lines to begin with (default 100)",
    },
)
def logs(s: Session, services: list[str], follow: bool = False, tail: str = "100") -> None:
    """The services' logs: invoke logs worker -f"""
    from deploy.commands import stack

    stack.logs(s, services, follow, whole_number(tail, "--tail", 0, "invoke logs worker --tail 20"))


@command(
    rest="args",
    help={
        "name": "the task's name, or its last part where that is clear: add",
        "args": "its arguments, each as JSON: 2 '\"text\"' '[1, 2]'",
        "kwargs": "its named arguments as a JSON object",
        "wait": "wait for the result and print it",
        "timeout": "seconds to wait for the result (default 60)",
        "queue": "the queue to send it to",
        "countdown": "seconds to hold it back in the broker",
        "json": JSON,
    },
)
def call(
    s: Session,
    name: str,
    args: list[str],
    kwargs: str = "",
    wait: bool = False,
    timeout: str = "60",
    queue: str = "",
    countdown: str = "",
    json: bool = False,
) -> None:
    """Send a task and print its id, or with --wait its result: invoke call add 2 3 --wait"""
    from deploy.commands import send

    send.call(s, name, args, kwargs=kwargs, wait=wait, timeout=timeout, queue=queue, countdown=countdown, as_json=json)


@command(help={"id": "the task's id", "json": JSON})
def result(s: Session, id: str, json: bool = False) -> None:
    """State and result of a task, whoever sent it: invoke result ID"""
    from deploy.commands import results

    results.result(s, id, json)


@command(
    help={
        "failed": "only tasks that failed or were rejected",
        "state": "only these: PENDING, RECEIVED, STARTED, RETRY, SUCCESS, FAILURE, REVOKED, REJECTED (a list: A,B)",
        "attention": "only those that nobody took, that run too long or whose worker fell silent",
        "name": "only tasks of this name; * stands for any part: 'shop.*'",
        "worker": "only what this worker had",
        "queue": "only what was sent to this queue",
        "since": "only what changed since then: 90s, 15m, 1h, 2d, or 2026-11-22T13:20Z",
        "until": "only what changed last before then",
        "text": "only tasks with this text in arguments, result, exception or traceback",
        "sort": "time, runtime or wait; the newest or longest first (default time)",
        "reverse": "the oldest or shortest first",
        "limit": "number of tasks (default 20)",
        "json": JSON,
    }
)
def history(
    s: Session,
    failed: bool = False,
    state: str = "",
    attention: bool = False,
    name: str = "",
    worker: str = "",
    queue: str = "",
    since: str = "",
    until: str = "",
    text: str = "",
    sort: str = "time",
    reverse: bool = False,
    limit: str = "20",
    json: bool = False,
) -> None:
    """What happened to tasks, the newest first: invoke history --failed --since 1h"""
    from deploy.commands import history

    most = whole_number(limit, "--limit", 1, "invoke history --limit 50", most=100_000)
    filters = {"name": name, "worker": worker, "queue": queue, "since": since, "until": until, "text": text}
    history.history(
        s, most, json, failed=failed, state=state, attention=attention, sort=sort, reverse=reverse, **filters
    )


@command(name="task", help={"id": "the task's id", "json": JSON})
def one_task(s: Session, id: str, json: bool = False) -> None:
    """All there is to know of one task, with its timeline and traceback: invoke task ID"""
    from deploy.commands import task

    task.show(s, id, json)


@command(
    help={
        "interval": "seconds between two looks (default 1)",
        "once": "print what there is to see now, and end; so without a terminal",
        "json": JSON,
    }
)
def watch(s: Session, interval: str = "1", once: bool = False, json: bool = False) -> None:
    """Workers, queues, rates and failures, live; q or Ctrl-C leaves: invoke watch"""
    from deploy.commands.watch import command

    command.watch(s, command.interval_of(interval), once, json)


@command(
    help={
        "since": "what happened since then: 90s, 15m, 1h, 2d, or 2026-11-22T13:20Z",
        "until": "what happened before then",
        "follow": "go on with what comes, until Ctrl-C",
        "type": "only these: failed, or a list: failed,retried,worker-offline",
        "name": "only of tasks of this name; * stands for any part: 'shop.*'",
        "id": "only of this task",
        "tail": "number of events to begin with (default 100, or all with --since, --until or --id)",
        "heartbeats": "also the workers' heartbeats",
        "json": "one JSON object a line",
    },
)
def events(
    s: Session,
    since: str = "",
    until: str = "",
    follow: bool = False,
    type: str = "",
    name: str = "",
    id: str = "",
    tail: str = "",
    heartbeats: bool = False,
    json: bool = False,
) -> None:
    """The event log, one line an event: invoke events --since 1h --type failed"""
    from deploy.commands import events

    events.events(
        s,
        since=since,
        until=until,
        follow=follow,
        types=type,
        name=name,
        id_=id,
        tail=whole_number(tail, "--tail", 0, "invoke events --tail 20") if tail else None,
        heartbeats=heartbeats,
        as_json=json,
    )


@command(
    rest="ids",
    help={
        "ids": "ids of tasks",
        "terminate": "also end those that run",
        "signal": "the signal that ends them, with --terminate (default SIGTERM)",
        "name": "instead of ids: waiting tasks of this name; * stands for any part: 'shop.*'",
        "older_than": "instead of ids: tasks that have waited for longer than 90s, 15m, 1h, 2d",
        "queue": "instead of ids: tasks that wait in this queue",
        "yes": "don't ask",
        "json": JSON,
    },
)
def revoke(
    s: Session,
    ids: list[str],
    terminate: bool = False,
    signal: str = "",
    name: str = "",
    older_than: str = "",
    queue: str = "",
    yes: bool = False,
    json: bool = False,
) -> None:
    """Keep waiting tasks from running, for good; with --terminate end running ones: invoke revoke ID --terminate"""
    from deploy.commands import revokes

    revokes.revoke(s, ids, terminate, signal, name, older_than, queue, yes, json)


@command(
    help={
        "since": "what was revoked since then: 90s, 15m, 1h, 2d, or 2026-11-22T13:20Z",
        "limit": "number of tasks (default 20)",
        "json": JSON,
    }
)
def revoked(s: Session, since: str = "", limit: str = "20", json: bool = False) -> None:
    """What was revoked, when and by whom, the newest first: invoke revoked --since 1h"""
    from deploy.commands import revokes

    revokes.revoked(s, since, whole_number(limit, "--limit", 1, "invoke revoked --limit 100", most=100_000), json)


@command(
    help={
        "workers": "number of workers; the least one where an autoscaler decides",
        "pool": "the pool, one of WARREN_POOLS (default: that of WARREN_QUEUES)",
        "max": "the most workers that an autoscaler may make (default: as before)",
    }
)
def scale_workers(s: Session, workers: str, pool: str = "default", max: str = "") -> None:
    """Set the number of workers; idle ones stop first, and none while it runs a task: invoke scale-workers 4"""
    from deploy.commands import stack

    count = whole_number(workers, "the number of workers", 0, "invoke scale-workers 4", most=1000)
    most = whole_number(max, "--max", 1, "invoke scale-workers 1 --max 8", most=1000) if max else None
    stack.scale_workers(s, count, pool, most)


@command(rest="words", help={"service": "where to run it", "words": "the command; its own options after --"})
def exec(s: Session, service: str, words: list[str]) -> None:
    """Run a command where a service runs: invoke exec worker -- celery -A app report"""
    from deploy.commands import stack

    stack.execute(s, service, words)


@command()
def shell(s: Session) -> None:
    """Python where a worker runs, with the app, its tasks and the worker's rights: add.delay(2, 3), app.control.ping()"""
    from deploy.commands import stack

    stack.shell(s)


@command(help={"json": JSON})
def ping(s: Session, json: bool = False) -> None:
    """Ask every worker for a sign of life."""
    from deploy.commands import control

    control.ping(s, json)


@command(
    help={
        "what": "active, reserved, scheduled, registered, stats or conf",
        "worker": "only this worker, by its node's name (default: all)",
        "json": JSON,
    }
)
def inspect(s: Session, what: str, worker: str = "", json: bool = False) -> None:
    """What workers run, hold, know or are set to: invoke inspect active"""
    from deploy.commands import workers

    workers.inspect(s, what, worker, json)


@command(help={"all": "also workers of the last day that are gone, from the monitor", "json": JSON})
def workers(s: Session, all: bool = False, json: bool = False) -> None:
    """A line for each worker: what it runs, since when, with how much memory, and which queues it consumes."""
    from deploy.commands import workers

    workers.workers(s, all, json)


@command(help={"all": "also the queues of delayed delivery, replies and remote control", "json": JSON})
def queues(s: Session, all: bool = False, json: bool = False) -> None:
    """The queues: waiting, being worked on, consumers, rates, and how long the oldest task waits."""
    from deploy.commands import queues

    queues.queues(s, all, json)


@command(help={"queue": "a queue of tasks", "yes": "don't ask", "json": JSON})
def purge(s: Session, queue: str, yes: bool = False, json: bool = False) -> None:
    """Delete all tasks that wait in a queue, and say how many: invoke purge mail"""
    from deploy.commands import queues

    queues.purge(s, queue, yes, json)


@command(rest="queues", help=PAUSED)
def pause(s: Session, queues: list[str], pool: str = "", json: bool = False) -> None:
    """Take no more tasks from queues, also by workers that start later: invoke pause mail"""
    from deploy.commands import queues as commands

    commands.pause(s, queues, json, pool)


@command(rest="queues", help=PAUSED)
def resume(s: Session, queues: list[str], pool: str = "", json: bool = False) -> None:
    """Take tasks again from queues that were paused: invoke resume mail"""
    from deploy.commands import queues as commands

    commands.resume(s, queues, json, pool)


@command(help={"limit": "number of tasks (default 50)", "json": JSON})
def schedule(s: Session, limit: str = "50", json: bool = False) -> None:
    """The tasks that the broker holds for later (countdown, eta, retries), the next ones first."""
    from deploy.commands import queues

    queues.schedule(s, whole_number(limit, "--limit", 1, "invoke schedule --limit 100", most=20_000), json)


@command(
    name="rate-limit",
    rest="words",
    help={
        "words": "a task and its limit, 5, 10/s, 100/m or 20/h, or 0 for none (without: those in force)",
        "json": JSON,
    },
)
def rate_limit(s: Session, words: list[str], json: bool = False) -> None:
    """Limit how many tasks of a name each worker starts, until it restarts: invoke rate-limit add 10/m"""
    from deploy.commands import limits

    limits.rate_limit(s, words, json)


@command(
    name="time-limit",
    help={
        "names": "the task's name, or its last part where that is clear (without: limits in force)",
        "soft": "seconds after which the task gets SoftTimeLimitExceeded",
        "hard": "seconds after which its process is killed",
        "default": "back to the limits of the settings",
        "json": JSON,
    },
    rest="names",
)
def time_limit(
    s: Session, names: list[str], soft: str = "", hard: str = "", default: bool = False, json: bool = False
) -> None:
    """Limit how long a task may run, until workers restart: invoke time-limit add --soft 50 --hard 60"""
    from deploy.commands import limits

    limits.time_limit(s, names, soft, hard, default, json)


@command(
    rest="ids",
    help={
        "ids": "ids of tasks",
        "name": "instead of ids: failed tasks of this name; * stands for any part: 'shop.*'",
        "since": "instead of ids: tasks that failed since then: 90s, 15m, 1h, 2d, or 2026-11-22T13:20Z",
        "queue": "instead of ids: failed tasks of this queue",
        "yes": "don't ask",
        "json": JSON,
    },
)
def retry(
    s: Session,
    ids: list[str],
    name: str = "",
    since: str = "",
    queue: str = "",
    yes: bool = False,
    json: bool = False,
) -> None:
    """Send failed tasks again with the arguments that the history knows, under new ids: invoke retry ID"""
    from deploy.commands import retry

    retry.retry(s, ids, name, since, queue, yes, json)


@command(help={"json": JSON})
def config(s: Session, json: bool = False) -> None:
    """The settings in force, and which of them differ from their default."""
    from deploy.commands import stack

    stack.config(s, json)


@command(help={"push": "put the app image into this registry, such as registry.example/team, for a cluster's nodes"})
def build(s: Session, push: str = "") -> None:
    """Make what the services run from: the app image, or a project's requirements."""
    from deploy.commands import manifests, stack

    if push:
        manifests.push(s, push)
    else:
        stack.build(s)


@command(help={"overlay": "dev, production or the folder of an overlay (default: WARREN_KUBE_OVERLAY)"})
def render(s: Session, overlay: str = "") -> None:
    """The Kubernetes manifests that the settings of now make, on standard output."""
    from deploy.commands import manifests

    manifests.render(s, overlay)


@command(
    help={
        "image": "the app image that pods run, as `invoke build` printed it for a registry (default: WARREN_APP_IMAGE)",
        "into": "the folder to write to (default: dist)",
    }
)
def release(s: Session, image: str = "", into: str = "dist") -> None:
    """Write install-dev.yaml and install-production.yaml, each a whole stack for `kubectl apply -f`."""
    from deploy.commands import release as releases

    releases.release(s, image, into)


@command()
def definitions(s: Session) -> None:
    """What a RabbitMQ that others run must have for this stack, to be imported there: users, queues, policies."""
    from deploy.commands import manifests

    manifests.definitions(s)


@command()
def diff(s: Session) -> None:
    """What `invoke up` would change in the cluster; exit code 1 where it is anything."""
    from deploy.commands import manifests

    manifests.diff(s)


@command(name="open", help={"page": "monitor, flower or rabbitmq"})
def open_page(s: Session, page: str) -> None:
    """Open a page of the stack in the browser: invoke open monitor"""
    from deploy.commands import stack

    stack.open_page(s, page)


@command()
def lint(s: Session) -> None:
    """Check style and types of everything."""
    from deploy.commands import develop

    develop.lint(s)


@command(rest="args", help={"args": "what pytest is to run (default: lint and all tests)"})
def test(s: Session, args: list[str]) -> None:
    """Run every test that this machine can run; what it can't is named, with the reason: invoke test tests/unit"""
    from deploy.commands import develop

    develop.test(s, args)


@command()
def lock(s: Session) -> None:
    """Write the lock files in requirements/ from pyproject.toml, with the newest versions that it allows."""
    from deploy.commands import develop

    develop.lock(s)


@command(
    rest="words",
    help={
        "words": "list, show ID, requeue ID..., drop ID..., or export FILE (default: list)",
        "all": "requeue or drop all of them, or all that --reason and --name leave",
        "reason": "only those: rejected, delivery_limit, expired, maxlen, unroutable",
        "name": "only tasks of this name; * stands for any part: 'shop.*'",
        "queue": "requeue to this queue instead of where they came from",
        "limit": "number of letters to list (default 50)",
        "yes": "drop without asking",
        "json": JSON,
    },
)
def dead_letters(
    s: Session,
    words: list[str],
    all: bool = False,
    reason: str = "",
    name: str = "",
    queue: str = "",
    limit: str = "50",
    yes: bool = False,
    json: bool = False,
) -> None:
    """Tasks that no worker could run; look at them, send them again: invoke dead-letters requeue ID"""
    from deploy.commands import dead_letters

    most = whole_number(limit, "--limit", 1, "invoke dead-letters --limit 100", most=100_000)
    dead_letters.dead_letters(
        s, words, every=all, reason=reason, name=name, queue=queue, limit=most, as_json=json, yes=yes
    )


namespace = Collection(
    *(up, down, restart, status, scale_workers, logs, exec, config, build, open_page),
    *(render, diff, release, definitions),
    *(call, result, revoke, revoked, ping, workers, inspect),
    *(queues, schedule, purge, pause, resume, dead_letters),
    *(rate_limit, time_limit, retry, shell),
    *(history, one_task, events, watch),
    *(lint, test, lock),
)
namespace.configure({"platform": None})
