"""One sample of telemetry: what the board, the agent and its workers do now.

Costs of a second on a small board must stay far below one percent of a core: files are found once,
each is read with three system calls, and nothing walks page tables (smaps_rollup would, for each
gigabyte that a worker maps) or starts a process. Sensors sit on slow buses: ``sample`` blocks for
milliseconds, and belongs in a thread.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from agent.telemetry.energy import EnergyMeter
from jetson import boot, clocks, gpu, memory, power, rapl, thermal
from protos.nanofleet.v1 import telemetry_pb2

# Samples: a driver may be loaded after the agent has started.
SENSORS_FOUND_EVERY = 300


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """What the agent knows of a worker; the sampler adds its memory."""

    kind: "telemetry_pb2.WorkerSample.Kind.ValueType"
    pid: int
    tokens_per_s: float | None = None
    # Of the training worker.
    job_id: str = ""
    step: int | None = None
    total_steps: int | None = None
    loss: float | None = None
    time_to_go_s: float | None = None


class Sampler:
    """Takes samples without a number, which the ring gives.

    ``workers`` tells the live workers, ``state`` is a path in the file system whose free space is
    reported. A sample is a new message each time; the caller may keep it.
    """

    def __init__(
        self,
        root: Path,
        workers: Callable[[], Sequence[WorkerStatus]],
        *,
        state: Path = Path("/"),
        boottime_ns: Callable[[], int] = boot.boottime_ns,
        utc_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._root = root
        self._workers = workers
        self._state = state
        self._boottime_ns = boottime_ns
        self._utc_ns = utc_ns
        self._boot_id = boot.boot_id(root)
        self._taken = 0
        self._find_sensors()
        self._counters = rapl.read_counters(root)
        self._counted_ns = boottime_ns()
        self._cpu = _cpu_times()
        self.energy = EnergyMeter()

    def sample(self) -> telemetry_pb2.TelemetrySample:
        """What is absent on this machine is absent in the sample."""
        self._taken += 1
        if self._taken % SENSORS_FOUND_EVERY == 0:
            self._find_sensors()
        now_ns = self._boottime_ns()
        return telemetry_pb2.TelemetrySample(
            boot_id=self._boot_id,
            boottime_ns=now_ns,
            utc_ns=self._utc_ns(),
            memory=self._memory(),
            cpu=self._cpu_sample(),
            gpu=self._gpu_sample(),
            temperatures=[
                telemetry_pb2.TemperatureSample(zone=read.zone, celsius=read.celsius)
                for read in thermal.read_sensors(self._temperatures)
            ],
            power=self._power(now_ns),
            workers=[self._worker(status) for status in self._workers()],
            disk_free_bytes=psutil.disk_usage(str(self._state)).free,
            network=_network(),
        )

    def _find_sensors(self) -> None:
        self._rails = power.find_rails(self._root)
        self._temperatures = thermal.find_sensors(self._root)
        self._gpu = gpu.find_gpu(self._root)
        self._policies = clocks.find_policies(self._root)

    def _memory(self) -> telemetry_pb2.MemorySample | None:
        read = memory.read_memory(self._root)
        if read is None:
            return None
        agent = memory.read_process(os.getpid())
        return telemetry_pb2.MemorySample(
            total_bytes=read.total_bytes,
            available_bytes=read.available_bytes,
            swap_used_bytes=read.swap_used_bytes,
            agent_rss_bytes=agent.rss_bytes if agent else 0,
            pressure_some_percent=memory.read_pressure_percent(self._root),
        )

    def _cpu_sample(self) -> telemetry_pb2.CpuSample:
        before, self._cpu = self._cpu, _cpu_times()
        return telemetry_pb2.CpuSample(
            load_percent=_load_percent(before, self._cpu),
            frequency_mhz=clocks.read_frequency_mhz(self._policies),
        )

    def _gpu_sample(self) -> telemetry_pb2.GpuSample | None:
        read = self._gpu.read() if self._gpu else None
        if read is None:
            return None
        return telemetry_pb2.GpuSample(
            load_percent=read.load_percent, frequency_mhz=read.frequency_mhz
        )

    def _power(self, now_ns: int) -> telemetry_pb2.PowerSample | None:
        sample = self._sensed(now_ns) if self._rails else self._counted(now_ns)
        if sample is not None and self.energy.total_j is not None:
            sample.energy_j = self.energy.total_j
        return sample

    def _sensed(self, now_ns: int) -> telemetry_pb2.PowerSample | None:
        """From the board's power monitors."""
        read = power.read_rails(self._rails)
        if read is None:
            return None
        if read.total_mw is not None:
            self.energy.add_power(now_ns, read.total_mw)
        return telemetry_pb2.PowerSample(
            total_mw=read.total_mw,
            total_source=read.total_source,
            rails=[
                telemetry_pb2.RailSample(name=rail.name, power_mw=rail.power_mw)
                for rail in read.rails
                if rail.power_mw is not None
            ],
        )

    def _counted(self, now_ns: int) -> telemetry_pb2.PowerSample | None:
        """From the processor's energy counters: the mean since the sample before."""
        before, self._counters = self._counters, rapl.read_counters(self._root)
        elapsed_ns, self._counted_ns = now_ns - self._counted_ns, now_ns
        spent = rapl.spent(before, self._counters)
        if spent is None or elapsed_ns <= 0:
            return None
        means_mw = {name: _mean_mw(uj, elapsed_ns) for name, uj in spent.domains}
        total_mw = _mean_mw(spent.total_uj, elapsed_ns)
        if max(total_mw, *means_mw.values()) > power.MOST_MW:
            return None
        self.energy.add_energy(spent.total_uj)
        return telemetry_pb2.PowerSample(
            total_mw=total_mw,
            total_source=spent.total_source,
            rails=[
                telemetry_pb2.RailSample(name=name, power_mw=mean_mw)
                for name, mean_mw in means_mw.items()
            ],
        )

    def _worker(self, status: WorkerStatus) -> telemetry_pb2.WorkerSample:
        sample = telemetry_pb2.WorkerSample(
            kind=status.kind,
            pid=status.pid,
            tokens_per_s=status.tokens_per_s,
            job_id=status.job_id,
            step=status.step,
            total_steps=status.total_steps,
            loss=status.loss,
            time_to_go_s=status.time_to_go_s,
        )
        used = memory.read_process(status.pid)
        if used is not None:
            sample.rss_bytes = used.rss_bytes
            sample.anonymous_bytes = used.anonymous_bytes
            sample.file_bytes = used.file_bytes
            sample.peak_rss_bytes = used.peak_rss_bytes
        return sample


def _mean_mw(energy_uj: int, elapsed_ns: int) -> int:
    """1 µJ in 1 ns is 10^6 mW."""
    return round(energy_uj * 1_000_000 / elapsed_ns)


def _cpu_times() -> tuple[float, float]:
    """Seconds since boot of all cores: busy, and all. Guests are counted in user time already."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    total = sum(times) - guests
    return total - idle, total


def _load_percent(before: tuple[float, float], after: tuple[float, float]) -> float:
    busy_s, all_s = after[0] - before[0], after[1] - before[1]
    if all_s <= 0:
        return 0.0
    # The kernel counts idle and iowait loosely: a difference may be negative.
    return round(min(1.0, max(0.0, busy_s / all_s)) * 100, 1)


def _network() -> telemetry_pb2.NetworkSample:
    """All interfaces but the loopback, since boot."""
    counters = psutil.net_io_counters(pernic=True)
    outside = [counter for name, counter in counters.items() if name != "lo"]
    return telemetry_pb2.NetworkSample(
        received_bytes=sum(counter.bytes_recv for counter in outside),
        sent_bytes=sum(counter.bytes_sent for counter in outside),
    )
