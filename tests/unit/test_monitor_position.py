"""The monitor's position on disk."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from app.eventlog import Entry
from app.monitor.position import Position, PositionFile

POSITION = Position(offset=7, checksum=123, time=1.5)


def test_it_comes_back(tmp_path: Path) -> None:
    file = PositionFile(tmp_path)
    assert file.load() is None
    file.save(POSITION)
    file.save(Position(8, 1, 2.0))
    assert PositionFile(tmp_path).load() == Position(8, 1, 2.0)
    assert [path.name for path in tmp_path.iterdir()] == ["position.json"]


def test_a_kill_while_it_is_saved_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = PositionFile(tmp_path)
    file.save(POSITION)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        file.save(Position(8, 1, 2.0))
    assert PositionFile(tmp_path).load() == POSITION


@pytest.mark.parametrize(
    "content", [b"", b'{"off', b"[]", b"\xff", b'{"offset": "7", "checksum": 1, "time": 1}', b'{"offset": 7}', b"null"]
)
def test_a_corrupt_file_is_said_in_a_line(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "position.json").write_bytes(content)
    file = PositionFile(tmp_path)
    assert file.load() is None
    assert len(caplog.messages) == 1
    assert "first event" in caplog.messages[0]
    file.save(POSITION)
    assert file.load() == POSITION


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "folder"
    file = PositionFile(folder)
    with caplog.at_level(logging.INFO, logger="warren.monitor"):
        file.save(POSITION)
        file.save(POSITION)
        assert len(caplog.messages) == 1
        folder.mkdir()
        file.save(POSITION)
    assert caplog.messages[1:] == ["the position is saved again"]
    assert file.load() == POSITION


def test_it_knows_its_message() -> None:
    entry = Entry(7, [], b"body")
    position = Position.of(entry, 0.0)
    assert position.is_of(entry)
    assert not position.is_of(Entry(7, [], b"other"))
    assert not position.is_of(Entry(8, [], b"body"))
