"""WatchTelemetry: from the ring, then live, in batches, without gaps.

Nothing is queued for a reader: each batch is read from the ring when gRPC has room for it. A slow
reader costs no memory; it finds its place again in the ring, and loses samples only when it falls
behind by a day.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import islice

from agent.telemetry.ring import TelemetryRing
from protos.nanofleet.v1.device_pb2 import WatchTelemetryRequest, WatchTelemetryResponse

# About 150 KiB, far below the limit of a message.
MOST_SAMPLES = 256
LONGEST_PERIOD_MS = 3_600_000


def watch_telemetry(
    ring: TelemetryRing,
    request: WatchTelemetryRequest,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[WatchTelemetryResponse]:
    """Batches of samples after the request's place, without an end.

    What is in the ring comes as fast as it is taken; then a batch comes each ``period_ms``, with
    all samples since the last one. grpc.aio wants a servicer's method to be an async generator
    itself: ``async for response in watch_telemetry(...): yield response``.
    """
    period_s = min(request.period_ms, LONGEST_PERIOD_MS) / 1000
    return _batches(ring, _start(ring, request), period_s, sleep)


async def _batches(
    ring: TelemetryRing,
    seq: int,
    period_s: float,
    sleep: Callable[[float], Awaitable[None]],
) -> AsyncIterator[WatchTelemetryResponse]:
    while True:
        await ring.wait(seq)
        batch = list(islice(ring.after(seq), MOST_SAMPLES))
        if not batch:
            # The samples were lost (a damaged block): go on with the next.
            seq = ring.newest_seq
            continue
        yield WatchTelemetryResponse(samples=batch)
        seq = batch[-1].seq
        if period_s and seq >= ring.newest_seq:
            await sleep(period_s)


def _start(ring: TelemetryRing, request: WatchTelemetryRequest) -> int:
    if request.live_only:
        return ring.newest_seq
    # A place ahead of the ring is one of a ring that is gone: its reader starts over.
    return request.after_seq if request.after_seq <= ring.newest_seq else 0
