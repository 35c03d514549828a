"""For those who change Warren: lint, test, lock."""

from __future__ import annotations

import os
import shutil
import sys

from deploy.errors import WarrenError
from deploy.output import note
from deploy.paths import ROOT
from deploy.session import Session

__all__ = ["lint", "lock", "test"]

PROJECT = "pyproject.toml"
LOCKS = {
    "app": [PROJECT],
    "ops": ["--extra", "ops", PROJECT],
    "dev": ["--extra", "ops", "--extra", "dev", PROJECT],
    "scan": ["--group", f"{PROJECT}:scan"],
}


def tool(name: str) -> str:
    """A program of the virtual environment that runs this."""
    return shutil.which(name, path=str(ROOT / ".venv" / "bin")) or name


def tracked(s: Session, *patterns: str) -> list[str]:
    listed = s.runner.read(["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns])
    return [name for name in listed.splitlines() if (ROOT / name).exists()]


def scripts(s: Session) -> list[str]:
    """Files that begin as shell scripts do."""
    found = []
    for name in tracked(s):
        with (ROOT / name).open("rb") as file:
            if file.readline().rstrip() in {b"#!/bin/sh", b"#!/bin/bash", b"#!/usr/bin/env bash"}:
                found.append(name)
    return found


def lint(s: Session) -> None:
    if not (ROOT / ".git").exists():
        note("lint: left out, since this is no git checkout, which says what files there are")
        return
    checks = [
        [tool("ruff"), "check", "."],
        [tool("ruff"), "format", "--check", "--quiet", "."],
        [tool("mypy")],
        [tool("yamllint"), "--strict", *tracked(s, "*.yaml", "*.yml")],
        [tool("shellcheck"), *scripts(s)],
        [tool("hadolint"), *tracked(s, "*Dockerfile")],
    ]
    failed: list[WarrenError] = []
    for check in checks:
        try:
            s.runner.run(check)
        except WarrenError as error:
            failed.append(error)
    if failed:
        raise WarrenError("\n".join(str(error) for error in failed), failed[0].code)
    note("lint: nothing to mend")


# What tests need of the system, by the program that shows whether it is there.
PACKAGES = {"rabbitmq-server": "rabbitmq-server", "chromium": "chromium", "docker-registry": "docker-registry"}


# Tests wait for brokers, stacks and clusters more than they compute, so more of them at a time than the machine has cores.
# They are given out as tests/support/sharing.py groups and orders them. More than eight have nothing left to do.
SEVERAL = ["-n", str(min((os.cpu_count() or 1) + 1, 8)), "--dist", "loadscope", "--no-loadscope-reorder"]


def test(s: Session, args: list[str]) -> None:
    from deploy import debian

    faults: WarrenError | None = None
    if not args:
        try:
            lint(s)
        except WarrenError as error:
            # Told at the end: a line that is too long must not hide what the tests say.
            faults = error
    for package, program in PACKAGES.items():
        try:
            debian.ensure(package, program, s.runner)
        except WarrenError as error:
            note(f"tests that need {package} will be skipped: {error}")
    code = s.runner.attach([sys.executable, "-m", "pytest", *(args or SEVERAL)])
    if faults:
        raise faults
    if code:
        raise SystemExit(code)


def lock(s: Session) -> None:
    held: list[str] = []
    for name, what in LOCKS.items():
        file = f"requirements/{name}.txt"
        s.runner.run(
            [
                *(
                    tool("uv"),
                    "pip",
                    "compile",
                    "--quiet",
                    "--universal",
                    "--python-version",
                    "3.11",
                    "--generate-hashes",
                ),
                *("--no-emit-index-url", "--no-annotate", "--custom-compile-command", "invoke lock", "--upgrade"),
                *(*what, *(held if PROJECT in what else []), "--output-file", file),
            ]
        )
        # The image, the checkout and the tests run the same versions; the scanner runs beside them.
        held += ["--constraint", file]
