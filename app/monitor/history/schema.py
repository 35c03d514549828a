"""The history's tables, their versions, and what happens to a file that can't be used."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from threading import RLock
from time import time
from typing import Any

__all__ = ["FILE", "PLACE", "NewerSchema", "connect", "open_history", "set_aside"]

logger = logging.getLogger("warren.monitor")

FILE = "history.db"

# Beside the file SQLite keeps its write-ahead log and an index of that, which all connections map into memory; it finds both
# by their names, when a connection first reads. Were those of one file there when another takes its place, SQLite would cut
# the index short under those who read the old file still, and the system end the process (SIGBUS).
BESIDE = ("-wal", "-shm")
# Held while a file takes another's place, and from opening one until all of it is open.
PLACE = RLock()

# Seconds that a connection waits for another one's transaction: the longest, while catching up, take a few tenths.
BUSY_TIMEOUT = 30.0
# KiB of pages that a writer keeps: the upper levels of the indexes of a million tasks, and what one transaction changes.
WRITER_CACHE = 24_000
# Bytes. New ids fall all over their index; in larger pages fewer of them are written again for every transaction, which
# makes taking in events a tenth faster than with SQLite's 4,096.
PAGE = 16_384
# Pages in the write-ahead log (64 MB) until it is moved into the file: moving it every 1,000, as SQLite does by itself,
# writes the same pages of an index several times a second while catching up.
CHECKPOINT_PAGES = 4_000

# Each entry brings a file from the version before to its own (its place, counted from 1). Never changed, only added to.
MIGRATIONS = (
    """
    CREATE TABLE task (
        key INTEGER PRIMARY KEY,
        id BLOB NOT NULL,           -- 16 bytes of a UUID, or the text of any other id
        state INTEGER NOT NULL,
        name INTEGER,               -- name, queue, worker and sender: keys of word
        queue INTEGER,
        worker INTEGER,
        time REAL NOT NULL,         -- of the last change; all times are seconds since 1970
        at REAL NOT NULL,           -- since when it is in this state, by the clock of its worker
        sent REAL, received REAL, started REAL, finished REAL,
        queued REAL,                -- when it was sent last; a retry is sent again
        due REAL,                   -- from when on a worker may take it: queued, or a later eta
        runtime REAL, wait REAL,    -- seconds
        retries INTEGER NOT NULL,
        attempts INTEGER NOT NULL,  -- how often a worker received it
        attention INTEGER NOT NULL,
        attention_since REAL,
        eta TEXT, expires TEXT, sender INTEGER,
        args TEXT, kwargs TEXT, result TEXT, exception TEXT, traceback TEXT,
        root BLOB, parent BLOB,     -- root: only where it is another task
        steps BLOB NOT NULL         -- MessagePack: [[state, time, worker, note], ...] in order of time
    );
    CREATE UNIQUE INDEX task_id ON task (id);
    -- Each index also holds what other filters ask for, so that what does not match costs no look at its row. More of them
    -- would cost more than they save: an index is a tenth of what taking an event in takes.
    CREATE INDEX task_time ON task (time, state, name, worker, queue);
    CREATE INDEX task_name ON task (name, time, state, worker, queue);
    CREATE INDEX task_worker ON task (worker, time, state, name, queue);
    -- 4 is SUCCESS, which nearly all are: newest first, they are soon found in the index of times.
    CREATE INDEX task_state ON task (state, time) WHERE state <> 4;
    CREATE INDEX task_root ON task (root) WHERE root IS NOT NULL;
    CREATE INDEX task_parent ON task (parent) WHERE parent IS NOT NULL;
    CREATE INDEX task_attention ON task (attention, time) WHERE attention > 0;
    CREATE INDEX task_waiting ON task (due) WHERE state = 0 AND attention = 0;
    CREATE INDEX task_running ON task (worker) WHERE state IN (1, 2);

    -- By three letters, so that any part of a word is found; without positions, which would double its size.
    CREATE VIRTUAL TABLE task_text USING fts5 (
        args, kwargs, result, exception, traceback,
        content = 'task', content_rowid = 'key', tokenize = 'trigram', detail = none, columnsize = 0
    );

    CREATE TABLE word (key INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);

    CREATE TABLE worker (
        name TEXT PRIMARY KEY,
        heartbeat REAL NOT NULL,
        online REAL,                -- when its process began, where that was heard
        offline REAL,               -- when it said goodbye, unless it was heard of since
        active INTEGER, processed INTEGER, pid INTEGER, software TEXT, load TEXT
    ) WITHOUT ROWID;

    CREATE TABLE minute (
        minute INTEGER NOT NULL,    -- since 1970
        name INTEGER NOT NULL,      -- 0: a task whose name was never heard
        state INTEGER NOT NULL,
        count INTEGER NOT NULL,
        runtime REAL NOT NULL,      -- seconds, of all together
        longest REAL NOT NULL,
        PRIMARY KEY (minute, name, state)
    ) WITHOUT ROWID;

    CREATE TABLE handler (name TEXT PRIMARY KEY, after INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE outbox (key INTEGER PRIMARY KEY AUTOINCREMENT, handler TEXT NOT NULL, event TEXT NOT NULL);
    CREATE INDEX outbox_handler ON outbox (handler, key);

    -- The last message of the log that is in here; its checksum tells another log of the same length.
    CREATE TABLE position (only INTEGER PRIMARY KEY CHECK (only = 1), offset INTEGER, checksum INTEGER, time REAL);
    """,
    """
    -- A task that is to be tried again (3) waits for a worker too; where nothing was heard of its being sent, since when
    -- is not known.
    UPDATE task SET due = NULL WHERE state = 3 AND state <> 4 AND (queued IS NULL OR queued <= received);
    DROP INDEX task_waiting;
    CREATE INDEX task_waiting ON task (due) WHERE state IN (0, 3) AND attention = 0;
    """,
)


class NewerSchema(Exception):
    """The file was written by a later version."""


def connect(path: Path, *, readonly: bool = False, cache: int = 4_000) -> sqlite3.Connection:
    """A connection in autocommit mode; ``cache`` in KiB."""
    target = f"{path.resolve().as_uri()}?mode={'ro' if readonly else 'rwc'}"
    with PLACE:
        connection = sqlite3.connect(
            target, timeout=BUSY_TIMEOUT, isolation_level=None, uri=True, check_same_thread=False
        )
        try:
            connection.execute(f"PRAGMA cache_size = -{cache}")
            if readonly:
                open_wholly(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def open_wholly(connection: sqlite3.Connection) -> None:
    """Opens what is beside the file as well."""
    connection.execute("SELECT 1 FROM sqlite_master").fetchone()


def open_history(folder: Path) -> sqlite3.Connection:
    """The writer's connection to the history in ``folder``, of this version.

    A damaged file is set aside, and a new one begun.

    Raises:
        NewerSchema: a later version wrote it.
        sqlite3.OperationalError: the folder can't be written, or is full.
    """
    path = folder / FILE
    try:
        return prepare(path)
    except sqlite3.DatabaseError as error:
        if not damaged(error):
            raise
        set_aside(path, error)
        return prepare(path)


def prepare(path: Path) -> sqlite3.Connection:
    with PLACE:
        if not path.exists():
            # Of a file that somebody removed.
            for suffix in BESIDE:
                path.with_name(path.name + suffix).unlink(missing_ok=True)
        connection = connect(path)
        try:
            # Only of effect while the file is empty, and before the cache is measured in pages.
            connection.execute(f"PRAGMA page_size = {PAGE}")
            connection.execute(f"PRAGMA cache_size = -{WRITER_CACHE}")
            # A kill loses nothing then; losing power may lose the last transactions, offset and rows together.
            connection.execute("PRAGMA journal_mode = WAL")
            open_wholly(connection)
        except BaseException:
            connection.close()
            raise
    try:
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        migrate(connection, path)
        # What is damaged shows here as a rule, before anything is written to it.
        for table in ("position", "handler", "worker"):
            connection.execute(f"SELECT * FROM {table}").fetchone()  # noqa: S608 - the names above
    except BaseException:
        connection.close()
        raise
    return connection


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Brings the file to this version, each step in a transaction of its own."""
    version = number(connection, "PRAGMA user_version")
    if version > len(MIGRATIONS):
        raise NewerSchema(
            f"{path} was written by a later version (schema {version}, this one knows {len(MIGRATIONS)}): "
            "run that version, or move the file away and it is made again from the event log"
        )
    for step in range(version, len(MIGRATIONS)):
        connection.executescript(f"BEGIN IMMEDIATE; {MIGRATIONS[step]} PRAGMA user_version = {step + 1}; COMMIT;")
        if version:
            logger.info("the history's schema is brought from version %d to %d", step, step + 1)


def number(connection: sqlite3.Connection, query: str, *values: Any) -> int:
    return int(connection.execute(query, values).fetchone()[0])


def damaged(error: sqlite3.DatabaseError) -> bool:
    """Whether the file itself is what is wrong: not a full disk, missing rights or a mistake of ours."""
    return (
        error.sqlite_errorname.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))
        if hasattr(error, "sqlite_errorname")
        else "malformed" in str(error)
    )


def set_aside(path: Path, error: BaseException) -> None:
    """Renames a damaged history, so that it can be looked at. Only the last one is kept: they are large."""
    for old in path.parent.glob(f"{path.name}.damaged-*"):
        old.unlink()
    aside = path.with_name(f"{path.name}.damaged-{int(time())}")
    with PLACE:
        # The file first: without it nobody opens what is beside it.
        for suffix in ("", *BESIDE):
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.replace(aside.with_name(aside.name + suffix))
    logger.error("the history is damaged (%s): it is kept as %s and made again from the event log", error, aside)
