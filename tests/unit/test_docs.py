"""docs/operations.md has every command of the menu, and what it shows is something that is run, or says why not."""

from __future__ import annotations

import runpy

import pytest

from deploy.menu import COMMANDS
from deploy.paths import ROOT
from tests.support.docs import STATES, Block, blocks

OPERATIONS = ROOT / "docs" / "operations.md"

runpy.run_path(str(ROOT / "tasks.py"))


def typed() -> dict[str, list[str]]:
    """For each command of the menu, all lines that are shown of what it prints."""
    found: dict[str, list[str]] = {}
    for block in blocks(OPERATIONS):
        for command in block.commands:
            words = command.line.split()
            if words[0].endswith("invoke"):
                found.setdefault(words[1], []).extend(command.printed)
    return found


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_is_shown_with_what_it_prints(command: str) -> None:
    assert any(line.strip() for line in typed().get(command, [])), f"no block of the docs shows `invoke {command}`"


def test_all_that_is_typed_is_in_the_menu() -> None:
    assert set(typed()) <= set(COMMANDS)


@pytest.mark.parametrize("block", blocks(OPERATIONS), ids=lambda block: block.name)
def test_a_block_is_run_or_says_why_not(block: Block) -> None:
    assert block.commands, "a block of the console has lines that begin with $"
    assert block.ids in STATES
    others = [one.line for one in block.commands if not one.line.startswith(("invoke ", ".venv/bin/invoke "))]
    assert block.not_run or not others, f"what is no command of the menu is not run: {others}"
    assert not block.not_run or len(block.not_run.split()) > 2, "the reason is more than a word"
