"""The file below the journal: its schema and version, and how much each transaction is synced.

    meta     key ─ value                    schema, journal_id, boot_id, acknowledged
    job      position ─ id, generation, spec, spec_digest, submitted_by, submitted
             │          state, wish, transitions, crashes, shrinks        (states.Standing)
             │          ended, progress, result, message, rehearsal       (what people see)
             │          details_bytes                                     (retention.py)
    attempt  └ (job_id, number) ─ record                                  (a serialised Attempt)
    event    └ seq ─ job_id, record                                       (a serialised JobEvent)
               seq ─ '', record                                (of the device: a DeviceEvent)

SQLite with a write-ahead log: one writer, readers never wait, and a commit is one sync. Its small
page cache is deliberate: the agent shares the board's memory with the models.

``journal_id`` is made with the file: a device whose card was flashed again has another one, and a
cursor into the old journal is known to be void.
"""

import enum
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from artifacts import headroom
from artifacts.persisting import Point
from protos.errors import DiskFailed, DiskFull, InternalError, Refused

SCHEMA_VERSION = 3
# Every so many light transactions one is synced; so many event numbers a power cut can take.
SYNC_EVERY = 64
# With less than that free, SQLite has no room for its shared index, and calls it an I/O error.
_INDEX_BYTES = 32 << 10

