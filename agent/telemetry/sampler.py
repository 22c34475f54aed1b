"""One sample of telemetry: what the board, the agent and its workers do now.

Costs of a second on a small board must stay far below one percent of a core: files are found once,
each is read with three system calls, and nothing walks page tables (smaps_rollup would, for each
gigabyte that a worker maps) or starts a process. Sensors sit on slow buses: ``sample`` blocks for
milliseconds, and belongs in a thread. What is read of the board is in board.py.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from agent.telemetry.board import BoardSensors, nothing_beside
from agent.telemetry.energy import EnergyMeter
from jetson import boot, memory, power, rapl
from jetson.observed import Observed
from protos.nanofleet.v1 import telemetry_pb2

# No memory is faster: more is a counter that was misread.
_MOST_BYTES_PER_S = 1 << 40


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


def cpu_times() -> tuple[float, float]:
    """Seconds since boot of all cores: busy, and all. Guests are counted in user time already."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    total = sum(times) - guests
    return total - idle, total


class _Rate:
    """Of a counter of bytes that may be missing, or begin anew."""

    def __init__(self, now_ns: int, count: int | None) -> None:
        self._before_ns, self._before = now_ns, count

    def per_s(self, now_ns: int, count: int | None) -> float | None:
        """Since the call before."""
        elapsed_ns, risen = now_ns - self._before_ns, None
        if count is not None and self._before is not None and elapsed_ns > 0:
            risen = max(0, count - self._before) * 1e9 / elapsed_ns
        self._before_ns, self._before = now_ns, count
        return risen if risen is None or risen <= _MOST_BYTES_PER_S else None


class Sampler:
    """Takes samples without a number, which the ring gives.

    ``workers`` tells the live workers, ``state`` is a path in the file system whose free space is
    reported, ``beside`` is what another program says of the board, ``cpu_times`` are seconds that
    all cores were busy, and all of them. A sample is a new message each time; the caller may keep
    it.
    """

    def __init__(
        self,
        root: Path,
        workers: Callable[[], Sequence[WorkerStatus]],
        *,
        state: Path = Path("/"),
        boottime_ns: Callable[[], int] = boot.boottime_ns,
        utc_ns: Callable[[], int] = time.time_ns,
        beside: Callable[[], Observed | None] = nothing_beside,
        beside_source: str = "",
        cpu_times: Callable[[], tuple[float, float]] = cpu_times,
        is_simulated: bool = False,
    ) -> None:
        self._root = root
        self._workers = workers
        self._state = state
        self._boottime_ns = boottime_ns
        self._utc_ns = utc_ns
        self._boot_id = boot.boot_id(root)
        self._board = BoardSensors(root, beside)
        self._beside_source = beside_source
        self._is_simulated = is_simulated
        self._counters = rapl.read_counters(root)
        self._counted_ns = boottime_ns()
        self._swap_in = _Rate(boottime_ns(), memory.read_swapped_in_bytes(root))
        self._cpu_times = cpu_times
        self._cpu = cpu_times()
        self.energy = EnergyMeter()

    def sample(self) -> telemetry_pb2.TelemetrySample:
        """What is absent on this machine is absent in the sample."""
        board = self._board
        board.look()
        now_ns = self._boottime_ns()
        before, self._cpu = self._cpu, self._cpu_times()
        agent = memory.read_process(os.getpid())
        sample = telemetry_pb2.TelemetrySample(
            boot_id=self._boot_id,
            boottime_ns=now_ns,
            utc_ns=self._utc_ns(),
            memory=board.memory(
                agent.rss_bytes if agent else 0,
                self._swap_in.per_s(now_ns, memory.read_swapped_in_bytes(self._root)),
            ),
            cpu=board.cpu(_load_percent(before, self._cpu)),
            gpu=board.gpu(),
            power=self._power(now_ns),
            workers=[self._worker(status) for status in self._workers()],
            disk_free_bytes=psutil.disk_usage(str(self._state)).free,
            network=_network(),
            emc=board.emc(),
            over_current=board.over_current(),
            power_mode=board.power_mode(),
            supply=board.supply(),
            simulated=self._is_simulated,
            beside_source=self._beside_source,
        )
        board.add_heat(sample)
        return sample

    def _power(self, now_ns: int) -> telemetry_pb2.PowerSample | None:
        read = self._board.power()
        sample = self._counted(now_ns) if read is None else self._sensed(now_ns, read)
        if sample is not None and self.energy.total_j is not None:
            # Thousandths are more than any sensor tells, and are short in the ring.
            sample.energy_j = round(self.energy.total_j, 3)
        return sample

    def _sensed(self, now_ns: int, read: power.PowerReading) -> telemetry_pb2.PowerSample:
        """From the board's power monitors."""
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
