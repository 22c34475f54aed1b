"""The controller's bookkeeping against a device's journal, over a link that loses and repeats.

The store, the dispatcher, the collector and the journal are the real ones; the link is a model of
what a network and its ends can do. Safety (nothing twice, nothing lost, nothing invented) holds at
every moment of every history that Hypothesis finds; liveness is asked for at its end, when all is
well again.
"""

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.jobs import states
from agent.jobs.journal import Account, Journal
from agent.jobs.retention import Limits
from artifacts.persisting import Point
from controller import collector
from controller.device import DeviceConnection
from controller.dispatch import Dispatcher
from controller.records import DeviceStatus, JobRecord
from controller.store import Store, devices, jobs
from protos.errors import NanofleetError, Unreachable
from protos.nanofleet.v1 import device_pb2, job_pb2
from tests.agent.clocks import FakeClock

DEVICE = "kitchen"
BATCH = 3
SPEC = job_pb2.JobSpec(name="persona", train=job_pb2.TrainSpec())
ENDED = (job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELED)
# What becomes of a call: it arrives and is answered; the answer is lost; it never arrives.
FATES = st.sampled_from(["answered", "unanswered", "lost"])


class Dispatch(Dispatcher):
    """The job's files are on the device: transfers are another test's matter."""

    async def push_again(self, record: JobRecord, connection: DeviceConnection) -> None:
        return


class Wire:
    """A DeviceConnection as far as the dispatcher and the collector need it."""

    name = peer = DEVICE

    def __init__(self, device: "Device") -> None:
        self._device = device
        self.jobs = device
        self.fate = "answered"
        self.batches: int | None = None  # until the stream breaks

    async def call(self, method: Any, request: Any, *_: object, **__: object) -> Any:
        if self.fate == "lost":
            raise Unreachable("The request was lost.")
        response = method(request)
        if self.fate == "unanswered":
            raise Unreachable("The answer was lost.")
        return response

    async def stream(self, method: Any, request: Any) -> AsyncGenerator[Any, None]:
        for number, batch in enumerate(method(request)):
            if number == self.batches:
                raise Unreachable("The stream broke.")
            yield batch


