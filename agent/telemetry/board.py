"""The board's part of a sample: its own files first, and what another program says of the rest.

Sensors are found once, and again every few minutes, because a driver may be loaded after the agent
has started. What changes only when a person changes it (power mode, pinned clocks, cores) is read
every few samples.
"""

from collections.abc import Callable
from pathlib import Path

from jetson import clocks, emc, gpu, memory, power, supply, thermal, throttling
from jetson.observed import Observed
from protos.nanofleet.v1 import telemetry_pb2

# Samples.
SENSORS_FOUND_EVERY = 300
STATE_READ_EVERY = 5


def nothing_beside() -> Observed | None:
    return None


class BoardSensors:
    """``look`` begins a sample; the other methods fill it."""

    def __init__(self, root: Path, beside: Callable[[], Observed | None] = nothing_beside) -> None:
        self._root = root
        self._beside = beside
        self._looks = 0
        self._observed = Observed()
        self._find()
        self.read_state()

    def look(self) -> None:
        self._looks += 1
        if self._looks % SENSORS_FOUND_EVERY == 0:
            self._find()
        if self._looks % STATE_READ_EVERY == 0:
            self.read_state()
        self._observed = self._beside() or Observed()

    def power(self) -> power.PowerReading | None:
        """None where neither the board nor another program has a monitor."""
        return power.read_rails(self._rails) or self._observed.power

    def memory(
        self, agent_rss_bytes: int, swap_in_bytes_per_s: float | None
    ) -> telemetry_pb2.MemorySample | None:
        read = memory.read_memory(self._root)
        if read is None:
            return None
        zram = memory.read_zram(self._root)
        block = memory.read_free_block(self._root) or self._observed.free_block
        return telemetry_pb2.MemorySample(
            total_bytes=read.total_bytes,
            available_bytes=read.available_bytes,
            swap_total_bytes=read.swap_total_bytes,
            swap_used_bytes=read.swap_used_bytes,
            agent_rss_bytes=agent_rss_bytes,
            pressure_some_percent=memory.read_pressure_percent(self._root),
            nvmap_bytes=read.nvmap_bytes,
            zram_total_bytes=zram.size_bytes if zram else None,
            zram_used_bytes=zram.used_bytes if zram else None,
            largest_free_block_bytes=block.size_bytes if block else None,
            swap_in_bytes_per_s=swap_in_bytes_per_s,
        )

    def cpu(self, load_percent: float) -> telemetry_pb2.CpuSample:
        return telemetry_pb2.CpuSample(
            load_percent=load_percent,
            frequency_mhz=clocks.read_frequency_mhz(self._policies),
            cores_online=self._cores_online,
        )

    def gpu(self) -> telemetry_pb2.GpuSample | None:
        read = (self._gpu.read() if self._gpu else None) or self._observed.gpu
        if read is None:
            return None
        return telemetry_pb2.GpuSample(
            load_percent=read.load_percent, frequency_mhz=read.frequency_mhz
        )

    def add_heat(self, sample: telemetry_pb2.TelemetrySample) -> None:
        """Temperatures, the one that stands for the board, and the zones that are offline."""
        read = thermal.read_sensors(self._sensors)
        offline = thermal.offline(self._sensors, read)
        sensors = self._sensors
        if not read:
            sensors, read, offline = (), self._observed.temperatures, self._observed.offline_zones
        sample.offline_zones.extend(offline)
        for one in read:
            sample.temperatures.add(zone=one.zone, celsius=one.celsius)
        heat = thermal.heat_of(read, sensors, self._zones)
        if heat is not None:
            sample.heat.CopyFrom(
                telemetry_pb2.HeatSample(
                    zone=heat.zone,
                    celsius=heat.celsius,
                    throttle_celsius=heat.throttle_celsius,
                    critical_celsius=heat.critical_celsius,
                )
            )

    def emc(self) -> telemetry_pb2.EmcSample | None:
        read = emc.read_emc(self._root) or self._observed.emc
        if read is None:
            return None
        return telemetry_pb2.EmcSample(cap_mhz=read.cap_mhz, frequency_mhz=read.frequency_mhz)

    def over_current(self) -> list[telemetry_pb2.OverCurrentSample]:
        return [
            telemetry_pb2.OverCurrentSample(name=read.name, events=read.events)
            for read in throttling.read_counters(self._counters)
        ]

    def supply(self) -> telemetry_pb2.SupplySample | None:
        read = supply.read_supply(self._supplies)
        if read is None:
            return None
        return telemetry_pb2.SupplySample(
            on_mains=read.on_mains, battery_percent=read.battery_percent
        )

    def power_mode(self) -> telemetry_pb2.PowerModeSample | None:
        mode, pinned = self._mode, self._pinned
        if mode is None and pinned is None:
            return None
        return telemetry_pb2.PowerModeSample(
            id=mode.id if mode else None,
            name=(mode.name or "") if mode else "",
            clocks_pinned=pinned,
        )

    def _find(self) -> None:
        self._rails = power.find_rails(self._root)
        self._sensors = thermal.find_sensors(self._root)
        self._zones = thermal.read_zones(self._root)
        self._gpu = gpu.find_gpu(self._root)
        self._policies = clocks.find_policies(self._root)
        self._counters = throttling.find_counters(self._root)
        self._supplies = supply.find_supplies(self._root)

    def read_state(self) -> None:
        """What a person changes."""
        self._mode = clocks.read_power_mode(self._root)
        self._pinned = clocks.read_pinned(self._policies, self._gpu)
        self._cores_online = clocks.read_cores_online(self._root)
