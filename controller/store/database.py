"""Opening the database, and its transactions.

SQLite in WAL mode, so that a CLI call reads while another process collects events; FULL
synchronous, because ASSIGNED must be on disk before a job is sent. pysqlite would begin a
transaction only at the first write, and upgrade a read lock then, which can fail with "database is
locked" in the middle: the driver's own transactions are off, and each begins explicitly as what it
is. ``write`` takes the write lock at its start and waits for it; ``read`` never waits.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.pool import QueuePool

from artifacts.persisting import Point
from controller.store.schema import REVISION
from protos.errors import Busy, DiskFull, InvalidRequest, Refused

MIGRATIONS = Path(__file__).parent / "migrations"

_BUSY_TIMEOUT_S = 30.0
_BUSY_PAUSE_S = 0.005


class Store:
    """An open database. Safe to share between threads; each transaction has its own connection."""

    def __init__(self, engine: Engine) -> None:
        self._read = engine
        self._write = engine.execution_options(write=True)

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Opens the database, makes it if it is not there, and brings its schema up to date.

        Raises InvalidRequest for a file that is no database, Refused for a newer schema.
        """
        store = cls(_engine(path))
        try:
            store._bring_up_to_date()
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        self._read.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database throughout."""
        with _translated(), self._read.begin() as connection:
            yield connection

    @contextmanager
    def write(self, point: Point) -> Iterator[Connection]:
        """A transaction that commits when the block ends well; holds the only write lock."""
        with (
            _translated(),
            self._write.connect() as connection,
            connection.begin() as transaction,
        ):
            yield connection
            with point:
                transaction.commit()

    def _bring_up_to_date(self) -> None:
        """One small read when there is nothing to do; Alembic is imported only when there is."""
        with self.read() as connection:
            if _revision(connection) == REVISION:
                return
        with self.write(Point.FLEET_OPENED) as connection:
            revision = _revision(connection)
            if revision != REVISION:
                _check_known(revision)
                _upgrade(connection)


def _engine(path: Path) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        poolclass=QueuePool,
        connect_args={"timeout": _BUSY_TIMEOUT_S, "check_same_thread": False},
    )
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    return engine


@contextmanager
def _translated() -> Iterator[None]:
    """The database's failures as errors of ours."""
    try:
        yield
    except OperationalError as error:
        said = str(error.orig)
        if "locked" in said:
            raise Busy(
                f"The fleet's database was locked for {_BUSY_TIMEOUT_S:.0f} s.",
                why="Another process writes to it.",
                fix="Try again; if it stays so, end that process.",
            ) from error
        if "full" in said:
            raise DiskFull(
                "The disk of the fleet's folder is full.", fix="Free some space."
            ) from error
        raise _unusable(said) from error
    except DatabaseError as error:
        raise _unusable(str(error.orig)) from error


def _unusable(said: str) -> InvalidRequest:
    return InvalidRequest(
        f"The fleet's database cannot be used: {said}.",
        fix="Check who owns the folder, or restore it from a copy; the devices hold the truth "
        "about their jobs.",
    )


def _configure(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None
    _write_ahead(connection)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Puts the database into WAL mode, which it keeps.

    The change needs the file alone, and SQLite does not wait for that: of several that open a new
    database at once all but one hear "locked" at once, whatever the timeout. So we wait here.
    """
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(_BUSY_PAUSE_S)
        else:
            return


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _revision(connection: Connection) -> str:
    """The schema's revision; empty in a new database."""
    if not inspect(connection).has_table("alembic_version"):
        return ""
    return str(connection.scalar(text("SELECT version_num FROM alembic_version")) or "")


def _check_known(revision: str) -> None:
    if revision > REVISION:
        raise Refused(
            f"The fleet's database has the schema {revision}; this nanofleet knows {REVISION}.",
            why="It was used by a newer version.",
            fix="Update nanofleet.",
        )


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
