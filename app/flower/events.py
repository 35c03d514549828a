"""Flower's `Events`, fed by the event log and kept in a file of ours."""

from __future__ import annotations

import logging
import os
from collections import deque
from pathlib import Path
from threading import Event, Thread
from time import monotonic, time
from typing import Any

from flower.events import Events as FlowerEvents
from tornado.ioloop import IOLoop, PeriodicCallback

from app.eventlog import Stop
from app.events.position import Position
from app.flower.health import Health
from app.flower.receiver import Batch, Inlet, Receiver
from app.flower.saved import Saved
from app.flower.snapshot import Snapshot, restore
from app.flower.state import State
from app.settings import AppSettings

__all__ = ["Events"]

# Seconds that events are taken in one go. A request takes two or three turns of the loop, and waits as often.
SLICE = 0.01
# Tasks indexed for searches in one go, by the same measure.
INDEXED = 1_000
# Seconds between two looks for workers that are long gone.
PURGE_EVERY = 60.0
# Seconds that a stop waits for a save that is under way, and for the receiver.
STOP_LIMIT = 10.0
RECEIVER_LIMIT = 2.0
# Seconds between two looks whether the receiver lives.
WATCH_EVERY = 1.0

logger = logging.getLogger("warren.flower")


class Events(FlowerEvents):
    """Runs three threads: the receiver, which this is; the watch over it; and one that writes, while the state is saved.

    The state belongs to the web server's thread. The receiver hands it events, and waits until they are taken.
    """

    def __init__(self, capp: Any, io_loop: IOLoop, options: Any, settings: AppSettings) -> None:
        self.health = Health(settings.flower_ready_seconds, settings.flower_deaf_seconds)
        self.position: Position | None = None
        self._limits = {"max_workers_in_memory": options.max_workers, "max_tasks_in_memory": options.max_tasks}
        self._saved = Saved(Path(f"{options.db}.state"))
        self._saving: Thread | None = None
        self._saved_at: Position | None = None
        self._clock = 0
        self._batches: deque[Batch] = deque()
        self._taken = Event()
        self._loaded: State | None = None
        self._flag = Stop()
        self._url = settings.broker_url
        super().__init__(
            capp,
            io_loop,
            db=options.db,
            persistent=options.persistent,
            enable_events=options.enable_events,
            state_save_interval=options.state_save_interval,
            **self._limits,
        )
        # Flower makes one of its own kind where there was none to load.
        self.state: State = self._loaded or State(**self._limits)
        self._inlet = Inlet(self, self.health, self._clock)
        self._purge_after = options.purge_offline_workers
        self._purging = PeriodicCallback(self.purge, PURGE_EVERY * 1000)
        # Workers that were purged, for who keeps them too.
        self.on_purge: Any = None

    # --- Flower's side, in the web server's thread

    def start(self) -> None:
        super().start()
        Thread(target=self._watch, name="watch", daemon=True).start()
        if self._purge_after is not None:
            self._purging.start()

    def stop(self) -> None:
        """Saves the state. The web server's loop has ended, so that nothing changes any more."""
        self._flag.set()
        self._purging.stop()
        self.join(RECEIVER_LIMIT)
        if self._saving is not None:
            self._saving.join(STOP_LIMIT)
        super().stop()
        if self._saving is not None:
            self._saving.join(STOP_LIMIT)

    def load_state(self) -> State | None:
        def use(pieces: Any) -> State:
            state = State(**self._limits)
            self.position, self._clock = restore(pieces, state)
            return state

        self._loaded = self._saved.load(use)
        if self._loaded is None:
            self.position, self._clock = None, 0
        self._saved_at = self.position
        return self._loaded

    def save_state(self) -> None:
        """Begins to save the state. A save that is still under way, to a slow disk, is not disturbed by another."""
        if self.position is None or self.position == self._saved_at or (self._saving and self._saving.is_alive()):
            return
        snapshot = Snapshot(self.state, self.position, self._inlet.clock)
        self._saving = Thread(target=self._save, args=(snapshot,), name="save", daemon=True)
        self._saving.start()

    def _save(self, snapshot: Snapshot) -> None:
        if self._saved.save(snapshot.pieces()):
            self._saved_at = snapshot.position

    def purge(self) -> None:
        gone = self.state.purge(time() - self._purge_after)
        if gone and self.on_purge is not None:
            self.on_purge(gone)

    def _work(self) -> None:
        """Takes events for as long as nobody minds, and goes on after whatever else there is to do."""
        end = monotonic() + SLICE
        self.health.beat()
        while self._batches:
            batch = self._batches[0]
            for event in batch.events:
                try:
                    self.state.event(event)
                except Exception:
                    logger.exception("an event at offset %d of the log is skipped", batch.position.offset)
            self.position = batch.position
            self._batches.popleft()
            if monotonic() >= end:
                self.io_loop.add_callback(self._work)
                return
        self._taken.set()

    def _index(self) -> None:
        if not self.state.search_engine.catch_up(INDEXED):
            self.io_loop.add_callback(self._index)

    def _went_live(self) -> None:
        self.state.go_live()
        self._index()
        if self.persistent:
            # At once: a replay is not worth being done twice.
            self.save_state()

    def _start_over(self) -> None:
        # What is known of the old log's tasks stays: nobody else knows it any more.
        self.position = self._saved_at = None
        self._taken.set()

    # --- the receiver's side, in its thread

    def run(self) -> None:
        Receiver(self._url, self._inlet, self._flag, self.health).run()

    def take(self, batches: list[Batch]) -> None:
        """As :class:`app.flower.receiver.State` says; returns early where Flower is stopped."""
        self._batches.extend(batches)
        self._wait(self._work)

    def at_end(self) -> None:
        self.io_loop.add_callback(self._went_live)

    def start_over(self) -> None:
        self._wait(self._start_over)

    def _wait(self, callback: Any) -> None:
        self._taken.clear()
        self.io_loop.add_callback(callback)
        while not self._taken.wait(0.5) and not self._flag.is_set():
            pass

    # --- the watch

    def _watch(self) -> None:
        while not self._flag.wait(WATCH_EVERY):
            if (silent := self.health.deaf()) is not None:
                logger.error(
                    "nothing was heard of the receiver of events for %.0f s: ending, to be started again", silent
                )
                logging.shutdown()
                # Threads that hang end no other way. And all that is not saved is in the log.
                os._exit(1)
