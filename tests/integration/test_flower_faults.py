"""Flower shows all that happened, whatever is damaged, full, forbidden or gone."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from tests.integration.conftest import MakeFlower
from tests.support.brokers import Broker, only
from tests.support.eventually import eventually
from tests.support.flood import Flood
from tests.support.services import Flower
from tests.support.volume import fill, small_volume

pytestmark = pytest.mark.timeout(600)


def sent(broker: Broker, tasks: int) -> Flood:
    flood = Flood(tasks)
    flood.send(broker)
    return flood


def shows(flower: Flower, *floods: Flood) -> None:
    """Waits until Flower is ready, and checks each task's state."""
    flower.wait()
    expected = {
        id_: "FAILURE" if number % 10 == 0 else "SUCCESS" for flood in floods for number, id_ in enumerate(flood.ids)
    }

    def found() -> bool:
        tasks = flower.tasks()
        return {id_: tasks[id_]["state"] for id_ in expected if id_ in tasks} == expected

    # It was ready for having seen the end lately, which may have been before the last of them.
    eventually(found, 60, flower.tail)


def said(flower: Flower, *words: str) -> int:
    return sum(all(word in line for word in words) for line in flower.lines)


def test_damaged_states(broker: Broker, make_flower: MakeFlower, tmp_path: Path) -> None:
    newest, before = tmp_path / "flower.state", tmp_path / "flower.state.previous"
    floods = [sent(broker, 200)]
    flower = make_flower()
    for damage in (b"", b"garbage", newest, b"warren flower state 9\n"):
        shows(flower, *floods)
        # After the save at the log's end, which then is the copy.
        eventually(newest.exists, 60, flower.tail)
        floods.append(sent(broker, 50))
        shows(flower, *floods)
        assert flower.end() == 0
        lines = len(flower.lines)
        # A file: itself, cut in the middle.
        newest.write_bytes(newest.read_bytes()[:3000] if isinstance(damage, Path) else damage)
        assert before.exists()
        floods.append(sent(broker, 50))
        flower.start()
        shows(flower, *floods)
        assert sum("going on with the copy before it" in line for line in flower.lines[lines:]) == 1, flower.tail()
    flower.kill()
    newest.write_bytes(b"garbage")
    before.unlink()
    flower.start()
    shows(flower, *floods)
    assert said(flower, "reading all of the event log instead") == 1, flower.tail()
    assert said(flower, "Traceback") == 0


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A small volume, with room for two states of all that other tests left in the log."""
    with small_volume(tmp_path / "volume", 32) as folder:
        yield folder


def test_a_full_volume_and_one_that_is_read_only(broker: Broker, make_flower: MakeFlower, volume: Path) -> None:
    only(broker, "4.3", because="who is full has no version")
    ballast = fill(volume)
    floods = [sent(broker, 300)]
    flower = make_flower(volume, FLOWER_STATE_SAVE_INTERVAL="200")
    shows(flower, *floods)
    eventually(lambda: said(flower, "can't be saved in", "No space left on device"), 60, flower.tail)
    flower.kill()
    flower.start()
    floods.append(sent(broker, 50))
    shows(flower, *floods)
    eventually(lambda: said(flower, "can't be saved in") == 2, 60, flower.tail)
    ballast.unlink()
    eventually(lambda: said(flower, f"is saved in {volume} again"), 60, flower.tail)
    # Of many tries, one line.
    assert said(flower, "can't be saved in") == 2, flower.tail()

    # Refused while a file there is being written.
    remount = ["mount", "-o", "remount,ro", str(volume)]
    eventually(lambda: subprocess.run(remount, check=False, capture_output=True).returncode == 0, 60)
    floods.append(sent(broker, 50))
    eventually(lambda: said(flower, "can't be saved in", "Read-only file system"), 60, flower.tail)
    shows(flower, *floods)
    flower.kill()
    flower.start()
    shows(flower, *floods)
    floods.append(sent(broker, 50))
    shows(flower, *floods)
    assert flower.end() == 0
    assert said(flower, "Traceback") == 0


# Seconds. Beyond the 17 or so between two tries to reach a broker that hangs.
DEAF = 30


def test_the_broker_is_silent_and_then_away(broker: Broker, make_flower: MakeFlower) -> None:
    only(broker, "4.3", because="an outage takes a minute, and who is gone has no version")
    floods = [sent(broker, 200)]
    flower = make_flower(FLOWER_READY_SECONDS="5", FLOWER_DEAF_SECONDS=str(DEAF))
    shows(flower, *floods)
    process = flower.popen.pid
    # The connection stands, and nothing comes: what made Flower deaf, and green.
    container = broker.container.get_wrapped_container()  # type: ignore[attr-defined]
    container.pause()
    try:
        eventually(lambda: not flower.ready, 60, flower.tail)
        assert flower.ask("/readyz")[1].count("\n") == 1
    finally:
        container.unpause()
    floods.append(sent(broker, 200))
    shows(flower, *floods)
    lines = len(flower.lines)

    broker.kill()
    gone = monotonic()
    eventually(lambda: "no broker at" in flower.ask("/readyz")[1], 60, flower.tail)
    # For longer than a receiver may be silent that does nothing.
    eventually(lambda: monotonic() - gone > DEAF + 5, DEAF + 60)
    assert (flower.ready, flower.ask("/healthcheck")[0]) == (False, 200)
    assert "no broker at" in flower.ask("/readyz")[1]
    broker.start()
    floods.append(sent(broker, 200))
    shows(flower, *floods)
    # Away is not deaf, for however long: it tries, and says so once.
    outage = flower.lines[lines:]
    assert any("trying again until it works" in line for line in outage), flower.tail()
    assert sum("no broker at" in line for line in outage) <= 1, flower.tail()
    assert sum("again after" in line for line in outage) == 1, flower.tail()
    assert said(flower, "nothing was heard") == 0
    assert (flower.popen.poll(), flower.popen.pid) == (None, process)
