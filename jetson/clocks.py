"""Clocks and the power mode: what makes the same board up to 1.5 times faster or slower.

Boards are left in a low power mode for months unnoticed, so each measurement carries the mode. Its
id alone says little (0 is MAXN on one board and 15W on another): it is given with its name. Both
are read from nvpmodel's own files; its command wants root.

jetson_clocks leaves no mark of its own: it makes the lowest clock the highest, of CPU and GPU.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from jetson.gpu import GpuFiles
from jetson.sysfs import children, count_of, read_int, read_text

_MODE_ID = re.compile(r"pmode:(\d{1,4})")
_MODE = re.compile(r"^<\s*POWER_MODEL\s+ID=(\d{1,4})\s+NAME=(\S+)\s*>", re.MULTILINE)

_ANSWER = re.compile(r"^NV Power Mode: .*\n(\d{1,4})\s*$", re.MULTILINE)

_CLOCKS_KHZ = range(10**8)


@dataclass(frozen=True, slots=True)
class CpuClocks:
    # Of the fastest cluster.
    frequency_mhz: int | None
    online: int | None
    # jetson_clocks, or a governor, holds the clock: lowest and highest allowed are equal.
    pinned: bool | None


@dataclass(frozen=True, slots=True)
class PowerMode:
    id: int
    name: str | None

    def __str__(self) -> str:
        return f"{self.name} ({self.id})" if self.name else f"mode {self.id}"


def find_policies(root: Path = Path("/")) -> tuple[str, ...]:
    """One folder for each cluster of cores that shares a clock."""
    return tuple(children(root / "sys/devices/system/cpu/cpufreq", r"policy\d+$"))


def read_frequency_mhz(policies: tuple[str, ...]) -> int | None:
    clocks_khz = [read_int(f"{policy}/scaling_cur_freq", _CLOCKS_KHZ) for policy in policies]
    return max((clock // 1000 for clock in clocks_khz if clock is not None), default=None)


def read_clocks(root: Path = Path("/")) -> CpuClocks:
    policies = find_policies(root)
    return CpuClocks(read_frequency_mhz(policies), read_cores_online(root), _pinned(policies))


def read_cores_online(root: Path = Path("/")) -> int | None:
    """A power mode may switch some off."""
    online = read_text(root / "sys/devices/system/cpu/online")
    return None if online is None else count_of(online)


def read_pinned(policies: tuple[str, ...], gpu: GpuFiles | None = None) -> bool | None:
    """Whether all clocks are held at one value, as jetson_clocks does; None: not known."""
    gpu_pinned = gpu.is_pinned() if gpu else None
    cpu_pinned = _pinned(policies)
    return cpu_pinned if gpu_pinned is None or cpu_pinned is None else cpu_pinned and gpu_pinned


def read_power_mode(root: Path = Path("/")) -> PowerMode | None:
    """The mode that nvpmodel saved, with the name from its configuration; None elsewhere."""
    status = read_text(root / "var/lib/nvpmodel/status")
    found = _MODE_ID.search(status) if status else None
    if found is None:
        return None
    mode = int(found[1])
    return PowerMode(mode, read_power_modes(root).get(mode))


def read_power_modes(root: Path = Path("/")) -> dict[int, str]:
    """Of nvpmodel's configuration: names by number."""
    return {
        int(id): name for id, name in _MODE.findall(read_text(root / "etc/nvpmodel.conf") or "")
    }


def answered_mode(text: str) -> int | None:
    """The number that ``nvpmodel -q`` prints, on the line after the name."""
    found = _ANSWER.search(text)
    return int(found[1]) if found else None


def _pinned(policies: tuple[str, ...]) -> bool | None:
    limits = [
        (read_int(f"{policy}/scaling_min_freq"), read_int(f"{policy}/scaling_max_freq"))
        for policy in policies
    ]
    if not limits or any(None in pair for pair in limits):
        return None
    return all(low == high for low, high in limits)
