"""Temperatures: the kernel's thermal zones, and the hwmon sensors that are no zones.

Zones are called CPU-therm up to r35 and cpu-thermal from r36 on; their names are passed on as they
are. A zone whose unit is powered down answers EAGAIN, or -256: it is offline. The kernel mirrors
most zones as hwmon devices (the name with _ for -), which are left out here.

Where a board throttles differs by board and release, so it is read: the trip points of its zones.
The zone ``tj`` is the hottest junction and stands for the board where it exists.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jetson.sysfs import children, is_asleep, read_int, read_text

# Reported by r32 and earlier: a constant 50 or 100, and a weighted mean made for the fan.
_NOT_SENSORS = frozenset({"PMIC-Die", "thermal-fan-est"})
# A machine with many cores has a sensor for each of them; a sample names this many at most.
MOST_SENSORS = 32
# Below: "offline" on some releases (-256). Above: no silicon.
_PLAUSIBLE_MC = range(-60_000, 200_001)
_OFFLINE_MC = -256_000
_TRIPS_MC = range(1, 200_001)
# Of a trip point: the kernel slows units down; the firmware does; the board is switched off.
PASSIVE, HOT, CRITICAL = "passive", "hot", "critical"


@dataclass(frozen=True, slots=True)
class Temperature:
    zone: str
    celsius: float


@dataclass(frozen=True, slots=True)
class TripPoint:
    kind: str  # "passive", "hot", "critical", and "active" for a fan
    celsius: float


@dataclass(frozen=True, slots=True)
class Zone:
    """A thermal zone and where it acts."""

    name: str
    trips: tuple[TripPoint, ...]


@dataclass(frozen=True, slots=True)
class Heat:
    """The board's temperature, and the lowest limits of its zones."""

    zone: str
    celsius: float
    # Where the kernel begins to slow the board down, and where it is switched off.
    throttle_celsius: float | None
    critical_celsius: float | None


@dataclass(frozen=True, slots=True)
class TemperatureFile:
    zone: str
    path: str
    # One of the board's own zones; a disk or a radio is none.
    is_zone: bool = True


def find_sensors(root: Path = Path("/")) -> tuple[TemperatureFile, ...]:
    """Where temperatures are read. They stay for as long as the boot."""
    zones = [TemperatureFile(name, f"{folder}/temp") for name, folder in _zones(root)]
    mirrored = {zone.zone.replace("-", "_") for zone in zones}
    return tuple([*zones, *_hwmon_sensors(root, mirrored)][:MOST_SENSORS])


def read_sensors(sensors: Sequence[TemperatureFile]) -> tuple[Temperature, ...]:
    read = ((sensor.zone, read_int(sensor.path, _PLAUSIBLE_MC)) for sensor in sensors)
    return tuple(
        Temperature(zone, value_mc / 1000) for zone, value_mc in read if value_mc is not None
    )


def read_zones(root: Path = Path("/")) -> tuple[Zone, ...]:
    """The zones with their trip points, which do not change while the board runs."""
    return tuple(Zone(name, tuple(_trips(folder))) for name, folder in _zones(root))


def offline(
    sensors: Sequence[TemperatureFile], read: Sequence[Temperature] = ()
) -> tuple[str, ...]:
    """The zones, of those that were not ``read``, whose units are powered down now."""
    known = {one.zone for one in read}
    silent = (sensor for sensor in sensors if sensor.is_zone and sensor.zone not in known)
    return tuple(sensor.zone for sensor in silent if _is_offline(sensor.path))


def heat_of(
    temperatures: Sequence[Temperature],
    sensors: Sequence[TemperatureFile],
    zones: Sequence[Zone] = (),
) -> Heat | None:
    """The junction's zone, else the hottest of the zones; None when none can be read.

    Limits are the lowest of all zones: each of them can slow the board down.
    """
    own = {sensor.zone for sensor in sensors if sensor.is_zone}
    read = [one for one in temperatures if one.zone in own or not own]
    if not read:
        return None
    junction = [one for one in read if one.zone.lower().startswith("tj")]
    hottest = max(junction or read, key=lambda one: one.celsius)
    return Heat(hottest.zone, hottest.celsius, _lowest(zones, PASSIVE), _lowest(zones, CRITICAL))


def read_temperatures(root: Path = Path("/")) -> tuple[Temperature, ...]:
    """All temperatures that can be read now, zones first; empty where there is no sensor."""
    return read_sensors(find_sensors(root))


def read_heat(root: Path = Path("/")) -> Heat | None:
    """The board's temperature now; None where there is no sensor."""
    sensors = find_sensors(root)
    return heat_of(read_sensors(sensors), sensors, read_zones(root))


def _zones(root: Path) -> Iterator[tuple[str, str]]:
    """Name and folder of each zone that is a sensor."""
    for folder in children(root / "sys/class/thermal", r"thermal_zone\d+$"):
        name = read_text(f"{folder}/type")
        if name is not None and name not in _NOT_SENSORS:
            yield name, folder


def _trips(folder: str) -> Iterator[TripPoint]:
    for path in children(folder, r"trip_point_\d+_type$"):
        kind = read_text(path)
        value_mc = read_int(path.replace("_type", "_temp"), _TRIPS_MC)
        if kind is not None and value_mc is not None:
            yield TripPoint(kind, value_mc / 1000)


def _lowest(zones: Sequence[Zone], kind: str) -> float | None:
    limits = [trip.celsius for zone in zones for trip in zone.trips if trip.kind == kind]
    return min(limits, default=None)


def _is_offline(path: str) -> bool:
    return is_asleep(path) or read_int(path) == _OFFLINE_MC


def _hwmon_sensors(root: Path, mirrored: set[str]) -> list[TemperatureFile]:
    sensors = []
    for device in children(root / "sys/class/hwmon", r"hwmon\d+$"):
        name = read_text(f"{device}/name")
        if name is None or name in mirrored:
            continue
        for path in children(device, r"temp\d+_input$"):
            label = read_text(path.replace("_input", "_label"))
            sensors.append(
                TemperatureFile(f"{name} {label}" if label else name, path, is_zone=False)
            )
    return sensors
