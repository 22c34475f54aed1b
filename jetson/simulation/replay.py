"""A recorded tree that moves: the files of a board at rest, and what load makes of them.

The tree is copied into a folder of its own; ``move`` then writes what rails, zones, clocks and
/proc/meminfo show at a load. The agent reads that folder as it would read the machine, by the same
functions, so a simulated board goes the way of a real one. Each file is replaced whole: a reader
in another thread never sees half of one.
"""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from jetson import clocks, memory, power, thermal
from jetson.power import RailFiles
from jetson.sysfs import read_int
from jetson.thermal import TemperatureFile

# Of /proc and /sys nothing that is read is larger; dpkg's list is.
_LARGEST_BYTES = 16 << 20
# What the rail of the cores has of the board's additional power; the rest is lost on the way.
_CORES_SHARE = 0.8
_AVAILABLE = re.compile(rb"^(MemAvailable|MemFree):\s+\d+ kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _MovingRail:
    files: RailFiles
    rest_mw: int
    share: float


def copy(recorded: Path, live: Path) -> None:
    """Copies the files of the recorded tree into the folder ``live``."""
    for folder, _, names in os.walk(recorded):
        for name in names:
            path = Path(folder) / name
            if path.is_file() and path.stat().st_size <= _LARGEST_BYTES:
                target = live / path.relative_to(recorded)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


class Replay:
    """The live tree below ``root``, which was at rest when it was recorded."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._rails = _rails(root)
        self._zones = [
            (sensor, read_int(sensor.path) or 0)
            for sensor in thermal.find_sensors(root)
            if sensor.is_zone and thermal.read_sensors([sensor])
        ]
        self._policies = clocks.find_policies(root)
        self._meminfo = (root / "proc/meminfo").read_bytes()
        at_rest = memory.read_memory(root)
        self.available_bytes = at_rest.available_bytes if at_rest else 0

    def move(
        self, *, power_mw: float, rise_celsius: float, load: float, available_bytes: int
    ) -> None:
        """What the board shows: power and heat above rest, and the memory that is available."""
        for rail in self._rails:
            _write_rail(rail.files, round(rail.rest_mw + rail.share * power_mw))
        for sensor, rest_mc in self._zones:
            _write_zone(sensor, rest_mc + round(rise_celsius * 1000))
        for policy in self._policies:
            _write_clock(policy, load)
        kilobytes = max(0, available_bytes) >> 10
        known = _AVAILABLE.sub(rb"\1: %d kB" % kilobytes, self._meminfo)
        _replace(self._root / "proc/meminfo", known)

    def show(self, name: str, content: bytes) -> None:
        """Sets a file of the tree."""
        (self._root / name).parent.mkdir(parents=True, exist_ok=True)
        _replace(self._root / name, content)


def _rails(root: Path) -> list[_MovingRail]:
    """The input rail has all of what load adds; where there is none, the rail of the cores."""
    files = power.find_rails(root)
    has_input = any(rail.name in power.INPUT_RAILS for rail in files)
    cores = next(
        (rail.name for rail in files if "CPU" in rail.name), files[0].name if files else ""
    )
    moving = []
    for rail in files:
        share = 0.0
        if rail.name in power.INPUT_RAILS:
            share = 1.0
        elif rail.name == cores:
            share = _CORES_SHARE if has_input else 1.0
        rest_mw = rail.read().power_mw
        if rest_mw is not None and share:
            moving.append(_MovingRail(rail, rest_mw, share))
    return moving


def _write_rail(files: RailFiles, power_mw: int) -> None:
    if files.milliwatt:
        _replace(Path(files.milliwatt), _line(power_mw))
    if files.microwatt:
        _replace(Path(files.microwatt), _line(power_mw * 1000))
    voltage_mv = read_int(files.millivolt) if files.millivolt else None
    if voltage_mv:
        _replace(Path(files.milliampere), _line(round(power_mw * 1000 / voltage_mv)))


def _write_zone(sensor: TemperatureFile, value_mc: int) -> None:
    _replace(Path(sensor.path), _line(value_mc))


def _write_clock(policy: str, load: float) -> None:
    lowest_khz = read_int(f"{policy}/scaling_min_freq")
    highest_khz = read_int(f"{policy}/scaling_max_freq")
    if lowest_khz is not None and highest_khz is not None:
        clock_khz = lowest_khz + round((highest_khz - lowest_khz) * min(1.0, max(0.0, load)))
        _replace(Path(policy) / "scaling_cur_freq", _line(clock_khz))


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.next")
    beside.write_bytes(content)
    beside.replace(path)


def _line(number: int) -> bytes:
    return f"{number}\n".encode()
