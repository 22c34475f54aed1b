"""The task that records telemetry: a sample a second into the ring, for as long as the agent runs.

Samples are taken on the beat (the next one a period after the last beat, not after the last sample
ended), so that their number over a day is what it should be. A beat that is missed is left out.
"""

import asyncio
from collections.abc import Awaitable, Callable

from agent.telemetry.ring import MOST_UNSYNCED, TelemetryRing
from agent.telemetry.sampler import Sampler
from protos.nanofleet.v1.telemetry_pb2 import TelemetrySample

PERIOD_S = 1.0


async def record(
    sampler: Sampler,
    ring: TelemetryRing,
    *,
    observe: Callable[[TelemetrySample], None] = lambda sample: None,
    period_s: float = PERIOD_S,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Runs until it is cancelled. Sensors and syncs block, and run in threads.

    ``observe`` is called with each sample, in the event loop's thread.
    """
    clock = asyncio.get_running_loop().time
    beat_s, unsynced = clock(), 0
    while True:
        observe(ring.append(await asyncio.to_thread(sampler.sample)))
        unsynced += 1
        if unsynced >= MOST_UNSYNCED // 2:
            await asyncio.to_thread(ring.sync)
            unsynced = 0
        beat_s = max(beat_s + period_s, clock())
        await sleep(beat_s - clock())
