"""What must be true after any fault, once everybody has had the time to go on.

Nothing here knows how the product does it. Events are compared with those in the device's own
journal, results with those of a run that nobody disturbed.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.clock import SystemClock
from agent.jobs.journal import Journal
from artifacts import adapter
from artifacts import digest as digests
from artifacts.digest import Digest
from artifacts.store import ArtifactStore
from controller import Fleet
from controller.records import JobRecord
from protos.nanofleet.v1 import job_pb2
from protos.nanofleet.v1.job_pb2 import JobEvent
from tests.faults.lab import Lab

# Of an adapter: nanofleet.json says when and by which job it was made, so it is another each time.
SAME = (adapter.CONFIG, adapter.SAFETENSORS, adapter.GGUF)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a job must come to, whatever happens to it: numbers to the last bit."""

    losses: Mapping[int, float]
    evaluations: Mapping[int, float]
    first_loss: float
    final_loss: float
    trained_tokens: int
    files: Mapping[str, str]


def outcome(lab: Lab, name: str) -> Outcome:
    """Of a job that nobody disturbed."""
    record, events = told(lab, name)
    result = record.job.result
    return Outcome(
        losses=losses(events),
        evaluations=evaluations(events),
        first_loss=result.first_loss,
        final_loss=result.final_loss,
        trained_tokens=result.trained_tokens,
        files=files(lab.home / "artifacts", Digest(result.adapter_digest)),
    )


def check_job(lab: Lab, name: str, expected: Outcome) -> None:
    record, events = told(lab, name)
    assert record.state == job_pb2.JOB_STATE_SUCCEEDED, record.job.message
    check_events(lab, record, events)
    for step, loss in losses(events).items():
        assert loss == expected.losses[step], f"step {step}"
    for step, loss in evaluations(events).items():
        assert loss == expected.evaluations[step], f"evaluation at step {step}"
    result = record.job.result
    assert result.first_loss == expected.first_loss
    assert result.final_loss == expected.final_loss
    assert result.trained_tokens == expected.trained_tokens
    digest = Digest(result.adapter_digest)
    assert files(lab.home / "artifacts", digest) == expected.files


def check_events(lab: Lab, record: JobRecord, events: Sequence[JobEvent]) -> None:
    """Those of the journal, all, each once, in order; transitions that follow from each other."""
    assert events == journalled(lab, record.id)
    numbers = [event.seq for event in events]
    assert numbers == sorted(set(numbers))
    moves = [event.transition for event in events if event.HasField("transition")]
    states = [move.to for move in moves]
    assert states[0] == job_pb2.JOB_STATE_QUEUED
    assert [getattr(move, "from") for move in moves[1:]] == states[:-1]
    assert states.count(job_pb2.JOB_STATE_SUCCEEDED) == (states[-1] == job_pb2.JOB_STATE_SUCCEEDED)
    attempts = [event.attempt for event in events]
    assert attempts == sorted(attempts)
    started = states.count(job_pb2.JOB_STATE_RUNNING)
    assert [attempt.number for attempt in record.job.attempts] == list(range(1, started + 1))


def check_stores(lab: Lab) -> None:
    """Whole artifacts under the right names, nothing half, nothing pinned by a job that ended."""
    for root in (lab.home, lab.device.state):
        left = [path for path in root.rglob("*.tmp") if "scratch" not in path.parts]
        assert left == []
        assert list((root / "artifacts" / "incoming").iterdir()) == []
        store = ArtifactStore(root / "artifacts", reserve_bytes=0)
        for artifact in store.list():
            assert digests.of_file(store.path(artifact.digest)) == artifact.digest
            assert artifact.pins == ()
    for folder in (lab.device.state / "jobs").iterdir():
        assert all(path.is_file() and ".log" in path.name for path in folder.iterdir())
    workers = lab.device.state / "workers"
    assert list(workers.iterdir()) == []


def told(lab: Lab, name: str) -> tuple[JobRecord, list[JobEvent]]:
    """The job as the controller knows it."""

    async def read() -> tuple[JobRecord, list[JobEvent]]:
        async with Fleet.open(lab.home) as fleet:
            record = fleet.job(name)
            return record, fleet.events(record.id)

    return asyncio.run(read())


def journalled(lab: Lab, job_id: str = "") -> list[JobEvent]:
    """What the device's own journal says, of one job or of all."""
    journal = Journal(lab.device.state / "journal.db", SystemClock())
    try:
        return journal.events(0, job_id, limit=1_000_000)
    finally:
        journal.close()


def losses(events: Sequence[JobEvent]) -> Mapping[int, float]:
    """By step; a step that was done again after a fault must have the same."""
    found: dict[int, float] = {}
    for event in events:
        if event.HasField("progress"):
            loss = found.setdefault(event.progress.step, event.progress.loss)
            assert loss == event.progress.loss, f"step {event.progress.step} was done otherwise"
    return found


def evaluations(events: Sequence[JobEvent]) -> Mapping[int, float]:
    return {e.evaluated.step: e.evaluated.loss for e in events if e.HasField("evaluated")}


def files(store: Path, digest: Digest) -> Mapping[str, str]:
    """Digests of the adapter's files that say nothing of the day."""
    path = ArtifactStore(store, reserve_bytes=0).path(digest)
    folder = path.parent / f".unpacked.{path.name}"
    adapter.unpack(path, folder)
    try:
        return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in SAME}
    finally:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
