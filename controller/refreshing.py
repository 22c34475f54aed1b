"""Bringing the store up to date with the devices: journals collected, assignments sent again,
leases granted.

A device that cannot be reached changes nothing about a job that belongs to it: what it does is its
own journal's truth, and will be collected when it is back. A job that may move is moved when its
lease is over (failover.py). What kept each device away is returned.
"""

import asyncio
from collections.abc import Mapping, Sequence

from controller import collector
from controller.failover import FailOver
from controller.records import DeviceRecord
from protos.errors import NanofleetError


async def refresh(fail_over: FailOver, devices: Sequence[DeviceRecord]) -> Mapping[str, str]:
    """The problems by device; empty when all answered."""
    dispatcher = fail_over.dispatcher

    async def one(device: DeviceRecord) -> str:
        status = await dispatcher.probe.status(device)
        if not status.reachable:
            return " ".join((status.problem, *await fail_over.move_from(device)))
        try:
            # First: a device that lost its journal gets some of its jobs assigned again.
            await collector.collect(dispatcher.store, dispatcher.connections.to(device))
            await dispatcher.resend(status)
            await fail_over.keep(status)
        except NanofleetError as error:
            return str(error)
        return ""

    problems = await asyncio.gather(*(one(device) for device in devices))
    return {device.name: said for device, said in zip(devices, problems, strict=True) if said}
