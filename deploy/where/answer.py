"""The answer: where a task is, in one line for people and in fields for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

__all__ = ["ENDED", "RUNNING", "Answer", "Kind"]

Kind: TypeAlias = Literal[
    "waiting",
    "scheduled",
    "reserved",
    "running",
    "stalled",
    "orphaned",
    "redelivered",
    "dead",
    "revoked",
    "expired",
    "succeeded",
    "failed",
    "unknown",
]

# A worker runs it, or is about to: what --terminate ends. "redelivered" is one that a second worker has after its first died.
RUNNING: frozenset[Kind] = frozenset({"reserved", "running", "stalled", "redelivered"})
# Nothing more happens to it by itself. (A revoked task may still wait for a worker that discards it: ``ended`` tells.)
ENDED: frozenset[Kind] = frozenset({"succeeded", "failed"})


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Where one task is. Times are RFC 3339 in UTC, durations are seconds."""

    id: str
    kind: Kind
    line: str
    """The answer in words, without the id; characters that a terminal would act on are spelled out."""
    name: str | None = None
    since: str | None = None
    """Since when it is so, as far as is known."""
    until: str | None = None
    """When a scheduled task is due."""
    queue: str | None = None
    worker: str | None = None
    """Who has it, or had it last."""
    attempt: int | None = None
    """How often a worker received it."""
    before: int | None = None
    """Of a waiting task: about how many are before it."""
    consumers: int | None = None
    """Of a task in a queue: how many workers take tasks from there."""
    reason: str | None = None
    """Why it is a dead letter, what it failed with, what it returned."""
    by: str | None = None
    """Who revoked it."""
    ended: bool = False
    """Whether nothing more happens to it by itself."""
    uncertain: tuple[str, ...] = ()
    """What could not be asked, in words; the newest fact of the others is the answer."""

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "uncertain": list(self.uncertain)}
