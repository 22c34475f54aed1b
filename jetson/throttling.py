"""Over-current: how often the board's voltage fell or its current rose too far, since boot.

Orin and Thor have a hwmon device ``soctherm_oc`` with a counter for each kind of event; older
boards tell the kernel's log only, and have no reading here. OC3 rises in normal use of the highest
power modes without a loss that could be measured: it is counted. OC1 and OC2 are worth a warning.

Facts: kernel driver tegra234-oc-event.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jetson.sysfs import children, read_int, read_text

UNDER_VOLTAGE = "OC1 under-voltage"
AVERAGE = "OC2 average over-current"
INSTANTANEOUS = "OC3 instantaneous over-current"
WORTH_A_WARNING = (UNDER_VOLTAGE, AVERAGE)

_NAMES = {1: UNDER_VOLTAGE, 2: AVERAGE, 3: INSTANTANEOUS}
_COUNTS = range(1 << 53)


@dataclass(frozen=True, slots=True)
class OverCurrent:
    name: str
    # Since boot.
    events: int


@dataclass(frozen=True, slots=True)
class CounterFile:
    name: str
    path: str


def find_counters(root: Path = Path("/")) -> tuple[CounterFile, ...]:
    """Where the events are counted; empty on boards that do not."""
    return tuple(
        CounterFile(name, f"{device}/oc{number}_event_cnt")
        for device in children(root / "sys/class/hwmon", r"hwmon\d+$")
        if read_text(f"{device}/name") == "soctherm_oc"
        for number, name in _NAMES.items()
    )


def read_counters(counters: Sequence[CounterFile]) -> tuple[OverCurrent, ...]:
    read = ((counter.name, read_int(counter.path, _COUNTS)) for counter in counters)
    return tuple(OverCurrent(name, events) for name, events in read if events is not None)


def read_over_current(root: Path = Path("/")) -> tuple[OverCurrent, ...]:
    """What the board has counted since it was switched on."""
    return read_counters(find_counters(root))
