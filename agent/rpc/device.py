"""DeviceService: what the device is and does, and its telemetry."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from agent.clock import Clock
from agent.jobs import states
from agent.jobs.records import BATCH, Records
from agent.rpc.access import Context
from agent.rpc.telemetry import watch_telemetry
from agent.serving.host import ModelHost
from agent.telemetry.ring import TelemetryRing
from agent.version import VERSION
from artifacts.store import ArtifactStore
from jetson.board import Board, as_it_is_now
from jetson.clocks import find_policies, read_pinned
from jetson.gpu import find_gpu
from jetson.thermal import Zone
from protos.nanofleet.v1 import device_pb2, device_pb2_grpc

# What this agent can work with; a controller asks for nothing that is not listed.
CAPABILITIES = ("base:gguf/q8_0", "base:gguf/qint8", "base:gguf/q4_0", "base:gguf/f16",
                "base:gguf/bf16", "base:gguf/f32", "dataset:jsonl+zstd", "train:lora",
                "train:float32", "adapter:peft+gguf", "generate:jsonl+zstd",
                "jobs:lease", "jobs:limits")  # fmt: skip

_FRESH_NS = 60 * 10**9


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What does not change while the agent runs; of the board, what does is read anew."""

    name: str
    state: Path
    board: Board
    engines: Sequence[device_pb2.Engine]
    memory_budget_bytes: int
    zones: Sequence[Zone] = ()
    # The board that is simulated here, if one is.
    simulated: str = ""


class DeviceService(device_pb2_grpc.DeviceServiceServicer):
    def __init__(
        self,
        facts: DeviceFacts,
        clock: Clock,
        records: Records,
        store: ArtifactStore,
        host: ModelHost,
        ring: TelemetryRing,
        *,
        root: Path = Path("/"),
    ) -> None:
        self._facts = facts
        self._clock = clock
        self._records = records
        self._store = store
        self._host = host
        self._ring = ring
        self._root = root

    async def GetDevice(  # noqa: N802
        self, request: device_pb2.GetDeviceRequest, context: Context
    ) -> device_pb2.GetDeviceResponse:
        active = await self._records.read(self._records.journal.count, tuple(states.ACTIVE))
        device = device_pb2.Device(
            name=self._facts.name,
            agent_version=VERSION,
            journal_id=self._records.journal_id,
            boot_id=self._clock.boot_id,
            boottime_ns=self._clock.boottime_ns(),
            utc_ns=self._clock.utc_ns(),
            board=await asyncio.to_thread(self._board),
            engines=self._facts.engines,
            storage=await asyncio.to_thread(self._storage),
            memory_budget_bytes=self._facts.memory_budget_bytes,
            loaded_model=self._host.loaded(),
            active_jobs=active,
            capabilities=CAPABILITIES,
            requests=self._host.presence.requests,
        )
        self._add_telemetry(device)
        return device_pb2.GetDeviceResponse(device=device)

    async def ListEvents(  # noqa: N802
        self, request: device_pb2.ListEventsRequest, context: Context
    ) -> device_pb2.ListEventsResponse:
        records, log = self._records, self._records.journal.device
        if request.newest:
            events = await records.read(log.newest, min(request.newest, BATCH))
        else:
            is_known = request.journal_id in ("", records.journal_id)
            events = await records.read(log.events, request.after_seq if is_known else 0, BATCH)
        return device_pb2.ListEventsResponse(journal_id=records.journal_id, events=events)

    async def WatchTelemetry(  # noqa: N802
        self, request: device_pb2.WatchTelemetryRequest, context: Context
    ) -> AsyncIterator[device_pb2.WatchTelemetryResponse]:
        async for response in watch_telemetry(self._ring, request):
            yield response

    def _board(self) -> device_pb2.Board:
        """What is not known stays unset."""
        known = asdict(as_it_is_now(self._facts.board, self._root))
        board = device_pb2.Board(**{name: fact for name, fact in known.items() if fact is not None})
        board.simulated = self._facts.simulated
        pinned = read_pinned(find_policies(self._root), find_gpu(self._root))
        if pinned is not None:
            board.clocks_pinned = pinned
        for zone in self._facts.zones:
            shown = board.zones.add(name=zone.name)
            for trip in zone.trips:
                shown.trips.add(kind=trip.kind, celsius=trip.celsius)
        return board

    def _add_telemetry(self, device: device_pb2.Device) -> None:
        """What changes too fast to be a fact of the board."""
        sample = self._ring.newest()
        if sample is None or sample.boot_id != device.boot_id:
            return
        if device.boottime_ns - sample.boottime_ns > _FRESH_NS:
            return
        if sample.HasField("supply"):
            device.supply.CopyFrom(sample.supply)
        if sample.memory.HasField("swap_in_bytes_per_s"):
            device.swap_in_bytes_per_s = sample.memory.swap_in_bytes_per_s

    def _storage(self) -> device_pb2.Storage:
        disk = shutil.disk_usage(self._facts.state)
        return device_pb2.Storage(
            total_bytes=disk.total, free_bytes=disk.free, artifacts_bytes=self._store.used_bytes()
        )
