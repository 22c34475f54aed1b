"""Journals of earlier agents, as those agents wrote them, opened by this one.

The files of data/ were recorded by the code of their time, of each schema version: a job
that ended well, one that failed, one that was cancelled, one that runs (in generation 2, to be
paused), one that is paused and one that waits. In the oldest, recipes had one stage, in fields of
their own.
A new schema version needs a recording of the one before it here.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agent.jobs import spec as specs
from agent.jobs import states
from agent.jobs.database import SCHEMA_VERSION
from agent.jobs.journal import Journal
from agent.jobs.retention import Limits
from protos.errors import InvalidRequest, Refused
from protos.nanofleet.v1 import job_pb2
from tests.agent.clocks import FakeClock

DATA = Path(__file__).parent / "data"
RECORDED = sorted(path.name for path in DATA.glob("journal-v*.sql"))

STATES = {
    "done": states.SUCCEEDED,
    "running": states.RUNNING,
    "paused": states.PAUSED,
    "queued": states.QUEUED,
    "canceled": states.CANCELED,
    "broken": states.FAILED,
}


@pytest.fixture(params=RECORDED)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    restored = tmp_path / "journal.db"
    with closing(sqlite3.connect(restored)) as database:
        database.executescript((DATA / request.param).read_text())
    return restored


def schema(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        return int(database.execute("SELECT value FROM meta WHERE key='schema'").fetchone()[0])


def test_each_older_version_has_its_recording() -> None:
    versions = {
        int(name.removeprefix("journal-v").split(".")[0].split("-")[0]) for name in RECORDED
    }
    assert versions >= set(range(1, SCHEMA_VERSION))


def test_everything_is_there_and_the_jobs_go_on(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        query = "SELECT value FROM meta WHERE key='journal_id'"
        (journal_id,) = database.execute(query).fetchone()
    for _ in range(2):
        journal = Journal(path, FakeClock(boot_id="boot-2"))
        assert journal.journal_id == journal_id, "controllers go on behind their cursors"
        jobs = {entry.job.spec.name: entry.job for entry in journal.entries()}
        assert {name: job.state for name, job in jobs.items()} == STATES
        assert jobs["done"].result.final_loss == 2.0
        assert jobs["broken"].attempts[0].cause == job_pb2.CAUSE_BAD_DATA
        assert jobs["broken"].attempts[0].log_tail == "Traceback"
        assert (jobs["running"].generation, jobs["running"].progress.step) == (2, 2)
        assert journal.entry(jobs["running"].id).standing.wish is states.Wish.PAUSE
        seqs = [event.seq for event in journal.events(0)]
        assert seqs == list(range(1, len(seqs) + 1))
        journal.close()
    assert schema(path) == SCHEMA_VERSION

    journal = Journal(path, FakeClock(boot_id="boot-2"), Limits(keep_bytes=0, most_bytes=1 << 30))
    active = [event for event in journal.events(0) if event.job_id in unfinished(journal)]
    journal.retention.acknowledge(seqs[-1])
    while journal.retention.prune():
        pass
    left = journal.events(0)
    assert [event for event in left if event.job_id in unfinished(journal)] == active
    done = [event.WhichOneof("body") for event in left if event.job_id == jobs["done"].id]
    assert done[-2:] == ["pruned", "transition"]
    assert set(done) == {"transition", "pruned"}
    cut = journal.apply(jobs["running"].id, states.Interrupted(job_pb2.CAUSE_POWER_LOSS))
    assert cut.state == states.PAUSED
    journal.rehearsed(cut.id, job_pb2.JobEvent(plan=job_pb2.JobPlan(duration_s=90)))
    assert journal.job(cut.id).rehearsal.plan.duration_s == 90
    journal.close()


def unfinished(journal: Journal) -> set[str]:
    return {entry.job.id for entry in journal.entries(tuple(states.ACTIVE))}


def test_what_an_older_agent_took_and_this_one_cannot_run_is_told(tmp_path: Path) -> None:
    """Before it is tried: a worker would train nothing, or something else."""
    path = tmp_path / "journal.db"
    with closing(sqlite3.connect(path)) as database:
        database.executescript((DATA / "journal-v1-one-stage.sql").read_text())
    journal = Journal(path, FakeClock())
    entry = journal.next_queued()
    journal.close()
    assert entry is not None
    with pytest.raises(InvalidRequest, match="The recipe has 0 stages"):
        specs.check(entry.job.spec)


def test_a_journal_of_a_newer_agent_is_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE meta SET value='99' WHERE key='schema'")
    with pytest.raises(Refused, match="written by a newer agent"):
        Journal(path, FakeClock())
    assert schema(path) == 99
