"""The file of Flower's state: whole, or told to be damaged."""

from __future__ import annotations

import errno
import logging
import os
import pickle
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from app.flower import saved
from app.flower.saved import MAGIC, Saved


def load(path: Path) -> list[Any] | None:
    return Saved(path).load(list)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A state, and the one before it."""
    path = tmp_path / "flower.state"
    keeper = Saved(path)
    assert keeper.save(["before"])
    assert keeper.save([{"number": 1}, [2, "\ud800", float("inf"), 2**70]])
    return path


def test_what_was_saved_is_loaded(file: Path) -> None:
    assert load(file) == [{"number": 1}, [2, "\ud800", float("inf"), 2**70]]
    assert sorted(one.name for one in file.parent.iterdir()) == ["flower.state", "flower.state.previous"]


def test_nothing_was_saved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load(tmp_path / "none") is None
    assert caplog.messages == []


class Evil:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("evil",))


def sealed(body: bytes) -> bytes:
    return MAGIC + sha256(body).digest() + body


WHOLE = sealed(pickle.dumps("newest"))

DAMAGES = {
    b"": "empty",
    b"\0" * 500: "not a state",
    b"SQLite format 3\0": "not a state",
    WHOLE[:10]: "not a state",
    MAGIC: "truncated or changed",
    WHOLE[: len(MAGIC) + 7]: "truncated or changed",
    WHOLE[:-1]: "truncated or changed",
    WHOLE[:-1] + b"!": "truncated or changed",
    WHOLE + b"more": "truncated or changed",
    WHOLE.replace(b"state 1\n", b"state 2\n"): "of another version, 2",
    sealed(pickle.dumps(Evil())): "no plain data",
    sealed(b"no pickle"): "(",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda data: DAMAGES[data] + f" {len(data)}")
def test_a_damaged_file(
    file: Path, damage: bytes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    file.write_bytes(damage)
    keeper = Saved(file)
    assert keeper.load(list) == ["before"]
    (line,) = caplog.messages
    assert DAMAGES[damage] in line
    assert "going on with the copy before it" in line
    assert not Path("evil").exists()
    # The copy that helped is not put away for what is damaged.
    assert keeper.save(["after"])
    assert load(file) == ["after"]
    file.write_bytes(damage)
    assert load(file) == ["before"]


def test_both_are_damaged(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in (file, Path(f"{file}.previous")):
        path.write_bytes(b"garbage")
    assert load(file) is None
    (line,) = caplog.messages
    assert "reading all of the event log instead" in line
    assert line.count("not a state of Flower's") == 2


def test_a_whole_file_of_something_else(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    def use(pieces: Any) -> str:
        return str(next(pieces)["number"] / 1) if file.exists() else ""

    file.write_bytes(sealed(pickle.dumps({"number": "seven"})))
    assert Saved(file).load(use) is None
    assert "it holds something else: TypeError" in caplog.messages[0]


def test_killed_between_the_two_names(file: Path) -> None:
    file.replace(f"{file}.previous")
    Path(f"{file}.new").write_bytes(b"half")
    keeper = Saved(file)
    assert keeper.load(list) is not None
    assert keeper.save(["after"])
    assert load(file) == ["after"]


def test_a_volume_that_takes_nothing_is_said_once_and_when_it_is_over(
    file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    keeper = Saved(file)
    assert keeper.load(list)
    newest = file.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(saved.os, "fsync", full)
        assert not keeper.save(["lost"])
        assert not keeper.save(["lost"])
    (line,) = caplog.messages
    assert f"can't be saved in {file.parent} (No space left on device)" in line
    assert not Path(f"{file}.new").exists()
    assert file.read_bytes() == newest
    assert keeper.save(["after"])
    assert keeper.save(["after"])
    assert caplog.messages[1:] == [f"Flower's state is saved in {file.parent} again"]


def test_a_file_where_the_folder_should_be(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "taken").write_text("")
    keeper = Saved(tmp_path / "taken" / "flower.state")
    assert keeper.load(list) is None
    assert not keeper.save([1])
    assert caplog.messages
