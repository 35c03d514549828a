"""Makefile and deploy/venv.py: the first commands on a fresh machine, run by whatever python3 there is."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from deploy import venv
from deploy.paths import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()

needs_make = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


def make(*words: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    # A make that runs this test is not to be heard of.
    alone = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    return subprocess.run(["make", *words], cwd=folder, env=alone, capture_output=True, text=True, check=False)


@needs_make
@pytest.mark.parametrize("words", [[], ["help"]])
def test_make_alone_lists_every_target(words: list[str]) -> None:
    listed = dict(re.findall(r"^  make (\w+) +(\S.*)$", make(*words).stdout, re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    assert phony and set(listed) == set(phony.group(1).split())
    assert {"up", "test", "lint", "help"} <= set(listed)


@needs_make
@pytest.mark.parametrize(
    ("target", "command"), [("up", "up --try-it"), ("down", "down"), ("test", "test"), ("lint", "lint")]
)
def test_targets_call_invoke(tmp_path: Path, target: str, command: str) -> None:
    """In a checkout whose environment is newer than its lock files."""
    (tmp_path / "Makefile").write_text(MAKEFILE)
    (tmp_path / "requirements").mkdir()
    (tmp_path / ".venv").mkdir()
    for extra in ("ops", "dev"):
        (tmp_path / "requirements" / f"{extra}.txt").touch()
        (tmp_path / ".venv" / extra).touch()
    done = make("--dry-run", target, folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, f".venv/bin/invoke {command}\n")


@needs_make
def test_a_fresh_checkout_makes_its_environment_and_installs_what_is_locked(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text(MAKEFILE)
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "ops.txt").touch()
    lines = make("--dry-run", "up", "PYTHON=python3.13", folder=tmp_path).stdout.splitlines()
    assert lines[0] == "test -x .venv/bin/pip || python3.13 deploy/venv.py .venv"
    assert any("--require-hashes -r requirements/ops.txt" in line for line in lines)
    assert lines[-1] == ".venv/bin/invoke up --try-it"


@needs_make
def test_a_python_that_is_refused_ends_make(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text(MAKEFILE)
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "ops.txt").touch()
    done = make("up", "PYTHON=false", folder=tmp_path)
    assert done.returncode == 2
    assert "invoke" not in done.stdout


@pytest.mark.parametrize("version", [(3, 8), (3, 10), (3, 15), (2, 7)])
def test_a_python_that_will_not_do(monkeypatch: pytest.MonkeyPatch, version: tuple[int, int]) -> None:
    monkeypatch.setattr(sys, "version_info", (*version, 1, "final", 0))
    monkeypatch.setattr(subprocess, "call", lambda *_: pytest.fail("made an environment"))
    with pytest.raises(SystemExit) as caught:
        venv.main("folder")
    assert caught.value.code == (
        f"error: Warren needs Python 3.11 to 3.14 and python3 is {version[0]}.{version[1]}; "
        "name another one: make up PYTHON=python3.13"
    )


@pytest.mark.parametrize("version", [(3, 11), (3, 14)])
def test_a_python_that_will_do(monkeypatch: pytest.MonkeyPatch, version: tuple[int, int]) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(sys, "version_info", (*version, 1, "final", 0))
    monkeypatch.setattr(subprocess, "call", lambda command: ran.append(command) or 7)
    assert venv.main("folder") == 7
    assert ran == [[sys.executable, "-m", "venv", "folder"]]


def test_a_python_without_its_venv_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(
        SystemExit, match="error: this Python can't make virtual environments; install its venv package"
    ):
        venv.main("folder")


def test_as_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(sys, "argv", ["venv.py", "folder"])
    monkeypatch.setattr(subprocess, "call", lambda command: given.append(command[-1]) or 0)
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "deploy" / "venv.py"), run_name="__main__")
    assert (caught.value.code, given) == (0, ["folder"])


def test_its_text_is_one_that_old_pythons_can_read() -> None:
    import ast

    # 3.4: no annotations of variables, no f-strings; what is newer would be a SyntaxError instead of our line.
    tree = ast.parse((ROOT / "deploy" / "venv.py").read_text(), feature_version=(3, 7))
    assert not any(
        isinstance(node, ast.JoinedStr | ast.NamedExpr | ast.AnnAssign | ast.Match) for node in ast.walk(tree)
    )


def test_the_versions_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest, newest = venv.OLDEST, venv.NEWEST
    assert project["requires-python"] == f">={oldest[0]}.{oldest[1]},<{newest[0]}.{newest[1] + 1}"
