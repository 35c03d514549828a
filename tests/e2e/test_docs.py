"""The commands of docs/operations.md, typed in their order on a stack: they work, and print what looks like the docs.

Compared is the shape, since times and ids are others each time: whether a command fails, whether it prints anything, and
the headings of its table.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator

import pytest

from deploy.paths import ROOT
from tests.support.checkout import Checkout
from tests.support.docs import UUID, Block, Command, blocks
from tests.support.eventually import eventually

SHOWN = blocks(ROOT / "docs" / "operations.md")

# Commands that change nothing, so that one for which somebody had no time can be typed again.
READING = {
    *("config", "events", "history", "inspect", "logs", "ping", "queues", "result", "revoked", "schedule", "status"),
    *("task", "watch", "workers"),
}


# What they say where the monitor, a worker or the broker's management did not answer in time.
LATE = re.compile("(does|did) not answer|can't answer|not up to date")


class Tasks:
    """Tasks in the states that the docs speak of, each made when a block first wants it."""

    def __init__(self, stack: Checkout) -> None:
        self.stack = stack
        self.known: dict[str, str] = {}
        self.make: dict[str, Callable[[], str]] = {
            "succeeded": lambda: self.sent("SUCCESS", "add", "2", "3"),
            "failed": lambda: self.sent("FAILURE", "fail", '"no stamps left"'),
            "running": lambda: self.sent("STARTED", "sleep", "250"),
            "held": lambda: self.sent("PENDING", "add", "2", "3", "--countdown", "3600"),
            "dead": self.dead,
        }

    def sent(self, state: str, *words: str) -> str:
        task = self.stack.invoke("call", *words).stdout.strip()
        eventually(lambda: self.stack.json("task", task)["state"] == state, 60, f"{words} is {state}")
        return task

    def dead(self) -> str:
        """A task whose name no worker knows; so `invoke call` would not send it."""
        code = "from app import celery; print(celery.send_task('shop.mail.send', (7,)).id)"
        task = self.stack.invoke("exec", "worker", "--", "python3", "-c", code).stdout.split()[-1]
        eventually(lambda: self.stack.json("task", task)["answer"]["kind"] == "dead", 60, "it is dead")
        return task

    def id_of(self, state: str) -> str:
        # One that runs may be ended by what the block does.
        if state not in self.known or state in {"running", "dead"}:
            self.known[state] = self.make[state]()
        return self.known[state]


@pytest.fixture(scope="module")
def tasks(stack: Checkout) -> Iterator[Tasks]:
    yield Tasks(stack)
    # The tests after these find the stack as it was: nothing runs, and nothing is held or limited.
    for queue in stack.json("pause"):
        stack.invoke("resume", queue["queue"])
    active = stack.json("inspect", "active")["answers"]
    running = [task["id"] for of in active.values() for task in of]
    if running:
        stack.invoke("revoke", *running, "--terminate", check=False)
    stack.invoke("restart", "worker")


@pytest.mark.parametrize("block", SHOWN, ids=lambda block: block.name)
def test_what_the_docs_show(stack: Checkout, tasks: Tasks, block: Block) -> None:
    if block.not_run:
        pytest.skip(block.not_run)
    task = tasks.id_of(block.ids) if any(re.search(UUID, one.line) for one in block.commands) else ""
    for command in (*block.before, *block.commands):
        looks_right(stack, command, task)


def looks_right(stack: Checkout, command: Command, task: str) -> None:
    words = [re.sub(UUID, task, word) for word in command.words[1:]]

    def typed() -> subprocess.CompletedProcess[str]:
        # `invoke open` is not to start a browser here.
        return stack.invoke(*words, check=False, BROWSER="true")

    if READING & set(words[:1]):
        done = eventually(lambda: not LATE.search((one := typed()).stderr) and one, 60, command.line)
    else:
        done = typed()
    told = f"$ {command.line}\nended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert (done.returncode != 0) is command.fails, told
    assert ("error: " in done.stderr) is command.fails, told
    if any(line.strip() for line in command.printed):
        assert done.stdout.strip() or done.stderr.strip(), told
    if command.headings:
        tables = [line.split() for line in done.stdout.splitlines()]
        assert command.headings in tables, told
