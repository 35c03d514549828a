"""Limits of tasks that workers are told while they run: how many in a time, and how long each."""

from __future__ import annotations

import re
from typing import Any

from app.pools import DEFAULT, variable
from deploy.commands.control import connected
from deploy.commands.send import full_name
from deploy.commands.workers import Workers
from deploy.errors import ExitCode, WarrenError
from deploy.output import note, print_json, say, table
from deploy.session import Session

__all__ = ["rate_limit", "time_limit"]

# As Celery reads it: a number, in a second unless it says otherwise.
RATE = r"\d{1,9}(\.\d{1,6})?(/[smh])?"

UNTIL = "it holds until a worker restarts; write it into the task's code, or its settings, to keep it"


def rate_limit(s: Session, words: list[str], as_json: bool) -> None:
    if not words:
        show(s, ["rate_limit"], as_json)
        return
    if len(words) != 2 or not re.fullmatch(RATE, words[1]):
        raise WarrenError(
            "give a task and its limit, a number in a second, minute or hour (0: none): invoke rate-limit add 10/m",
            ExitCode.USAGE,
        )
    limit = words[1] if float(words[1].partition("/")[0]) else None
    name, answers, asked = tell(s, "rate_limit", words[0], rate_limit=limit)
    done = f"each worker starts at most {limit}" if limit else "no rate limit any more"
    told(name, answers, asked, done, {"rate_limit": limit}, as_json)


def time_limit(s: Session, names: list[str], soft: str, hard: str, default: bool, as_json: bool) -> None:
    if len(names) > 1 or (not names and (soft or hard or default)):
        raise WarrenError("for which task? One, for example: invoke time-limit add --hard 60", ExitCode.USAGE)
    if not names:
        show(s, ["soft_time_limit", "time_limit"], as_json)
        return
    limits = {"soft": seconds(soft, "--soft"), "hard": seconds(hard, "--hard")}
    if default == bool(soft or hard):
        raise WarrenError(
            "give --soft or --hard seconds or both, or --default alone: invoke time-limit add --soft 50 --hard 60",
            ExitCode.USAGE,
        )
    most = s.settings.longest_time_limit
    if max(limits["soft"] or 0, limits["hard"] or 0) > most:
        patient = next(pool.name for pool in s.settings.every_pool if pool.time_limit == most)
        setting = "WARREN_TASK_TIME_LIMIT" if patient == DEFAULT else variable(patient, "time_limit")
        raise WarrenError(
            f"no task may run for longer than {setting}={most} s, after which the broker would give it to "
            "another worker; raise that in .env, and `invoke up`",
            ExitCode.USAGE,
        )
    if limits["soft"] and limits["hard"] and limits["soft"] >= limits["hard"]:
        raise WarrenError("--soft warns a task before --hard ends it: it must be less", ExitCode.USAGE)
    sent = {which: limit or None for which, limit in limits.items()}
    name, answers, asked = tell(s, "time_limit", names[0], **sent)
    words = [f"{verb} after {sent[which]} s" for which, verb in (("soft", "warned"), ("hard", "ended")) if sent[which]]
    done = f"{', '.join(words) or 'limited as its code and the settings say'}, where it starts from now on"
    told(name, answers, asked, done, sent, as_json)
    for pool in s.settings.every_pool:
        if pool.time_limit < (sent["hard"] or 0):
            note(f"workers of the pool {pool.name} end it after {pool.time_limit} s all the same")


def seconds(text: str, option: str) -> int:
    """``text`` as a number of seconds; 0 where it is empty."""
    if not text:
        return 0
    if not re.fullmatch(r"[1-9]\d{0,5}", text):
        raise WarrenError(f"{option} takes a whole number of seconds, at least 1, not {text!r}", ExitCode.USAGE)
    return int(text)


def tell(s: Session, method: str, name: str, **arguments: Any) -> tuple[str, dict[str, Any], Workers]:
    """The task's whole name, what each worker answers, and which were asked."""
    with connected(s, "ops"):
        asked = Workers(s)
        name = full_name(s, name)
        answers = asked.tell(method, task_name=name, **arguments)
    return name, answers, asked


def told(name: str, answers: dict[str, Any], asked: Workers, done: str, values: dict[str, Any], as_json: bool) -> None:
    if asked.session.runner.dry:
        return
    refused = {node: answer["error"] for node, answer in answers.items() if "error" in (answer or {})}
    followed = sorted(set(answers) - set(refused))
    if as_json:
        print_json({"name": name, **values, "workers": followed, "refused": refused, "silent": asked.silent})
    elif followed:
        count = f"{len(followed)} of {len(asked.known)} worker{'' if len(asked.known) == 1 else 's'}"
        say(f"{name}: {done} ({count})")
        note(UNTIL)
    asked.require_all()
    if refused:
        said = "; ".join(f"{node}: {error}" for node, error in refused.items())
        raise WarrenError(said, ExitCode.FAILED)


def show(s: Session, fields: list[str], as_json: bool) -> None:
    """The limits in force: those that are not the settings'."""
    pools = {pool.name: pool for pool in s.settings.every_pool}
    with connected(s, "ops"):
        asked = Workers(s)
        answers = asked.ask("registered", taskinfoitems=fields)
        # The usual limit of one pool may have been told to a worker of another.
        stats = asked.ask("stats") if "time_limit" in fields else {}
    found: dict[tuple[str, ...], list[str]] = {}
    for node, entries in answers.items():
        # Of a worker whose pool is not known here, all limits are shown.
        pool = pools.get(str((stats.get(node) or {}).get("worker_pool", DEFAULT)))
        usual = {field: str(getattr(pool, field, "")) for field in fields}
        for entry in entries:
            name, _, options = entry.partition(" ")
            of = dict(option.partition("=")[::2] for option in options.strip("[]").split())
            values = tuple("" if of.get(field) == usual[field] else of.get(field, "") for field in fields)
            if any(values):
                found.setdefault((name, *values), []).append(node)
    rows = sorted(found.items())
    if as_json:
        limits = [
            {"name": key[0], **{f: v or None for f, v in zip(fields, key[1:], strict=True)}, "workers": on}
            for key, on in rows
        ]
        print_json({"limits": limits, "silent": asked.silent})
    elif rows:
        everybody = len(answers)
        table(
            ("task", *(field.replace("_", " ") for field in fields), "workers"),
            [(*key, "all" if len(on) == everybody else ", ".join(on)) for key, on in rows],
        )
    elif answers:
        kind = "rate limit" if "rate_limit" in fields else "time limit of its own"
        note(f"no task has a {kind}")
    asked.require_all()
