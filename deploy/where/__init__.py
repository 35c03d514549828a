"""Where is my task? One answer for any id, from the history, the broker and the workers together.

    answer.py    what an answer is
    facts.py     what is asked: the monitor or the event log, the broker's queues, the revokes, the workers
    decide.py    what follows from it

The sources contradict each other for moments, since each tells of its own time: the newest fact wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deploy.session import Session
from deploy.where.answer import ENDED, RUNNING, Answer, Kind

if TYPE_CHECKING:
    from deploy.where.facts import Facts

__all__ = ["ENDED", "RUNNING", "Answer", "Facts", "Kind", "find", "look"]


def find(s: Session, ids: Sequence[str]) -> dict[str, Answer]:
    """Where each of the tasks is. Workers and the broker are asked once for all of them.

    Raises:
        WarrenError: neither the monitor nor the broker can be asked.
    """
    return look(s, ids)[0]


def look(s: Session, ids: Sequence[str]) -> tuple[dict[str, Answer], Facts]:
    """As :func:`find`, with what it follows from."""
    from deploy.where.decide import decide
    from deploy.where.facts import gather

    facts = gather(s, ids)
    return {id_: decide(id_, facts) for id_ in ids}, facts
