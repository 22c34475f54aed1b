"""The power goes right before and right after every sync: what was promised is there, and what was
not is whole or not at all."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.jobs.journal import Journal
from artifacts import digest as digests
from artifacts.digest import Digest
from artifacts.store import ArtifactStore
from controller.store import Store, devices, jobs
from protos.nanofleet.v1 import job_pb2
from tests.agent.clocks import FakeClock
from tests.faults import scribe
from tests.faults.disk import Act, mounted
from tests.faults.lab import ROOT
from tests.faults.powercut import Left, leave, moments, promises

# Drawn from, so that each run of CI draws the same pages.
SEED = 7


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Act]:
    """Of a disk on which everything was written once."""
    folder = tmp_path_factory.mktemp("disk") / "mounted"
    with mounted(folder) as disk:
        command = [sys.executable, "-m", "tests.faults.scribe", str(folder)]
        subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    return disk.log


@pytest.mark.parametrize("left", Left, ids=lambda left: left.value)
def test_the_power_goes_at_any_moment(log: Sequence[Act], left: Left, tmp_path: Path) -> None:
    assert len(moments(log)) > 150
    for moment in moments(log):
        folder = tmp_path / "left"
        leave(log, moment, left, SEED, folder)
        told = [line.split() for line in promises(log, moment)]
        try:
            check_journal(folder, told)
            check_store(folder, told)
            check_checkpoints(folder, told)
            check_fleet(folder, told)
        except BaseException as error:
            error.add_note(f"moment {moment} of {len(log)}, {left}, promised: {told[-3:]}")
            raise
        shutil.rmtree(folder)


def those(told: list[list[str]], word: str) -> list[list[str]]:
    return [words[1:] for words in told if words[0] == word]


def check_journal(folder: Path, told: list[list[str]]) -> None:
    """Opened as after a boot: numbers that a controller may have seen are not given again."""
    if not (folder / "state").is_dir():
        assert not those(told, "journal")
        return
    journal = Journal(folder / "state" / "journal.db", FakeClock("after the cut"))
    for (journal_id,) in those(told, "journal"):
        assert journal.journal_id == journal_id
    for word, state in (
        ("submitted", job_pb2.JOB_STATE_QUEUED),
        ("started", job_pb2.JOB_STATE_RUNNING),
        ("finished", job_pb2.JOB_STATE_SUCCEEDED),
    ):
        for (job_id,) in those(told, word):
            job = journal.job(job_id)
            assert job.state >= state
            if word == "finished":
                assert job.result.final_loss == pytest.approx(0.1)
    numbers = [event.seq for event in journal.events(0, limit=10_000)]
    assert numbers == [*range(1, len(numbers) + 1)], "what is left has no gap"
    for entry in journal.entries():
        told_of = journal.events(0, entry.job.id)
        moves = [event.transition.to for event in told_of if event.HasField("transition")]
        assert moves[-1] == entry.job.state, "state and event are one"
    journal.submit("01JD00000000000000000000ZZ", 1, b"", "operator/ann")
    assert not numbers or journal.newest_seq() > len(numbers) + 63
    journal.close()


def check_store(folder: Path, told: list[list[str]]) -> None:
    if not (folder / "artifacts").is_dir():
        assert not those(told, "stored")
        return
    store = ArtifactStore(folder / "artifacts", reserve_bytes=0)
    for artifact in store.list():
        assert digests.of_file(store.path(artifact.digest)) == artifact.digest
    gone = [digest for _, digest in those(told, "deleting")]
    for _, digest in those(told, "stored"):
        assert digest in gone or store.stat(Digest(digest)) is not None
    for _, digest in those(told, "pinned"):
        found = store.stat(Digest(digest))
        assert digest in gone or (found is not None and found.pins == ("job 1",))
    for _, digest in those(told, "deleted"):
        assert store.stat(Digest(digest)) is None
    for number in range(3):
        finish(store, scribe.data_of(number))


def finish(store: ArtifactStore, data: bytes) -> None:
    """An upload that the cut broke off goes on where the journal says, and comes out right."""
    digest = digests.of_bytes(data)
    if store.stat(digest) is not None:
        return
    offset = store.committed_offset(digest)
    with store.begin(digest, len(data), scribe.KIND, offset) as upload:
        upload.write(data[offset:])
        upload.commit()


def check_checkpoints(folder: Path, told: list[list[str]]) -> None:
    """Whole, each of them; and the newest that was promised, or a newer one."""
    kept = sorted(path for path in (folder / "checkpoints").glob("*") if path.suffix != ".tmp")
    for path in kept:
        assert path.read_bytes() == scribe.checkpoint_of(int(path.name))
    promised = [int(number) for (number,) in those(told, "checkpoint")]
    if promised:
        assert max(int(path.name) for path in kept) >= max(promised)


def check_fleet(folder: Path, told: list[list[str]]) -> None:
    if not (folder / "home").is_dir():
        assert not those(told, "assigned")
        return
    store = Store.open(folder / "home" / "fleet.db")
    with store.read() as transaction:
        for (job_id,) in those(told, "assigned"):
            assert jobs.find(transaction, job_id) is not None
        if those(told, "joined"):
            cursor = devices.cursor(transaction, "kitchen")
            seen = [e.seq for record in jobs.every(transaction)
                    for e in jobs.events_of(transaction, record)]  # fmt: skip
            assert max(seen, default=0) == cursor.seq, "events and cursor are one"
            promised = [int(seq) for (seq,) in those(told, "collected")]
            assert cursor.seq >= max(promised, default=0)
    store.close()
