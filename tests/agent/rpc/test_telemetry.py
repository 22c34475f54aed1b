import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from agent.rpc.telemetry import MOST_SAMPLES, watch_telemetry
from agent.telemetry.blocks import BLOCK_BYTES
from agent.telemetry.ring import TelemetryRing
from protos.nanofleet.v1 import device_pb2_grpc
from protos.nanofleet.v1.device_pb2 import (
    GetDeviceResponse,
    WatchTelemetryRequest,
    WatchTelemetryResponse,
)
from tests.agent.telemetry.samples import sample

Stream = AsyncIterator[WatchTelemetryResponse]


@pytest.fixture
def ring(tmp_path: Path) -> TelemetryRing:
    return TelemetryRing(tmp_path / "ring", 16 * BLOCK_BYTES)


def fill(ring: TelemetryRing, count: int) -> None:
    for number in range(count):
        ring.append(sample(number))


async def next_seqs(stream: Stream) -> list[int]:
    batch = await asyncio.wait_for(anext(stream), 10)
    return [one.seq for one in batch.samples]


async def test_replay_in_batches_then_live(ring: TelemetryRing) -> None:
    fill(ring, 600)
    stream = watch_telemetry(ring, WatchTelemetryRequest(after_seq=10))
    got: list[int] = []
    while len(got) < 590:
        batch = await next_seqs(stream)
        assert len(batch) <= MOST_SAMPLES
        got += batch
    assert got == list(range(11, 601))
    waiting = asyncio.create_task(next_seqs(stream))
    await asyncio.sleep(0)
    assert not waiting.done()
    ring.append(sample(600))
    assert await waiting == [601]


async def test_live_only_skips_the_ring(ring: TelemetryRing) -> None:
    fill(ring, 5)
    stream = watch_telemetry(ring, WatchTelemetryRequest(live_only=True, after_seq=1))
    fill(ring, 1)
    assert await next_seqs(stream) == [6]


async def test_period_gathers_what_came_meanwhile(ring: TelemetryRing) -> None:
    waits_s: list[float] = []

    async def five_samples_later(seconds: float) -> None:
        waits_s.append(seconds)
        fill(ring, 5)

    fill(ring, 3)
    request = WatchTelemetryRequest(period_ms=5000)
    stream = watch_telemetry(ring, request, sleep=five_samples_later)
    assert await next_seqs(stream) == [1, 2, 3]
    assert await next_seqs(stream) == [4, 5, 6, 7, 8]
    assert await next_seqs(stream) == [9, 10, 11, 12, 13]
    assert waits_s == [5.0, 5.0]


async def test_backlog_does_not_wait_for_the_period(ring: TelemetryRing) -> None:
    async def sleep(seconds: float) -> None:
        raise AssertionError("the backlog is not sent yet")

    fill(ring, 2 * MOST_SAMPLES + 1)
    stream = watch_telemetry(ring, WatchTelemetryRequest(period_ms=1000), sleep=sleep)
    got = [seq for _ in range(3) for seq in await next_seqs(stream)]
    assert got == list(range(1, 2 * MOST_SAMPLES + 2))


async def test_place_of_a_ring_that_is_gone_starts_over(ring: TelemetryRing) -> None:
    fill(ring, 3)
    stream = watch_telemetry(ring, WatchTelemetryRequest(after_seq=99_999))
    assert await next_seqs(stream) == [1, 2, 3]


async def test_slow_reader_loses_only_what_the_ring_has_lost(tmp_path: Path) -> None:
    ring = TelemetryRing(tmp_path / "small", 4 * BLOCK_BYTES)
    fill(ring, 100)
    stream = watch_telemetry(ring, WatchTelemetryRequest())
    assert (await next_seqs(stream))[-1] == 100
    fill(ring, 12_000)
    got: list[int] = []
    while not got or got[-1] < 12_100:
        got += await next_seqs(stream)
    assert got == list(range(got[0], 12_101))
    assert got[0] > 101


class Device(device_pb2_grpc.DeviceServiceServicer):
    def __init__(self, ring: TelemetryRing) -> None:
        self._ring = ring

    def GetDevice(self, request: object, context: object) -> GetDeviceResponse:  # noqa: N802
        return GetDeviceResponse()

    async def WatchTelemetry(  # noqa: N802
        self, request: WatchTelemetryRequest, context: object
    ) -> Stream:
        async for response in watch_telemetry(self._ring, request):
            yield response


async def test_over_grpc_a_reader_that_stops_reading_gets_all_when_it_reads_on(
    ring: TelemetryRing,
) -> None:
    server = grpc.aio.server()
    device_pb2_grpc.add_DeviceServiceServicer_to_server(Device(ring), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    fill(ring, 1500)
    got: list[int] = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = device_pb2_grpc.DeviceServiceStub(channel).WatchTelemetry(WatchTelemetryRequest())
        async for batch in call:
            if not got:
                fill(ring, 300)
            got += [one.seq for one in batch.samples]
            if got[-1] == 1800:
                break
        call.cancel()
    await server.stop(None)
    assert got == list(range(1, 1801))
