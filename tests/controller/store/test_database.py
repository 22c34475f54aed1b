"""The database: its schema, its upgrades, its transactions."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import controller.store
from artifacts.persisting import Point
from controller.store import Store, devices, jobs, keys, leases, schema
from controller.store.devices import Cursor
from protos.errors import InvalidRequest, Refused
from protos.nanofleet.v1 import job_pb2

MIGRATIONS = Path(controller.store.__file__).parent / "migrations"


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}


def test_the_migrations_lead_to_the_schema(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "fleet.db")
    with store.read() as transaction:
        assert compare_metadata(MigrationContext.configure(transaction), schema.metadata) == []
    store.close()


def test_a_database_of_an_earlier_version_is_brought_up_to_date(tmp_path: Path) -> None:
    """Recorded by the code of that version, with one job that runs and one that is unconfirmed."""
    path = tmp_path / "fleet.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((Path(__file__).parent / "data/fleet-0001.sql").read_text())
    store = Store.open(path)
    with store.write(Point.FLEET_COLLECTED) as transaction:
        assert compare_metadata(MigrationContext.configure(transaction), schema.metadata) == []
        assert [record.name for record in devices.every(transaction)] == ["kitchen"]
        assert devices.cursor(transaction, "kitchen") == Cursor("j1", 2)
        running, waiting = jobs.unfinished(transaction)
        assert [event.seq for event in jobs.events_of(transaction, running)] == [1, 2]
        assert waiting.state == job_pb2.JOB_STATE_UNSPECIFIED
        assert leases.on_device(transaction, "kitchen") == [], "they belong to their device"
        moved = leases.move(transaction, waiting, "porch", "moved")
        assert (moved.device, moved.generation) == ("porch", 2)
    store.close()


def test_one_with_a_job_that_has_moved_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "fleet.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((Path(__file__).parent / "data/fleet-0002.sql").read_text())
    store = Store.open(path)
    with store.read() as transaction:
        assert compare_metadata(MigrationContext.configure(transaction), schema.metadata) == []
        assert [record.name for record in devices.every(transaction)] == ["kitchen", "porch"]
        _, moved = jobs.unfinished(transaction)
        assert (moved.device, moved.generation) == ("porch", 2)
        assert [left.device for left in leases.left_by(transaction, moved.id)] == ["kitchen"]
        assert not keys.any_made(transaction)
    store.close()


def test_every_earlier_version_is_recorded() -> None:
    recorded = {path.stem for path in (Path(__file__).parent / "data").glob("fleet-*.sql")}
    earlier = {f"fleet-{number:04}" for number in range(1, int(schema.REVISION))}
    assert recorded == earlier


def test_the_revision_in_the_code_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_current_head() == schema.REVISION


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "fleet.db"
    for name in ("kitchen", "porch"):
        store = Store.open(path)
        with store.write(Point.FLEET_COLLECTED) as transaction:
            devices.join(transaction, name, "h:1", "e1", {}, 7)
        store.close()
    store = Store.open(path)
    with store.read() as transaction:
        assert [record.name for record in devices.every(transaction)] == ["kitchen", "porch"]
    store.close()


@pytest.mark.parametrize("attempt", range(20))  # the race to WAL mode is lost one time in fifty
def test_of_many_that_open_a_new_one_at_once_all_can_use_it(tmp_path: Path, attempt: int) -> None:
    path = tmp_path / f"{attempt}.db"
    failures: list[BaseException] = []

    def use(number: int) -> None:
        try:
            store = Store.open(path)
            with store.write(Point.FLEET_COLLECTED) as transaction:
                devices.join(transaction, f"device-{number}", "h:1", "e1", {}, 7)
            store.close()
        except BaseException as error:  # noqa: BLE001 (told to the test)
            failures.append(error)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    store = Store.open(path)
    with store.read() as transaction:
        assert len(devices.every(transaction)) == 8
    store.close()


def test_an_upgrade_that_fails_leaves_the_database_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fleet.db"
    monkeypatch.setattr("controller.store.database.REVISION", "9999")
    broken = tmp_path / "migrations"
    monkeypatch.setattr("controller.store.database.MIGRATIONS", broken)
    (broken / "versions").mkdir(parents=True)
    (broken / "env.py").write_text((MIGRATIONS / "env.py").read_text())
    (broken / "versions/9999_broken.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\nrevision='9999'\ndown_revision=None\n"
        "def upgrade():\n    op.create_table('half', sa.Column('x', sa.Text))\n    1 / 0\n"
    )
    with pytest.raises(ZeroDivisionError):
        Store.open(path)
    assert tables(path) == set()


def test_a_newer_database_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "fleet.db"
    Store.open(path).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(Refused, match="newer version"):
        Store.open(path)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "fleet.db").write_bytes(b"not a database at all, but long enough to look" * 100)
    with pytest.raises(InvalidRequest, match="cannot be used"):
        Store.open(tmp_path / "fleet.db")


def test_a_transaction_that_raises_leaves_nothing(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "fleet.db")

    def join_and_fail() -> None:
        with store.write(Point.FLEET_COLLECTED) as transaction:
            devices.join(transaction, "kitchen", "h:1", "e1", {}, 7)
            raise KeyError

    with pytest.raises(KeyError):
        join_and_fail()
    with store.read() as transaction:
        assert devices.every(transaction) == []
    store.close()


def test_a_reader_sees_one_state_while_another_writes(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "fleet.db")
    with store.read() as reading:
        assert devices.every(reading) == []
        with store.write(Point.FLEET_COLLECTED) as writing:
            devices.join(writing, "kitchen", "h:1", "e1", {}, 7)
        assert devices.every(reading) == []
    with store.read() as reading:
        assert len(devices.every(reading)) == 1
    store.close()
