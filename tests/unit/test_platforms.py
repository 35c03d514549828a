"""deploy/platforms/__init__.py: which platform a command uses, and what is remembered of it."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from deploy import platforms
from deploy.errors import ExitCode, WarrenError
from deploy.platforms.compose import Compose
from deploy.settings import Settings
from tests.unit.conftest import FakeRunner


@pytest.fixture
def made(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    monkeypatch.setattr(platforms, "make", lambda name, *_: names.append(name))
    return names


@pytest.mark.parametrize(
    ("asked", "setting", "remembered", "chosen"),
    [
        (None, "auto", None, "detected"),
        (None, "auto", "local", "local"),
        (None, "auto", "compose", "compose"),
        (None, "local", "compose", "local"),
        ("compose", "local", "local", "compose"),
        ("local", "auto", None, "local"),
        ("auto", "local", "compose", "compose"),
    ],
)
def test_the_choice(
    made: list[str],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: str | None,
    setting: str,
    remembered: str | None,
    chosen: str,
) -> None:
    monkeypatch.setattr(platforms, "detect", lambda *_: "detected")
    monkeypatch.setattr(platforms, "NAMES", ("compose", "local", "detected"))
    if remembered:
        platforms.remember(remembered)
    platforms.choose(asked, Settings(platform=setting), FakeRunner())  # type: ignore[arg-type]
    assert made == [chosen]


def test_what_was_chosen_is_remembered_until_it_is_forgotten(home: Path) -> None:
    file = home / ".warren" / "platform"
    platforms.forget()
    platforms.remember("local")
    assert file.read_text() == "local\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    platforms.forget()
    assert not file.exists()


@pytest.mark.parametrize("name", ["nomad", "Compose", " compose"])
def test_a_platform_that_there_is_not(made: list[str], name: str) -> None:
    with pytest.raises(WarrenError) as caught:
        platforms.choose(name, Settings(), FakeRunner())  # type: ignore[arg-type]
    assert caught.value.code is ExitCode.USAGE
    assert str(caught.value) == f"there is no platform {name!r}; choose one of compose, local, kubernetes"
    assert made == []


def test_where_an_engine_answers_it_is_compose(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = platforms.choose(None, Settings(), FakeRunner({"docker version": "28.2.2\n"}))  # type: ignore[arg-type]
    assert isinstance(chosen, Compose)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({"docker version": WarrenError("docker is not installed", ExitCode.PLATFORM)}, "docker is not installed; "),
        ({"docker version": WarrenError("it did not end", ExitCode.TIMEOUT)}, "the Docker engine does not answer; "),
        ({}, "the Docker engine does not answer; "),
    ],
)
def test_where_none_does_it_is_local_and_says_so_in_one_line(
    home: Path, capsys: pytest.CaptureFixture[str], answers: dict[str, Any], why: str
) -> None:
    assert platforms.detect(Settings(), FakeRunner(answers)) == "local"  # type: ignore[arg-type]
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"platform local: {why}")
    assert said.err.count("\n") == 1


def test_a_platform_that_is_set_asks_no_engine(made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platforms, "detect", lambda *_: pytest.fail("asked"))
    platforms.choose(None, Settings(platform="local"), FakeRunner())  # type: ignore[arg-type]
    platforms.choose("compose", Settings(), FakeRunner())  # type: ignore[arg-type]
    assert made == ["local", "compose"]
