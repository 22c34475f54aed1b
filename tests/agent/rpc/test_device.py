"""GetDevice, asked in this process: a board's files can be changed under it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest

from agent.jobs.journal import Journal
from agent.jobs.records import Records
from agent.memory.budget import Budget
from agent.memory.claims import Claims
from agent.memory.residents import Residents
from agent.rpc.device import DeviceFacts, DeviceService
from agent.serving.adapters import Adapters
from agent.serving.host import HostMeans, ModelHost
from agent.telemetry.ring import TelemetryRing
from agent.workers.process import Launcher
from artifacts.store import ArtifactStore
from jetson.board import identify
from protos.nanofleet.v1 import device_pb2, device_pb2_grpc
from protos.nanofleet.v1.telemetry_pb2 import MemorySample, SupplySample, TelemetrySample
from tests.agent.clocks import FakeClock
from tests.jetson import trees
from tests.jetson.trees import write


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[TelemetryRing]:
    opened = TelemetryRing(tmp_path / "telemetry.ring", 1 << 20)
    yield opened
    opened.close()


@pytest.fixture
async def stub(
    tmp_path: Path, ring: TelemetryRing
) -> AsyncIterator[device_pb2_grpc.DeviceServiceStub]:
    """The service over loopback, on an Orin Nano whose files are below ``tmp_path / "root"``."""
    root = write(trees.ORIN_NANO, tmp_path / "root")
    clock = FakeClock()
    store = ArtifactStore(tmp_path / "artifacts", reserve_bytes=0)
    host = ModelHost(
        HostMeans(
            store=store,
            launcher=Launcher(tmp_path / "workers", clock.boot_id),
            adapters=Adapters(store, tmp_path / "adapters"),
            log=tmp_path / "inference.log",
            context_length=256,
            threads=1,
            residents=Residents(Claims(Budget(1 << 30, 0, 0))),
        )
    )
    records = Records(Journal(tmp_path / "journal.db", clock))
    facts = DeviceFacts("kitchen", tmp_path, identify(root), (), 1 << 30)
    server = grpc.aio.server()
    device_pb2_grpc.add_DeviceServiceServicer_to_server(
        DeviceService(facts, clock, records, store, host, ring, root=root), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield device_pb2_grpc.DeviceServiceStub(channel)
    await server.stop(None)
    await records.close()


async def test_the_power_mode_is_that_of_now(
    stub: device_pb2_grpc.DeviceServiceStub, tmp_path: Path
) -> None:
    async def board() -> device_pb2.Board:
        return (await stub.GetDevice(device_pb2.GetDeviceRequest())).device.board

    first = await board()
    assert (first.power_mode, first.cpu_count) == ("MAXN_SUPER (2)", 6)
    root = tmp_path / "root"
    (root / "var/lib/nvpmodel/status").write_text("pmode:0000\n")
    (root / "sys/devices/system/cpu/online").write_text("0-3\n")
    second = await board()
    assert (second.power_mode, second.cpu_count) == ("15W (0)", 4)
    assert second.module == first.module
    (root / "var/lib/nvpmodel/status").unlink()
    assert not (await board()).power_mode


async def test_supply_and_swap_in_are_those_of_the_newest_sample(
    stub: device_pb2_grpc.DeviceServiceStub, ring: TelemetryRing
) -> None:
    async def device() -> device_pb2.Device:
        return (await stub.GetDevice(device_pb2.GetDeviceRequest())).device

    known = await device()
    assert not known.HasField("supply")
    assert not known.HasField("swap_in_bytes_per_s")
    fed = SupplySample(on_mains=False, battery_percent=40)
    sample = TelemetrySample(
        boot_id=known.boot_id,
        boottime_ns=known.boottime_ns,
        memory=MemorySample(swap_in_bytes_per_s=1.5),
        supply=fed,
    )
    ring.append(sample)
    known = await device()
    assert (known.supply, known.swap_in_bytes_per_s) == (fed, 1.5)
    other = TelemetrySample()
    other.CopyFrom(sample)
    other.boot_id = "of the boot before"
    ring.append(other)
    assert not (await device()).HasField("supply"), "nobody knows what feeds it now"
