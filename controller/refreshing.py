"""Bringing the store up to date with the devices: assignments sent again, journals collected.

A device that cannot be reached changes nothing here: what it does is its own journal's truth, and
will be collected when it is back. What kept each one away is returned.
"""

import asyncio
from collections.abc import Mapping, Sequence

from controller import collector
from controller.dispatch import Dispatcher
from controller.records import DeviceRecord
from protos.errors import NanofleetError


async def refresh(dispatcher: Dispatcher, devices: Sequence[DeviceRecord]) -> Mapping[str, str]:
    """The problems by device; empty when all answered."""

    async def one(device: DeviceRecord) -> str:
        status = await dispatcher.probe.status(device)
        if not status.reachable:
            return status.problem
        try:
            await dispatcher.resend(status)
            await collector.collect(dispatcher.store, dispatcher.connections.to(device))
        except NanofleetError as error:
            return str(error)
        return ""

    problems = await asyncio.gather(*(one(device) for device in devices))
    return {device.name: said for device, said in zip(devices, problems, strict=True) if said}
