"""Asking devices what they are and do, and remembering the answer."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from artifacts.persisting import Point
from controller.device import Connections
from controller.records import DeviceRecord, DeviceStatus, Sighting
from controller.retry import ONCE, Retry
from controller.store import Store
from controller.store import devices as stored_devices
from protos.errors import NanofleetError
from protos.nanofleet.v1 import artifact_pb2, device_pb2

T = TypeVar("T")

# Handshakes take CPU on this side; more at once only make each one slower.
_AT_ONCE = 64


class Probe:
    def __init__(
        self, store: Store, connections: Connections, utc_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._store = store
        self._connections = connections
        self._utc_ns = utc_ns

    async def status(self, record: DeviceRecord, retry: Retry = ONCE) -> DeviceStatus:
        """The device as it is now; whatever keeps it from answering is ``problem``."""
        try:
            device = await self._connections.to(record).get_device(retry)
        except NanofleetError as error:
            return DeviceStatus(record, reachable=False, device=None, problem=str(error))
        with self._store.write(Point.FLEET_SEEN) as transaction:
            stored_devices.seen(transaction, record.name, device, self._utc_ns())
            current = stored_devices.find(transaction, record.name)
        return DeviceStatus(current or record, reachable=True, device=device)

    async def sighting(self, record: DeviceRecord, before: Sighting | None) -> Sighting:
        """As ``status``, with what the device holds, and nothing is written down: for who asks
        every few seconds. What it holds is asked for when its size has changed since ``before``."""
        held = before.held if before is not None else frozenset()
        known = before.status.device if before is not None else None
        connection = self._connections.to(record)
        try:
            device = await connection.get_device(ONCE)
            if known is None or _stock(known) != _stock(device):
                request = artifact_pb2.ListArtifactsRequest()
                listed = await connection.call(connection.artifacts.ListArtifacts, request)
                held = frozenset(artifact.digest for artifact in listed.artifacts)
        except NanofleetError as error:
            return Sighting(DeviceStatus(record, reachable=False, problem=str(error)), held)
        return Sighting(DeviceStatus(record, reachable=True, device=device), held)

    async def sightings(
        self, records: Sequence[DeviceRecord], before: Mapping[str, Sighting]
    ) -> list[Sighting]:
        """All at once, in the order of ``records``. ``before``: the last ones, by device."""
        return await self._all(
            records, lambda record: self.sighting(record, before.get(record.name))
        )

    async def statuses(self, records: Sequence[DeviceRecord]) -> list[DeviceStatus]:
        """All at once, in the order of ``records``."""
        return await self._all(records, self.status)

    async def _all(
        self, records: Sequence[DeviceRecord], ask: Callable[[DeviceRecord], Awaitable[T]]
    ) -> list[T]:
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one(record: DeviceRecord) -> T:
            async with slots:
                return await ask(record)

        return list(await asyncio.gather(*(one(record) for record in records)))


def _stock(device: device_pb2.Device) -> tuple[str, int]:
    """Changes with what the device holds. A re-flashed one has another journal."""
    return device.journal_id, device.storage.artifacts_bytes
