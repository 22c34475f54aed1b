"""Power: what the board draws now, by rail, and in all where a rail measures that.

Jetson boards have INA3221 monitors on I2C. Their driver is an IIO device up to L4T r32 and a hwmon
device from r34 on; bus, address and the numbers in the paths move between boards, releases and
boots, so the rails are found by globbing and known by their names.

The total is the input rail where there is one. AGX boards have none: there the sum of the rails is
given, labelled as the lower bound that it is. Readings of different rails are not simultaneous, so
a part may exceed the total for a moment.

Facts: jetson_stats jtop/core/power.py and its issues 51, 344 and 900; kernel hwmon/ina3221.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jetson.sysfs import children, read_int, read_text

# Each measures everything that the module draws (VIN: the carrier's input of Thor).
INPUT_RAILS = ("VDD_IN", "POM_5V_IN", "VIN")
SUM_OF_RAILS = "sum of rails (lower bound)"
# A kilowatt: a reading above it is none.
MOST_MW = 1_000_000

_DRIVERS = "sys/bus/i2c/drivers"
_ADDRESS = r"\d+-[0-9a-f]{4}$"
# Channels that carry nothing, and the hwmon driver's own sum of three shunt voltages.
NOT_RAILS = frozenset({"NC", "sum of shunt voltages"})


@dataclass(frozen=True, slots=True)
class Rail:
    name: str
    # None: the rail is there, and answered nothing useful this time.
    power_mw: int | None


@dataclass(frozen=True, slots=True)
class PowerReading:
    rails: tuple[Rail, ...]
    total_mw: int | None
    # The rail or the method that gives the total.
    total_source: str


@dataclass(frozen=True, slots=True)
class RailFiles:
    """Where a rail is read: in mW, in µW, or as mV and mA."""

    name: str
    milliwatt: str = ""
    microwatt: str = ""
    millivolt: str = ""
    milliampere: str = ""

    def read(self) -> Rail:
        return Rail(self.name, self._power_mw())

    def _power_mw(self) -> int | None:
        power_mw = read_int(self.milliwatt) if self.milliwatt else None
        if power_mw is None and self.microwatt:
            power_uw = read_int(self.microwatt)
            power_mw = None if power_uw is None else round(power_uw / 1000)
        if power_mw is None and self.millivolt:
            voltage_mv, current_ma = read_int(self.millivolt), read_int(self.milliampere)
            if voltage_mv is not None and current_ma is not None:
                power_mw = round(voltage_mv * current_ma / 1000)
        if power_mw is None or power_mw > MOST_MW:
            return None
        # The monitors measure one direction; a small negative reading is the offset of zero.
        return max(0, power_mw)


def find_rails(root: Path = Path("/")) -> tuple[RailFiles, ...]:
    """The rails of all monitors; empty where there is none. They stay for as long as the boot."""
    return (*_iio_rails(root), *_hwmon_rails(root), *_input_monitor(root))


def read_rails(rails: tuple[RailFiles, ...]) -> PowerReading | None:
    """What the rails draw now; None when there are none."""
    return with_total(tuple(rail.read() for rail in rails)) if rails else None


def with_total(read: tuple[Rail, ...]) -> PowerReading:
    """The rails, and what of them is the board's total."""
    by_name = {rail.name: rail.power_mw for rail in read}
    for name in INPUT_RAILS:
        if name in by_name:
            return PowerReading(read, by_name[name], name)
    powers = [rail.power_mw for rail in read]
    present = [power_mw for power_mw in powers if power_mw is not None]
    # A sum that lacks a rail would look like a drop in power.
    total_mw = sum(present) if len(present) == len(powers) else None
    return PowerReading(read, total_mw, SUM_OF_RAILS)


def read_power(root: Path = Path("/")) -> PowerReading | None:
    """The board's power now; None on machines without a monitor."""
    return read_rails(find_rails(root))


def _iio_rails(root: Path) -> list[RailFiles]:
    return [
        RailFiles(
            name,
            milliwatt=f"{device}/in_power{channel}_input",
            millivolt=f"{device}/in_voltage{channel}_input",
            milliampere=f"{device}/in_current{channel}_input",
        )
        for device in _devices(root / _DRIVERS / "ina3221x", "", r"iio:device\d+$")
        for name, channel in _labelled(device, r"rail_name_\d+$")
    ]


def _hwmon_rails(root: Path) -> list[RailFiles]:
    return [
        RailFiles(
            name,
            millivolt=f"{device}/in{channel}_input",
            milliampere=f"{device}/curr{channel}_input",
        )
        for device in _devices(root / _DRIVERS / "ina3221", "/hwmon", r"hwmon\d+$")
        for name, channel in _labelled(device, r"in\d+_label$")
    ]


def _labelled(device: str, pattern: str) -> Iterator[tuple[str, str]]:
    """Name and number of each channel that measures a rail; the label's file has the number."""
    for label in children(device, pattern):
        name = read_text(label)
        if name is not None and name not in NOT_RAILS:
            yield name, re.sub(r"\D", "", label.rpartition("/")[2])


def _input_monitor(root: Path) -> list[RailFiles]:
    """Thor's INA238, which measures the carrier's input and has no label."""
    devices = _devices(root / _DRIVERS / "ina238", "/hwmon", r"hwmon\d+$")
    return [RailFiles("VIN", microwatt=f"{device}/power1_input") for device in devices[:1]]


def _devices(driver: Path, below: str, pattern: str) -> list[str]:
    addresses = children(driver, _ADDRESS)
    return [device for address in addresses for device in children(address + below, pattern)]
