"""A log of tegrastats, summed up: `nanofleet-agent tegrastats FILE`.

What was logged on a board by hand, or by an older fleet, in the words of our own telemetry: power
with the rail that gave it, energy by the same trapezoid, the board's temperature, memory, GPU.
Lines without a time are taken to be ``period_s`` apart.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from agent.telemetry.energy import EnergyMeter
from jetson.tegrastats import TegrastatsLine, parse_tegrastats

_NS = 1_000_000_000
# Told of a damaged log: its first lines that could not be read whole.
MOST_DAMAGED_TOLD = 5


@dataclass(slots=True)
class Mean:
    total: float = 0.0
    count: int = 0
    peak: float | None = None

    def add(self, value: float | None) -> None:
        if value is not None:
            self.total += value
            self.count += 1
            self.peak = value if self.peak is None else max(self.peak, value)

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None


@dataclass(slots=True)
class Log:
    """What a log says. A figure that no line had is None."""

    lines: int = 0
    # Lines of which something could not be read: their number and the pieces.
    damaged: dict[int, list[str]] = field(default_factory=dict)
    span_s: float = 0.0
    has_times: bool = False
    power_mw: Mean = field(default_factory=Mean)
    power_source: str = ""
    energy_j: float | None = None
    celsius: Mean = field(default_factory=Mean)
    heat_zone: str = ""
    memory_used_bytes: Mean = field(default_factory=Mean)
    memory_total_bytes: int | None = None
    smallest_free_block_bytes: int | None = None
    gpu_load_percent: Mean = field(default_factory=Mean)


def read(lines: Iterable[str], period_s: float = 1.0) -> Log:
    """The whole log; empty lines are none."""
    log, meter = Log(), EnergyMeter()
    first_ns = last_ns = 0
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        line = parse_tegrastats(text)
        if line.unread:
            log.damaged[number] = line.unread
        now_ns = _time_ns(line, log, last_ns, period_s)
        first_ns = first_ns or now_ns
        last_ns = max(last_ns, now_ns)
        log.lines += 1
        _add(line, log)
        if line.power is not None and line.power.total_mw is not None:
            meter.add_power(now_ns, line.power.total_mw)
    log.span_s, log.energy_j = (last_ns - first_ns) / _NS, meter.total_j
    return log


def as_plain(log: Log) -> dict[str, object]:
    return {
        "lines": log.lines,
        "damaged": {str(number): pieces for number, pieces in log.damaged.items()},
        "span_s": log.span_s,
        "has_times": log.has_times,
        "energy_j": log.energy_j,
        "power_source": log.power_source or None,
        "mean_power_mw": log.power_mw.mean,
        "peak_power_mw": log.power_mw.peak,
        "heat_zone": log.heat_zone or None,
        "mean_celsius": log.celsius.mean,
        "peak_celsius": log.celsius.peak,
        "peak_memory_used_bytes": log.memory_used_bytes.peak,
        "memory_total_bytes": log.memory_total_bytes,
        "smallest_free_block_bytes": log.smallest_free_block_bytes,
        "mean_gpu_load_percent": log.gpu_load_percent.mean,
    }


def as_text(log: Log) -> str:
    times = "by their times" if log.has_times else "by the period, for they have no times"
    rows = [("lines", f"{log.lines:,} over {log.span_s:,.0f} s, {times}")]
    power, heat, used = log.power_mw, log.celsius, log.memory_used_bytes
    if power.mean is not None and power.peak is not None:
        said = f"{power.mean / 1000:.2f} W mean, {power.peak / 1000:.2f} W peak"
        rows.append(("power", f"{said} ({log.power_source})"))
    if log.energy_j is not None:
        rows.append(("energy", f"{log.energy_j:,.1f} J"))
    if heat.mean is not None:
        rows.append(("heat", f"{heat.mean:.1f} °C mean, {heat.peak:.1f} °C peak ({log.heat_zone})"))
    if used.peak is not None and log.memory_total_bytes is not None:
        rows.append(
            ("memory", f"{used.peak / 1e6:,.0f} MB peak of {log.memory_total_bytes / 1e6:,.0f} MB")
        )
    if log.smallest_free_block_bytes is not None:
        size_mb = log.smallest_free_block_bytes / 1e6
        rows.append(("free", f"the largest block was {size_mb:,.1f} MB at its smallest"))
    if log.gpu_load_percent.mean is not None:
        rows.append(("gpu", f"{log.gpu_load_percent.mean:.0f} % mean load"))
    if log.damaged:
        rows.append(("damaged", f"{len(log.damaged):,} lines, of which the rest was read:"))
        first = list(log.damaged.items())[:MOST_DAMAGED_TOLD]
        rows += [("", f"line {number}: {' '.join(pieces)}") for number, pieces in first]
    return "\n".join(f"{name:<9}{said}" for name, said in rows)


def _time_ns(line: TegrastatsLine, log: Log, before_ns: int, period_s: float) -> int:
    if line.stamp is not None:
        log.has_times = True
        return int(line.stamp.timestamp()) * _NS
    # A line that lost its time, in a log that has them, is taken to follow the one before.
    return before_ns + round(period_s * _NS)


def _add(line: TegrastatsLine, log: Log) -> None:
    power, heat = line.power, line.heat
    if power is not None:
        log.power_mw.add(power.total_mw)
        log.power_source = power.total_source
    if heat is not None:
        log.celsius.add(heat.celsius)
        log.heat_zone = heat.zone
    if line.ram is not None:
        log.memory_used_bytes.add(line.ram.used_bytes)
        log.memory_total_bytes = line.ram.total_bytes
    if line.gpu is not None:
        log.gpu_load_percent.add(line.gpu.load_percent)
    block = line.largest_free_block
    if block is not None:
        smallest = log.smallest_free_block_bytes
        log.smallest_free_block_bytes = min(block.size_bytes, smallest or block.size_bytes)
