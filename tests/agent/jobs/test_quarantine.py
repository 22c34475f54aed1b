"""A damaged journal steps aside for a new one; one that cannot be reached does not."""

import random
import sqlite3
from pathlib import Path

import pytest

from agent.jobs import quarantine
from agent.jobs.journal import Journal
from protos.errors import NanofleetError
from protos.nanofleet.v1 import job_pb2
from tests.agent.clocks import FakeClock
from tests.agent.jobs.samples import FIRST, SECOND, spec_bytes

_PAGE_BYTES = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of some pages, closed."""
    path = tmp_path / "journal.db"
    journal = Journal(path, FakeClock())
    journal.submit(FIRST, 1, spec_bytes(), "operator/ann")
    for step in range(400):
        journal.progress(FIRST, job_pb2.TrainProgress(step=step))
    journal.close()
    assert path.stat().st_size > 6 * _PAGE_BYTES
    return path


def spoil(path: Path, page: int) -> None:
    with path.open("r+b") as file:
        file.seek(page * _PAGE_BYTES)
        file.write(random.Random(page).randbytes(_PAGE_BYTES))


def test_a_whole_one_is_opened(path: Path) -> None:
    journal = quarantine.opened(path, FakeClock())
    assert journal.job(FIRST).id == FIRST
    journal.close()
    assert [each.name for each in path.parent.iterdir()] == ["journal.db"]


@pytest.mark.parametrize("page", [0, 1, 3, 5])
def test_a_damaged_page_is_noticed_and_the_rest_goes_on(
    path: Path, page: int, caplog: pytest.LogCaptureFixture
) -> None:
    with sqlite3.connect(path) as db:
        (before,) = db.execute("SELECT value FROM meta WHERE key='journal_id'").fetchone()
    db.close()
    spoil(path, page)
    spoiled = path.read_bytes()
    journal = quarantine.opened(path, FakeClock())
    assert journal.journal_id != before, "the controller would believe its cursor"
    assert journal.entries() == []
    journal.submit(SECOND, 1, spec_bytes(), "operator/ann")
    journal.close()
    assert path.with_name("journal.db.damaged").read_bytes() == spoiled
    assert "The journal was damaged" in caplog.text
    assert "the controller decides" in caplog.text


def test_what_is_no_database_steps_aside_again_and_again(path: Path) -> None:
    for content in (b"nothing that SQLite knows" * 400, b"\0" * 9000):
        path.write_bytes(content)
        quarantine.opened(path, FakeClock()).close()
        assert path.with_name("journal.db.damaged").read_bytes() == content


def test_a_journal_that_cannot_be_reached_is_left_where_it_is(path: Path) -> None:
    folder = path.with_name("folder")
    folder.mkdir()
    with pytest.raises(NanofleetError, match="cannot be opened"):
        quarantine.opened(folder, FakeClock())
    assert folder.is_dir()