class Device:
    """A journal, and a runner that does what it is told, one job at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._boots = self._flashes = 0
        # Old requests that still wander about the network; they die with the connection.
        self.wandering: list[job_pb2.SubmitJobRequest] = []
        self.boot()

    def boot(self) -> None:
        """After a power cut: what ran is settled first, as recovery.py does it."""
        self.wandering.clear()
        if self._boots:
            self.journal.close()
        self._boots += 1
        path = self._folder / f"journal-{self._flashes}.db"
        # It keeps no detail that it need not keep.
        keeps = Limits(keep_bytes=0, most_bytes=1 << 30)
        self.journal = Journal(path, FakeClock(f"boot {self._boots}"), keeps)
        for entry in self.journal.entries([states.RUNNING]):
            self.journal.apply(entry.job.id, states.Interrupted(job_pb2.CAUSE_POWER_LOSS))

    def flash(self) -> None:
        self._flashes += 1
        self.boot()

    def SubmitJob(self, request: job_pb2.SubmitJobRequest) -> job_pb2.SubmitJobResponse:  # noqa: N802
        self.wandering.append(request)
        job = self.journal.submit(request.job_id, request.generation, request.spec, "controller")
        return job_pb2.SubmitJobResponse(job=job)

    def GetJob(self, request: job_pb2.GetJobRequest) -> job_pb2.GetJobResponse:  # noqa: N802
        return job_pb2.GetJobResponse(job=self.journal.job(request.job_id))

    def WatchJob(self, request: job_pb2.WatchJobRequest) -> list[job_pb2.WatchJobResponse]:  # noqa: N802
        known = request.journal_id == self.journal.journal_id
        if known and request.acknowledge:
            self.journal.retention.acknowledge(request.after_seq)
            while self.journal.retention.prune():
                pass
        events = self.journal.events(request.after_seq if known else 0, limit=100_000)
        batches = [events[at : at + BATCH] for at in range(0, len(events), BATCH)] or [[]]
        journal_id = self.journal.journal_id
        return [job_pb2.WatchJobResponse(journal_id=journal_id, events=b) for b in batches]

    def running(self) -> str | None:
        found = self.journal.entries([states.RUNNING])
        return found[0].job.id if found else None

    def work(self, step: int) -> None:
        """Starts the next job, or goes on with the one that runs."""
        running = self.running()
        if running is not None:
            self.journal.progress(running, job_pb2.TrainProgress(step=step))
            self.journal.checkpoint(running, job_pb2.CheckpointSaved(step=step))
        elif (entry := self.journal.next_queued()) is not None:
            self.journal.apply(entry.job.id, states.Started())

    def finish(self) -> None:
        if running := self.running():
            result = job_pb2.JobResult(steps=3)
            self.journal.apply(running, states.Finished(), Account("done", result))


class Reconciler(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="reconciler."))
        self.device = Device(self.folder)
        self.wire = Wire(self.device)
        self.store = Store.open(self.folder / "fleet.db")
        self.submitted: list[str] = []
        # Every event that the device has ever had, by journal: what may be copied, once each.
        self.truth: dict[str, dict[int, job_pb2.JobEvent]] = {}
        with self.store.write(Point.FLEET_JOINED) as transaction:
            devices.join(transaction, DEVICE, "h:1", "e1", {}, 7)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self._settle()
            self.store.close()
            self.device.journal.close()
            shutil.rmtree(self.folder)

    # What happens

    @rule(fate=FATES)
    def submit(self, fate: str) -> None:
        record = self._dispatch()._assign(self._record(), SPEC, "")
        self.submitted.append(record.id)
        self._with(fate, lambda: self._dispatch().send(record, self._connection(), self._journal()))

    @rule(fate=FATES)
    def send_again(self, fate: str) -> None:
        self._with(fate, lambda: self._dispatch().resend(self._status()))

    @precondition(lambda self: self.device.wandering)
    @rule(data=st.data())
    def an_old_request_arrives_late(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.device.wandering))
        self.device.SubmitJob(request)

    @rule(step=st.integers(1, 9))
    def the_device_works(self, step: int) -> None:
        self.device.work(step)

    @rule()
    def a_job_ends(self) -> None:
        self.device.finish()

    @rule()
    def the_power_goes(self) -> None:
        self.device.boot()

    @rule()
    def the_device_is_flashed(self) -> None:
        self._note()
        self.device.flash()

    @rule()
    def the_controller_starts_anew(self) -> None:
        self.store.close()
        self.store = Store.open(self.folder / "fleet.db")

    @rule(fate=FATES, batches=st.none() | st.integers(0, 3))
    def collect(self, fate: str, batches: int | None) -> None:
        self.wire.batches = batches
        self._with(fate, lambda: collector.collect(self.store, self._connection()))
        self.wire.batches = None

    # What must be so at every moment

    @invariant()
    def the_copy_is_what_the_device_said_up_to_the_cursor(self) -> None:
        if not hasattr(self, "store"):
            return
        self._note()
        with self.store.read() as transaction:
            cursor = devices.cursor(transaction, DEVICE)
            copied = [e for r in jobs.every(transaction) for e in jobs.events_of(transaction, r)]
        said = [event for journal in self.truth.values() for event in journal.values()]
        for event in copied:
            assert event in said, "an event was invented"
        of_journal = self.truth.get(cursor.journal_id, {})
        due = [event for seq, event in of_journal.items() if seq <= cursor.seq]
        assert all(event in copied for event in due), "an event was lost"
        ours = [e.seq for e in copied if e in of_journal.values()]
        assert len(ours) == len(set(ours)), "an event was copied twice"

    @invariant()
    def no_job_runs_twice(self) -> None:
        if not hasattr(self, "store"):
            return
        for journal in self.truth.values():
            moves = [e for e in journal.values() if e.HasField("transition")]
            succeeded = Counter(
                e.job_id for e in moves if e.transition.to == job_pb2.JOB_STATE_SUCCEEDED
            )
            arrived = Counter(
                e.job_id for e in moves
                if e.transition.to == job_pb2.JOB_STATE_QUEUED
                and getattr(e.transition, "from") == job_pb2.JOB_STATE_UNSPECIFIED
            )  # fmt: skip
            assert all(count == 1 for count in (*succeeded.values(), *arrived.values()))

    @invariant()
    def the_controller_never_says_more_than_the_device(self) -> None:
        """What it calls succeeded has succeeded; what it failed was lost with a journal."""
        if not hasattr(self, "store"):
            return
        moves = [e for journal in self.truth.values() for e in journal.values()]
        done = {e.job_id for e in moves if e.transition.to == job_pb2.JOB_STATE_SUCCEEDED}
        failed = {e.job_id for e in moves if e.transition.to == job_pb2.JOB_STATE_FAILED}
        with self.store.read() as transaction:
            for record in jobs.every(transaction):
                if record.state == job_pb2.JOB_STATE_SUCCEEDED:
                    assert record.id in done
                if record.state == job_pb2.JOB_STATE_FAILED and record.id not in failed:
                    assert len(self.truth) > 1, record.job.message

    # How it ends

    def _settle(self) -> None:
        """All is well: every job comes to an end, and both sides say the same of it."""
        self._with("answered", lambda: self._dispatch().resend(self._status()))
        while self.device.running() or self.device.journal.next_queued():
            self.device.work(1)
            self.device.finish()
        self._with("answered", lambda: collector.collect(self.store, self._connection()))
        self._note()
        self._with("answered", lambda: collector.collect(self.store, self._connection()))
        self.the_copy_is_what_the_device_said_up_to_the_cursor()
        self.no_job_runs_twice()
        left = {event.WhichOneof("body") for event in self.device.journal.events(0, limit=100_000)}
        assert left <= {"transition", "pruned"}, "what the controller has is gone from the device"
        with self.store.read() as transaction:
            known = {record.id: record for record in jobs.every(transaction)}
        assert sorted(known) == sorted(self.submitted)
        for record in known.values():
            assert record.state in ENDED, record.job.message
        for entry in self.device.journal.entries():
            if known[entry.job.id].job.message == entry.job.message:
                assert known[entry.job.id].state == entry.job.state

    def _note(self) -> None:
        journal = self.truth.setdefault(self._journal(), {})
        for event in self.device.journal.events(max(journal, default=0), limit=100_000):
            journal[event.seq] = event

    def _with(self, fate: str, deed: Any) -> None:
        self.wire.fate = fate
        try:
            asyncio.run(deed())
        except NanofleetError as error:
            if not error.retryable:
                raise
        finally:
            self.wire.fate = "answered"

    def _connection(self) -> DeviceConnection:
        return cast(DeviceConnection, self.wire)

    def _dispatch(self) -> Dispatcher:
        connections: Any = type("", (), {"to": lambda _, record: self.wire})()
        nothing: Any = None
        return Dispatch(self.store, nothing, connections, nothing, nothing)

    def _record(self) -> Any:
        with self.store.read() as transaction:
            return devices.require(transaction, DEVICE)

    def _status(self) -> DeviceStatus:
        device = device_pb2.Device(name=DEVICE, journal_id=self._journal())
        return DeviceStatus(self._record(), True, device, "")

    def _journal(self) -> str:
        return self.device.journal.journal_id


Reconciler.TestCase.settings = settings(max_examples=100, stateful_step_count=30)
TestReconciler = Reconciler.TestCase
