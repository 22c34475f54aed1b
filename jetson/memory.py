"""Memory that CPU and GPU share: what there is, what is available, and who waits for it.

MemAvailable is the truth that budgets are made from: the GPU's allocations reduce it, and show in
no process's resident set. Pressure (PSI) needs kernel 4.20: JetPack 4 does not have it.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from jetson.sysfs import read_bytes, read_text

_FIELD = re.compile(rb"^(\w+):[ \t]+(\d{1,15})(?: kB)?[ \t]*$", re.MULTILINE)
_SOME = re.compile(r"^some avg10=(\d{1,3}(?:\.\d+)?) ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class MemoryReading:
    total_bytes: int
    available_bytes: int
    swap_total_bytes: int | None
    swap_used_bytes: int | None
    # What the GPU driver holds; r32 and r35 only.
    nvmap_bytes: int | None


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    rss_bytes: int
    # Private and anonymous, and shared memory: what cannot be dropped and read again.
    anonymous_bytes: int
    # Mapped files.
    file_bytes: int
    peak_rss_bytes: int


def read_memory(root: Path = Path("/")) -> MemoryReading | None:
    """None when /proc/meminfo does not tell the total and what is available."""
    fields = _fields(root / "proc/meminfo")
    total, available = fields.get(b"MemTotal"), fields.get(b"MemAvailable")
    if not total or available is None:
        return None
    swap, free = fields.get(b"SwapTotal"), fields.get(b"SwapFree")
    return MemoryReading(
        total,
        # Inside some containers the host's figure is given beside the container's total.
        min(available, total),
        swap,
        None if swap is None or free is None else max(0, swap - free),
        fields.get(b"NvMapMemUsed"),
    )


def read_pressure_percent(root: Path = Path("/")) -> float | None:
    """Share of the last 10 s in which some task waited for memory; None without PSI."""
    text = read_text(root / "proc/pressure/memory")
    found = _SOME.search(text) if text else None
    return None if found is None else min(100.0, float(found[1]))


def read_process(pid: int, root: Path = Path("/")) -> ProcessMemory | None:
    """One small file, where smaps_rollup would walk all page tables; None when it is gone."""
    fields = _fields(root / "proc" / str(pid) / "status")
    try:
        anonymous = fields[b"RssAnon"] + fields[b"RssShmem"]
        return ProcessMemory(fields[b"VmRSS"], anonymous, fields[b"RssFile"], fields[b"VmHWM"])
    except KeyError:
        # A zombie has a status without memory.
        return None


def zram_bytes(root: Path = Path("/")) -> int | None:
    """The size of all swap devices that live in memory; None where there are none."""
    text = read_text(root / "proc/swaps")
    sizes = re.findall(r"^/dev/zram\d+\s+\S+\s+(\d{1,15})\s", text or "", re.MULTILINE)
    return sum(map(int, sizes)) * 1024 if sizes else None


def _fields(path: Path) -> dict[bytes, int]:
    return {name: int(value) * 1024 for name, value in _FIELD.findall(read_bytes(path) or b"")}
