"""Asking devices what they are and do, and remembering the answer."""

import asyncio
import time
from collections.abc import Callable, Sequence

from artifacts.persisting import Point
from controller.device import Connections
from controller.records import DeviceRecord, DeviceStatus
from controller.retry import ONCE, Retry
from controller.store import Store
from controller.store import devices as stored_devices
from protos.errors import NanofleetError

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

    async def statuses(self, records: Sequence[DeviceRecord]) -> list[DeviceStatus]:
        """All at once, in the order of ``records``."""
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one(record: DeviceRecord) -> DeviceStatus:
            async with slots:
                return await self.status(record)

        return list(await asyncio.gather(*(one(record) for record in records)))