# What SQLite says of a file that is no database any more, in contrast to one that it cannot reach.
_DAMAGED = ("malformed", "not a database")
# What SQLite says when the system does not write for it.
_FAILED = ("disk I/O error", "readonly", "unable to open")

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE job (
    position     INTEGER PRIMARY KEY AUTOINCREMENT,
    id           TEXT NOT NULL UNIQUE,
    generation   INTEGER NOT NULL,
    spec         BLOB NOT NULL,
    spec_digest  TEXT NOT NULL,
    submitted_by TEXT NOT NULL,
    submitted    BLOB NOT NULL,
    state        INTEGER NOT NULL,
    wish         TEXT NOT NULL DEFAULT '',
    transitions  INTEGER NOT NULL DEFAULT 0,
    crashes      INTEGER NOT NULL DEFAULT 0,
    shrinks      INTEGER NOT NULL DEFAULT 0,
    ended        BLOB,
    progress     BLOB,
    result       BLOB,
    message      TEXT NOT NULL DEFAULT '',
    rehearsal    BLOB,
    details_bytes INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX job_by_state ON job (state, position);
CREATE INDEX job_by_details ON job (position, details_bytes) WHERE details_bytes>0;
CREATE TABLE attempt (
    job_id TEXT NOT NULL REFERENCES job (id),
    number INTEGER NOT NULL,
    record BLOB NOT NULL,
    PRIMARY KEY (job_id, number)
) WITHOUT ROWID;
CREATE TABLE event (
    seq    INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL REFERENCES job (id),
    record BLOB NOT NULL
);
CREATE INDEX event_by_job ON event (job_id, seq);
"""
# What brings a journal of each older version to the next.
_UPGRADES = {
    1: ("ALTER TABLE job ADD COLUMN rehearsal BLOB",),
    2: (
        "ALTER TABLE job ADD COLUMN details_bytes INTEGER NOT NULL DEFAULT 0",
        "CREATE INDEX job_by_details ON job (position, details_bytes) WHERE details_bytes>0",
        # Of those that have ended: SUCCEEDED, FAILED, CANCELED.
        "UPDATE job SET details_bytes=(SELECT COALESCE(SUM(LENGTH(record)), 0) FROM event"
        " WHERE job_id=job.id) WHERE state IN (4, 5, 6)",
    ),
}


class Sync(enum.Enum):
    """When a committed transaction is on the disk."""

    NOW = "FULL"  # before the commit returns: transitions
    SOON = "NORMAL"  # with one of the next SYNC_EVERY: progress


class Damaged(Exception):
    """The file is no journal, or not a whole one; the text is SQLite's. See quarantine.py."""


class Database:
    """Blocking, and for one thread at a time. Raises Damaged for a file that is not whole."""

    def __init__(self, path: Path, boot_id: str) -> None:
        self._path = path
        self._unsynced = 0
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA cache_size=-512")
            self._check_whole()
            self.journal_id = self._opened(boot_id)
        except sqlite3.DatabaseError as error:
            self._check_room(error)
            if any(words in str(error) for words in _DAMAGED):
                self._db.close()
                raise Damaged(str(error)) from None
            raise InternalError(
                f"The journal {path} cannot be opened: {error}.",
                fix="Check the disk of the agent's state folder, and who owns it.",
            ) from None
        except Damaged:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    def execute(self, query: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        return self._db.execute(query, values)

    def row(self, query: str, values: tuple[object, ...] = ()) -> sqlite3.Row | None:
        found: sqlite3.Row | None = self._db.execute(query, values).fetchone()
        return found

    @contextmanager
    def transaction(self, sync: Sync, point: Point) -> Iterator[None]:
        """All of the block or nothing of it. Raises DiskFull when there is no room for it,
        and DiskFailed when the disk does not take it."""
        try:
            self._db.execute(f"PRAGMA synchronous={self._level(sync)}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                with point:
                    self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.IntegrityError:
            raise  # a defect of ours, not of the disk
        except sqlite3.DatabaseError as error:
            self._check_room(error)
            kind = DiskFailed if any(words in str(error) for words in _FAILED) else InternalError
            raise kind(
                f"The journal cannot be written: {error}.",
                why="What was asked for was not done: the journal keeps what it said before.",
                fix="Check the disk of the agent's state folder.",
            ) from error

    def _check_room(self, error: sqlite3.DatabaseError) -> None:
        """Raises DiskFull when that is what is behind the error."""
        if "full" in str(error) or headroom.free_bytes(self._path.parent) < _INDEX_BYTES:
            raise DiskFull(
                "The journal cannot be written: the disk is full.",
                fix="Free space on the device, or delete artifacts that are not needed any more.",
            ) from None

    def _check_whole(self) -> None:
        """Raises Damaged when a page is not what its neighbours say."""
        said = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if said != "ok":
            raise Damaged(said.replace("\n", " "))

    def _level(self, sync: Sync) -> str:
        self._unsynced = 0 if sync is Sync.NOW else (self._unsynced + 1) % SYNC_EVERY
        return sync.value if self._unsynced else Sync.NOW.value

    def _opened(self, boot_id: str) -> str:
        """Makes the schema or checks its version; returns the journal's id."""
        with self.transaction(Sync.NOW, Point.JOURNAL_OPENED):
            if self.row("SELECT 1 FROM sqlite_master LIMIT 1") is None:
                for statement in _SCHEMA.split(";"):
                    self._db.execute(statement)
                self.set("schema", str(SCHEMA_VERSION))
                self.set("journal_id", uuid.uuid4().hex)
                self.set("boot_id", boot_id)
            found = int(self.get("schema"))
            if found > SCHEMA_VERSION:
                raise Refused(
                    "The journal was written by a newer agent.",
                    fix="Install that version of the agent again, or a newer one.",
                )
            for version in range(found, SCHEMA_VERSION):
                for statement in _UPGRADES[version]:
                    self._db.execute(statement)
                self.set("schema", str(version + 1))
            if self.get("boot_id") != boot_id:
                self._skip_lost_numbers()
                self.set("boot_id", boot_id)
            return self.get("journal_id")

    def _skip_lost_numbers(self) -> None:
        """A controller may have seen events that the power cut took: their numbers stay theirs."""
        self._db.execute("UPDATE sqlite_sequence SET seq=seq+? WHERE name='event'", (SYNC_EVERY,))

    def get(self, key: str) -> str:
        """Of the table meta; empty: there is none."""
        row = self.row("SELECT value FROM meta WHERE key=?", (key,))
        return "" if row is None else str(row["value"])

    def set(self, key: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
