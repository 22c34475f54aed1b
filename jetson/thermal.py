"""Temperatures: the kernel's thermal zones, and the hwmon sensors that are no zones.

Zones are called CPU-therm up to r35 and cpu-thermal from r36 on; their names are passed on as they
are. A zone whose unit is powered down answers EAGAIN: it is absent from the reading. The kernel
mirrors most zones as hwmon devices (the name with _ for -), which are left out here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jetson.sysfs import children, read_int, read_text

# Reported by r32 and earlier: a constant 50 or 100, and a weighted mean made for the fan.
_NOT_SENSORS = frozenset({"PMIC-Die", "thermal-fan-est"})
# A machine with many cores has a sensor for each of them; a sample names this many at most.
MOST_SENSORS = 32
# Below: "offline" on some releases (-256). Above: no silicon.
_PLAUSIBLE_MC = range(-60_000, 200_001)


@dataclass(frozen=True, slots=True)
class Temperature:
    zone: str
    celsius: float


@dataclass(frozen=True, slots=True)
class TemperatureFile:
    zone: str
    path: str


def find_sensors(root: Path = Path("/")) -> tuple[TemperatureFile, ...]:
    """Where temperatures are read. They stay for as long as the boot."""
    zones = []
    for folder in children(root / "sys/class/thermal", r"thermal_zone\d+$"):
        name = read_text(f"{folder}/type")
        if name is not None and name not in _NOT_SENSORS:
            zones.append(TemperatureFile(name, f"{folder}/temp"))
    mirrored = {zone.zone.replace("-", "_") for zone in zones}
    return tuple([*zones, *_hwmon_sensors(root, mirrored)][:MOST_SENSORS])


def read_sensors(sensors: Sequence[TemperatureFile]) -> tuple[Temperature, ...]:
    read = ((sensor.zone, read_int(sensor.path, _PLAUSIBLE_MC)) for sensor in sensors)
    return tuple(
        Temperature(zone, value_mc / 1000) for zone, value_mc in read if value_mc is not None
    )


def read_temperatures(root: Path = Path("/")) -> tuple[Temperature, ...]:
    """All temperatures that can be read now, zones first; empty where there is no sensor."""
    return read_sensors(find_sensors(root))


def _hwmon_sensors(root: Path, mirrored: set[str]) -> list[TemperatureFile]:
    sensors = []
    for device in children(root / "sys/class/hwmon", r"hwmon\d+$"):
        name = read_text(f"{device}/name")
        if name is None or name in mirrored:
            continue
        for path in children(device, r"temp\d+_input$"):
            label = read_text(path.replace("_input", "_label"))
            sensors.append(TemperatureFile(f"{name} {label}" if label else name, path))
    return sensors
