"""The commands in the docs, as a reader types them, with what the docs say that they print.

A block of the console is run as it stands, unless a comment above it says otherwise:

    <!-- not run: WHY -->       by no test of the docs
    <!-- IDs: failed -->        the ids in its commands are those of a task in this state (see STATES)
    <!-- before: invoke ... --> what has to be typed before, and is not shown
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from deploy.paths import ROOT

__all__ = ["STATES", "UUID", "Block", "Command", "blocks", "yaml_blocks"]

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"

# What a block's ids may be of; without a comment, of a task that succeeded.
STATES = ("succeeded", "failed", "running", "held", "dead")

BLOCK = re.compile(r"(?P<comments>(?:<!-- [^\n]+ -->\n)*)```console\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!-- (not run|IDs|before): (.+) -->")


@dataclass(frozen=True)
class Command:
    """A line that is typed, and the lines that it prints."""

    line: str
    printed: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        """What a shell makes of it."""
        return shlex.split(self.line)

    @property
    def fails(self) -> bool:
        return any(line.startswith("error: ") for line in self.printed)

    @property
    def headings(self) -> list[str]:
        """The headings of the table that it prints first; empty where that is none."""
        if len(self.printed) > 1 and re.fullmatch("─+", self.printed[1]):
            return self.printed[0].split()
        return []


@dataclass(frozen=True)
class Block:
    """One block of the console."""

    section: str
    number: int
    commands: tuple[Command, ...]
    not_run: str
    ids: str
    before: tuple[Command, ...]

    @property
    def name(self) -> str:
        return f"{self.section}-{self.number}"


def yaml_blocks(page: str, word: str = "") -> list[str]:
    """The blocks of YAML of a page of the docs that have ``word``."""
    found = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)
    return [one for one in found if word in one]


def blocks(file: Path) -> list[Block]:
    """The blocks of a page, in their order."""
    text = file.read_text()
    headings = [(found.start(), found.group(1)) for found in re.finditer(r"^#{2,3} (.+)$", text, re.MULTILINE)]
    made: list[Block] = []
    for found in BLOCK.finditer(text):
        section = next(name for place, name in reversed(headings) if place < found.start())
        said = dict(COMMENT.findall(found["comments"]))
        made.append(
            Block(
                section=re.sub(r"\W+", "-", section.lower()).strip("-"),
                number=sum(one.section == re.sub(r"\W+", "-", section.lower()).strip("-") for one in made) + 1,
                commands=tuple(commands(found["text"])),
                not_run=said.get("not run", ""),
                ids=said.get("IDs", STATES[0]),
                before=tuple(commands(f"$ {said['before']}")) if "before" in said else (),
            )
        )
    return made


def commands(text: str) -> list[Command]:
    typed: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            typed.append((line.removeprefix("$ "), []))
        elif typed:
            typed[-1][1].append(line)
    return [Command(line, tuple(printed)) for line, printed in typed]
