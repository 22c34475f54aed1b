"""Jobs that move to another device when theirs is lost (`on_lost: move` in the job file).

    the device answers        its leases are granted anew; what it held and has moved is cancelled
    it does not               a job whose lease is certainly over is assigned to another device

There is no service that watches over the fleet: whichever process follows a job grants its lease,
and so does each one that brings the store up to date (`job list`, `job show`, submitting). While
nobody does, the job writes a checkpoint when its lease ends and waits, and nobody moves it either.

A job moves without its checkpoint, which is on the lost device, and never to a device that has had
it: there it may have ended. Its result counts once, by its generation; until the lost device is
back it may have been computed twice. See protos/lease.py for why it never runs twice at once.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from artifacts.persisting import Point
from controller import clock
from controller.device import DeviceConnection
from controller.dispatch import Dispatcher
from controller.records import DeviceRecord, DeviceStatus, JobRecord
from controller.store import leases as stored_leases
from controller.store.leases import Leased
from protos import lease
from protos.errors import NanofleetError, NotFound
from protos.lease import Instant
from protos.nanofleet.v1 import device_pb2, job_pb2


@dataclass(frozen=True, slots=True)
class FailOver:
    dispatcher: Dispatcher
    now: Callable[[], Instant] = clock.now

    async def keep(self, status: DeviceStatus) -> None:
        """A device that has just answered: grants its leases, cancels there what has moved."""
        if status.device is None:
            return
        connection = self.dispatcher.connections.to(status.record)
        await self._grant(connection, status.device)
        await self._cancel_left_behind(connection)

    async def move_from(self, device: DeviceRecord) -> list[str]:
        """A device that does not answer: moves what may be moved; returns why the rest waits."""
        with self.dispatcher.store.read() as transaction:
            leased = stored_leases.on_device(transaction, device.name)
        waiting = []
        for one in leased:
            if not self._is_over(one):
                continue
            try:
                await self._move(one)
            except NanofleetError as error:
                waiting.append(f"Job {one.record.name} waits for {device.name}: {error}")
        return waiting

    @asynccontextmanager
    async def granting(self, record: JobRecord, device: DeviceRecord) -> AsyncIterator[None]:
        """Grants the job's lease anew for as long as the block runs."""
        if not record.job.spec.lease_s:
            yield
            return
        period_s = lease.renewal_period_s(record.job.spec.lease_s)
        renewing = asyncio.create_task(
            self._grant_for_ever(device, period_s), name=f"leases of {device.name}"
        )
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.wait({renewing})

    async def _grant_for_ever(self, device: DeviceRecord, period_s: float) -> None:
        while True:
            # Whoever follows the job hears of a broken link from its own stream.
            with contextlib.suppress(NanofleetError):
                await self.keep(await self.dispatcher.probe.status(device))
            await asyncio.sleep(period_s)

    async def _grant(self, connection: DeviceConnection, device: device_pb2.Device) -> None:
        """Written down, then sent: what is believed here is never less than what is held there."""
        with self.dispatcher.store.write(Point.FLEET_LEASED) as transaction:
            leased = stored_leases.on_device(transaction, connection.name)
            if not leased:
                return
            stored_leases.note_grants(transaction, [one.record.id for one in leased], self.now())
        grants = [
            job_pb2.LeaseGrant(job_id=one.record.id, generation=one.record.generation)
            for one in leased
        ]
        request = job_pb2.RenewLeasesRequest(
            boot_id=device.boot_id, boottime_ns=device.boottime_ns, grants=grants
        )
        await connection.call(connection.jobs.RenewLeases, request)

    async def _cancel_left_behind(self, connection: DeviceConnection) -> None:
        with self.dispatcher.store.read() as transaction:
            left = stored_leases.left_on(transaction, connection.name)
        for one in left:
            request = job_pb2.CancelJobRequest(job_id=one.job_id, generation=one.generation)
            with contextlib.suppress(NotFound):  # it never had the job, or has another journal
                await connection.call(connection.jobs.CancelJob, request)
            with self.dispatcher.store.write(Point.FLEET_LEASED) as transaction:
                stored_leases.note_canceled(transaction, one)

    def _is_over(self, leased: Leased) -> bool:
        """After a restart of this machine nobody knows how long ago a grant was: it counts anew."""
        if leased.granted is None:
            return True
        now = self.now()
        if leased.granted.boot_id != now.boot_id:
            with self.dispatcher.store.write(Point.FLEET_LEASED) as transaction:
                stored_leases.note_grants(transaction, [leased.record.id], now)
            return False
        return lease.is_over(leased.granted, now, leased.term_s)

    async def _move(self, leased: Leased) -> None:
        """Raises why no other device can have it now."""
        record, dispatcher = leased.record, self.dispatcher
        with dispatcher.store.read() as transaction:
            left = stored_leases.left_by(transaction, record.id)
        before = frozenset({record.device, *(one.device for one in left)})
        chosen = await dispatcher.find_other(record.job.spec, leased.selector, before)
        with dispatcher.store.write(Point.FLEET_LEASED) as transaction:
            if not self._is_unchanged(stored_leases.on_device(transaction, record.device), leased):
                return
            waited = lease.over_after_s(leased.term_s) / 60
            message = f"assigned to {chosen.record.name}: {record.device} was not heard of"
            if leased.granted is not None:
                message += f" for {waited:.0f} min"
            moved = stored_leases.move(transaction, record, chosen.record.name, message)
        await dispatcher.push_again(moved, dispatcher.connections.to(chosen.record))
        await dispatcher.resend(chosen)
        await self.keep(await dispatcher.probe.status(chosen.record))

    def _is_unchanged(self, now: Sequence[Leased], leased: Leased) -> bool:
        """Nobody granted, moved, or heard of the end of the job while a device was looked for."""
        return any(
            (one.record.id, one.record.generation, one.granted)
            == (leased.record.id, leased.record.generation, leased.granted)
            for one in now
        )
