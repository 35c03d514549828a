"""Warren's menu: what an operator can type. `invoke --list` shows it, `invoke COMMAND --help` explains one.

Each command works on every platform; how is in deploy/. Exit codes are listed in docs/operations.md.
"""

from __future__ import annotations

from invoke import Collection

from deploy.menu import command, whole_number
from deploy.session import Session

JSON = "print JSON for programs"


@command(
    help={
        "workers": "number of workers (default: as many as run, or WARREN_WORKERS)",
        "try_it": "run `add 2 3` through a worker and print its result",
    }
)
def up(s: Session, workers: str = "", try_it: bool = False) -> None:
    """Start the stack and wait until all of it is ready. Does nothing where it is up already."""
    from deploy.commands import stack

    stack.up(s, whole_number(workers, "--workers", 0, "invoke up --workers 4", most=1000) if workers else None, try_it)


@command(help={"volumes": "also delete the data: waiting tasks, the event log, Flower's history", "yes": "don't ask"})
def down(s: Session, volumes: bool = False, yes: bool = False) -> None:
    """Stop the stack, workers first: they end the tasks that they run."""
    from deploy.commands import stack

    stack.down(s, volumes, yes)


@command(rest="services", help={"services": "rabbitmq, worker, monitor, flower (default: all)"})
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
        "services": "rabbitmq, worker, monitor, flower (default: all)",
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
    """State and result of a task, from the event log: invoke result ID"""
    from deploy.commands import results

    results.result(s, id, json)


@command(
    rest="ids",
    help={
        "ids": "ids of tasks",
        "terminate": "also end those that run",
        "signal": "the signal that ends them, with --terminate (default SIGTERM)",
        "json": JSON,
    },
)
def revoke(s: Session, ids: list[str], terminate: bool = False, signal: str = "", json: bool = False) -> None:
    """Keep waiting tasks from running; with --terminate end running ones: invoke revoke ID --terminate"""
    from deploy.commands import control

    control.revoke(s, ids, terminate, signal, json)


@command(help={"workers": "number of workers"})
def scale_workers(s: Session, workers: str) -> None:
    """Set the number of workers; idle ones stop first, and none while it runs a task: invoke scale-workers 4"""
    from deploy.commands import stack

    stack.scale_workers(s, whole_number(workers, "the number of workers", 0, "invoke scale-workers 4", most=1000))


@command(rest="words", help={"service": "where to run it", "words": "the command; its own options after --"})
def exec(s: Session, service: str, words: list[str]) -> None:
    """Run a command where a service runs: invoke exec worker -- celery -A app report"""
    from deploy.commands import stack

    stack.execute(s, service, words)


@command(help={"json": JSON})
def ping(s: Session, json: bool = False) -> None:
    """Ask every worker for a sign of life."""
    from deploy.commands import control

    control.ping(s, json)


@command(help={"all": "also the queues of delayed delivery, replies and remote control", "json": JSON})
def queues(s: Session, all: bool = False, json: bool = False) -> None:
    """The queues: waiting, being worked on, consumers and rates."""
    from deploy.commands import stack

    stack.queues(s, all, json)


@command(help={"json": JSON})
def config(s: Session, json: bool = False) -> None:
    """The settings in force, and which of them differ from their default."""
    from deploy.commands import stack

    stack.config(s, json)


@command()
def build(s: Session) -> None:
    """Make what the services run from: the app image, or a project's requirements."""
    from deploy.commands import stack

    stack.build(s)


@command(name="open", help={"page": "flower or rabbitmq"})
def open_page(s: Session, page: str) -> None:
    """Open a page of the stack in the browser: invoke open flower"""
    from deploy.commands import stack

    stack.open_page(s, page)


@command()
def lint(s: Session) -> None:
    """Check style and types of everything."""
    from deploy.commands import develop

    develop.lint(s)


@command(rest="args", help={"args": "what pytest is to run, for example tests/unit (default: lint and all tests)"})
def test(s: Session, args: list[str]) -> None:
    """Run every test that this machine can run; what it can't is named, with the reason."""
    from deploy.commands import develop

    develop.test(s, args)


@command()
def lock(s: Session) -> None:
    """Write the lock files in requirements/ from pyproject.toml, with the newest versions that it allows."""
    from deploy.commands import develop

    develop.lock(s)


namespace = Collection(
    *(up, down, restart, status, scale_workers, logs, exec, config, build, open_page),
    *(call, result, revoke, ping, queues),
    *(lint, test, lock),
)
namespace.configure({"platform": None})
