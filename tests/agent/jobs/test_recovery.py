"""What is found at the start of an agent, case by case, with a real journal and store."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.jobs import states
from agent.jobs.journal import Journal
from agent.jobs.recovery import recover
from agent.jobs.runner import pin, pin_owner
from artifacts.digest import Digest
from artifacts.manifest import AdapterManifest
from artifacts.store import ArtifactStore
from protos.nanofleet.v1 import artifact_pb2, job_pb2
from tests.agent.clocks import FakeClock
from tests.agent.jobs.samples import (
    FIRST,
    MANIFEST,
    SECOND,
    TRAINING,
    leave_adapter,
    spec_bytes,
    train_spec,
)


class Device:
    """A device between two agents: a job was running when the first one ended."""

    def __init__(self, root: Path) -> None:
        self.clock = FakeClock()
        self.journal = Journal(root / "journal.db", self.clock)
        self.store = ArtifactStore(root / "artifacts", reserve_bytes=0)
        self.jobs = root / "jobs"
        self.folder = self.jobs / FIRST
        self.folder.mkdir(parents=True)
        contents = {
            artifact_pb2.ARTIFACT_KIND_BASE_MODEL: b"base",
            artifact_pb2.ARTIFACT_KIND_DATASET: b"dataset",
        }
        for kind, content in contents.items():
            (root / "file").write_bytes(content)
            self.store.add_file(root / "file", kind)
        pin(self.store, FIRST, job_pb2.JobSpec(train=train_spec()))
        self.journal.submit(FIRST, 1, spec_bytes(), "")
        self.journal.apply(FIRST, states.Started())

    def recovered(self) -> job_pb2.Job:
        recover(self.journal, self.store, self.jobs, self.clock.boot_id)
        return self.journal.job(FIRST)

    def pins(self) -> set[str]:
        return {owner for artifact in self.store.list() for owner in artifact.pins}

    def leave_adapter(self, manifest: AdapterManifest = MANIFEST) -> None:
        leave_adapter(self.folder, manifest)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path)
    yield made
    made.journal.close()


def test_the_agent_died(device: Device) -> None:
    job = device.recovered()
    assert job.state == states.QUEUED
    assert job.attempts[0].cause == job_pb2.CAUSE_WORKER_CRASH
    assert "agent ended unexpectedly" in job.message
    assert device.pins() == {pin_owner(FIRST)}


def test_the_power_failed(device: Device) -> None:
    device.clock.boot_id = "boot-2"
    job = device.recovered()
    assert job.state == states.QUEUED
    assert job.attempts[0].cause == job_pb2.CAUSE_POWER_LOSS


def test_how_things_stood_is_kept_with_the_attempt_that_was_cut(device: Device) -> None:
    seen = job_pb2.Conditions(step=1, available_bytes=32 << 20, temperature_c=71)
    device.journal.progress(FIRST, job_pb2.TrainProgress(step=3, total_steps=4))
    recover(device.journal, device.store, device.jobs, "boot-2", lambda job_id: seen)
    last = device.journal.job(FIRST).attempts[0].last
    assert (last.step, last.total_steps) == (3, 4), "the journal knows later steps than telemetry"
    assert (last.available_bytes, last.temperature_c) == (32 << 20, 71)


def test_recovering_twice_changes_nothing_more(device: Device) -> None:
    job = device.recovered()
    assert device.recovered() == job


def test_a_finished_result_is_adopted(device: Device) -> None:
    device.leave_adapter()
    job = device.recovered()
    assert job.state == states.SUCCEEDED
    assert (job.result.steps, job.result.final_loss) == (4, 1.0)
    stored = device.store.stat(Digest(job.result.adapter_digest))
    assert stored is not None
    assert stored.size_bytes == job.result.adapter_size_bytes
    assert device.pins() == set()
    assert device.journal.events(0)[-1].transition.result == job.result


def test_a_result_that_is_stored_already_is_adopted_as_well(device: Device) -> None:
    """Killed between the store and the journal."""
    device.leave_adapter()
    device.store.add_file(device.folder / "adapter.tar", artifact_pb2.ARTIFACT_KIND_ADAPTER)
    assert device.recovered().state == states.SUCCEEDED
    assert len(device.store.list(artifact_pb2.ARTIFACT_KIND_ADAPTER)) == 1


@pytest.mark.parametrize(
    "manifest",
    [
        replace(MANIFEST, training=replace(TRAINING, job_id=SECOND)),
        replace(MANIFEST, base_digest=Digest("sha256:" + "0" * 64)),
        replace(MANIFEST, training=None, imported_from="my-adapter"),
    ],
    ids=["another job's", "another base's", "nobody's"],
)
def test_the_result_of_another_job_is_not(device: Device, manifest: AdapterManifest) -> None:
    device.leave_adapter(manifest)
    assert device.recovered().state == states.QUEUED


def test_half_a_result_is_not(device: Device) -> None:
    device.leave_adapter()
    path = device.folder / "adapter.tar"
    path.write_bytes(path.read_bytes()[:-600])
    assert device.recovered().state == states.QUEUED


def test_a_wish_to_cancel_is_kept(device: Device) -> None:
    device.journal.apply(FIRST, states.CancelAsked())
    device.leave_adapter()
    job = device.recovered()
    assert job.state == states.CANCELED
    assert job.message == "The job was cancelled."
    assert device.pins() == set()
    assert list(device.folder.iterdir()) == []


def test_no_boot_loop(device: Device) -> None:
    boots = 0
    while device.journal.job(FIRST).state != states.FAILED:
        boots += 1
        device.clock.boot_id = f"boot-{boots + 1}"
        job = device.recovered()
        if job.state == states.QUEUED:
            device.journal.apply(FIRST, states.Started())
    assert boots == states.MAX_TRANSITIONS // 2
    assert "interrupted too often" in device.journal.job(FIRST).message


def test_pins_follow_the_journal(device: Device) -> None:
    """One that a refused submission left goes; one that an active job lacks comes."""
    base = Digest(train_spec().base_digest)
    device.store.pin(base, pin_owner(SECOND))
    device.store.pin(base, "loaded")
    device.store.unpin(base, pin_owner(FIRST))
    device.recovered()
    assert device.pins() == {pin_owner(FIRST)}
