"""Writes to a disk with everything that makes something last, and says what it was promised.

    python -m tests.faults.scribe FOLDER

Each promise is written to the same disk when the call that gave it has returned, so that the disk's
log tells what was promised before which power cut.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from agent.clock import SystemClock
from agent.jobs import states
from agent.jobs.journal import Account, Journal
from artifacts import digest as digests
from artifacts import durable
from artifacts.persisting import Point
from artifacts.store import ArtifactStore
from controller.records import JobRecord
from controller.store import Store, devices, jobs
from controller.store.devices import Cursor
from protos.nanofleet.v1 import artifact_pb2, job_pb2
from tests.faults.powercut import PROMISES

Promise: TypeAlias = Callable[..., None]

KIND = artifact_pb2.ARTIFACT_KIND_CHECKPOINT
JOBS = [f"01JD0000000000000000000{number:03d}" for number in range(4)]
CHUNK_BYTES = 256 << 10
CHECKPOINTS = 4


def data_of(number: int) -> bytes:
    return bytes([number + 1]) * (3 << 20) + bytes(number + 1)


def checkpoint_of(number: int) -> bytes:
    return f"checkpoint {number}".encode() * 20_000


def main() -> None:
    folder = Path(sys.argv[1])
    with (folder / PROMISES).open("ab", buffering=0) as file:

        def promise(*words: object) -> None:
            file.write((" ".join(map(str, words)) + "\n").encode())

        write_journal(folder, promise)
        write_store(folder, promise)
        write_checkpoints(folder, promise)
        write_fleet(folder, promise)


def write_journal(folder: Path, promise: Promise) -> None:
    durable.make_folder(folder / "state")
    journal = Journal(folder / "state" / "journal.db", SystemClock())
    promise("journal", journal.journal_id)
    for job_id in JOBS:
        spec = job_pb2.JobSpec(name="persona", train=job_pb2.TrainSpec()).SerializeToString()
        journal.submit(job_id, 1, spec, "operator/ann")
        promise("submitted", job_id)
        journal.apply(job_id, states.Started())
        promise("started", job_id)
        for step in range(9):
            journal.progress(job_id, job_pb2.TrainProgress(step=step, loss=1 / (step + 1)))
        journal.checkpoint(job_id, job_pb2.CheckpointSaved(step=9))
        result = job_pb2.JobResult(steps=9, final_loss=0.1)
        journal.apply(job_id, states.Finished(), Account("done", result))
        promise("finished", job_id)
    journal.close()


def write_store(folder: Path, promise: Promise) -> None:
    store = ArtifactStore(folder / "artifacts", reserve_bytes=0)
    for number in range(3):
        data = data_of(number)
        digest = digests.of_bytes(data)
        with store.begin(digest, len(data), KIND, 0) as upload:
            for at in range(0, len(data), CHUNK_BYTES):
                upload.write(data[at : at + CHUNK_BYTES])
            upload.commit()
        promise("stored", number, digest)
        store.pin(digest, "job 1")
        promise("pinned", number, digest)
    last = digests.of_bytes(data_of(2))
    promise("deleting", 2, last)
    store.unpin(last, "job 1")
    store.delete(last)
    promise("deleted", 2, last)


def write_checkpoints(folder: Path, promise: Promise) -> None:
    """As the training worker does: each under a name of its own, and two are kept."""
    kept = durable.make_folder(folder / "checkpoints")
    for number in range(CHECKPOINTS):
        durable.write_bytes(kept / f"{number:03d}", checkpoint_of(number), Point.CHECKPOINT_WRITTEN)
        promise("checkpoint", number)
        if number > 1:
            durable.remove(kept / f"{number - 2:03d}", Point.CHECKPOINT_DROPPED)


def write_fleet(folder: Path, promise: Promise) -> None:
    durable.make_folder(folder / "home")
    store = Store.open(folder / "home" / "fleet.db")
    with store.write(Point.FLEET_JOINED) as transaction:
        devices.join(transaction, "kitchen", "h:1", "e1", {}, 7)
    promise("joined")
    for number, job_id in enumerate(JOBS):
        job = job_pb2.Job(id=job_id, generation=1)
        record = JobRecord(job_id, f"job-{number}", "kitchen", 1, job.state, job, number)
        with store.write(Point.FLEET_ASSIGNED) as transaction:
            jobs.assign(transaction, record)
        promise("assigned", job_id)
        event = job_pb2.JobEvent(seq=number + 1, job_id=job_id, generation=1)
        with store.write(Point.FLEET_COLLECTED) as transaction:
            jobs.add_event(transaction, "kitchen", "j1", event)
            devices.set_cursor(transaction, "kitchen", Cursor("j1", event.seq))
        promise("collected", event.seq)
    store.close()


if __name__ == "__main__":
    main()
