"""Following a job from its first event to its last, over a link that comes and goes.

What is in the store comes first, then the device's stream from the cursor that was read together
with it, so that nothing is missed when another process collects at the same time. When the stream
breaks, the same begins again behind the last event that was handed on; when the job has moved, with
the first one on its new device.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from controller import collector, pictures
from controller.device import Connections
from controller.failover import FailOver
from controller.records import DeviceRecord, JobRecord
from controller.retry import ENDLESS, Retry
from controller.store import Store
from controller.store import devices as stored_devices
from controller.store import jobs as stored_jobs
from controller.store.devices import Cursor
from protos.errors import NanofleetError, Unreachable
from protos.nanofleet.v1 import job_pb2

# Called with what broke the stream, before it is tried again.
OnInterruption = Callable[[NanofleetError], None]


@dataclass(frozen=True, slots=True)
class _Known:
    """What the store has of the job at one moment."""

    record: JobRecord
    device: DeviceRecord | None  # of a job that goes on
    cursor: Cursor
    events: list[job_pb2.JobEvent]


@dataclass(frozen=True, slots=True)
class Follower:
    """``ensure_sent`` sends an assignment that the device has not confirmed."""

    store: Store
    connections: Connections
    ensure_sent: Callable[[JobRecord], Awaitable[None]]
    fail_over: FailOver
    retry: Retry = ENDLESS

    async def follow(
        self, job_id: str, on_interruption: OnInterruption | None = None
    ) -> AsyncGenerator[job_pb2.JobEvent, None]:
        """The job's events, each once, in order; ends when the job has ended.

        A job that is lost (see collector.py) ends without a last event. Raises what no retry
        helps: NotFound when the device was removed.
        """
        handed_on = failures = generation = 0
        while True:
            known = self._known(job_id)
            if known.record.generation != generation:
                handed_on, generation = 0, known.record.generation
            for event in known.events[handed_on:]:
                handed_on += 1
                yield event
            if known.device is None:
                return
            try:
                async with aclosing(self._live(known, known.device)) as live:
                    async for event in live:
                        failures = 0
                        handed_on += 1
                        yield event
            except NanofleetError as error:
                failures += 1
                error = await self._after_failing_over(error, known.device)
                if on_interruption is not None and not self.retry.gives_up(failures, error):
                    on_interruption(error)
                if not self._is_over(known.record):
                    await self.retry.pause(failures, error)

    async def _after_failing_over(
        self, error: NanofleetError, device: DeviceRecord
    ) -> NanofleetError:
        """Moves what may be moved from the device; the error says why something may not."""
        if not error.retryable:
            return error
        waiting = await self.fail_over.move_from(device)
        return Unreachable(" ".join((str(error), *waiting))) if waiting else error

    async def _live(
        self, known: _Known, device: DeviceRecord
    ) -> AsyncGenerator[job_pb2.JobEvent, None]:
        """The job's events behind the cursor; returns when the job has ended here."""
        job_id = known.record.id
        await self.ensure_sent(known.record)
        connection = self.connections.to(device)
        batches = collector.follow(self.store, connection, known.cursor)
        granting = self.fail_over.granting(known.record, device)
        async with granting, aclosing(batches):
            async for events in batches:
                ours = [event for event in events if event.job_id == job_id]
                for event in ours:
                    yield event
                if any(pictures.ends(event) for event in ours) or self._is_over(known.record):
                    return
        raise Unreachable(f"{connection.peer} ended its stream of events.")

    def _is_over(self, record: JobRecord) -> bool:
        """Ended, or assigned anew."""
        with self.store.read() as transaction:
            now = stored_jobs.require(transaction, record.id)
        return now.ended or now.generation != record.generation

    def _known(self, job_id: str) -> _Known:
        with self.store.read() as transaction:
            record = stored_jobs.require(transaction, job_id)
            return _Known(
                record,
                None if record.ended else stored_devices.require(transaction, record.device),
                stored_devices.cursor(transaction, record.device),
                stored_jobs.events_of(transaction, record),
            )
