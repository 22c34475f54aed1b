"""Memory that CPU and GPU share: what there is, what is available, and who waits for it.

MemAvailable is the truth that budgets are made from: the GPU's allocations reduce it, and show in
no process's resident set. Pressure (PSI) needs kernel 4.20: JetPack 4 does not have it.

Gigabytes may be free in pieces too small for a buffer of the GPU: the largest free block says so.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from jetson.sysfs import read_bytes, read_text

_FIELD = re.compile(rb"^(\w+):[ \t]+(\d{1,15})(?: kB)?[ \t]*$", re.MULTILINE)
_NVMAP_TOTAL = re.compile(r"^total\s+(\d{1,12})K\s*$", re.MULTILINE)
_BUDDIES = re.compile(r"^Node\s+\d+, zone\s+\S+((?:\s+\d{1,12})+)\s*$", re.MULTILINE)
_SWAPPED_IN = re.compile(rb"^pswpin (\d{1,18})$", re.MULTILINE)
_SOME = re.compile(r"^some avg10=(\d{1,3}(?:\.\d+)?) ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class MemoryReading:
    total_bytes: int
    available_bytes: int
    swap_total_bytes: int | None
    swap_used_bytes: int | None
    # What the GPU driver holds: r32 and r35, and for root elsewhere.
    nvmap_bytes: int | None


@dataclass(frozen=True, slots=True)
class Zram:
    """Swap that lives in memory, all devices together."""

    # What may be swapped into it.
    size_bytes: int
    # What it takes of the memory now; None where the kernel does not tell.
    used_bytes: int | None


@dataclass(frozen=True, slots=True)
class FreeBlock:
    """The largest piece of contiguous free memory, and how many there are of that size."""

    size_bytes: int
    count: int


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
    nvmap = fields.get(b"NvMapMemUsed")
    return MemoryReading(
        total,
        # Inside some containers the host's figure is given beside the container's total.
        min(available, total),
        swap,
        None if swap is None or free is None else max(0, swap - free),
        _nvmap_bytes(root) if nvmap is None else nvmap,
    )


def read_pressure_percent(root: Path = Path("/")) -> float | None:
    """Share of the last 10 s in which some task waited for memory; None without PSI."""
    text = read_text(root / "proc/pressure/memory")
    found = _SOME.search(text) if text else None
    return None if found is None else min(100.0, float(found[1]))


def read_swapped_in_bytes(
    root: Path = Path("/"), page_bytes: int = os.sysconf("SC_PAGE_SIZE")
) -> int | None:
    """What came back from swap since boot: a board where this rises fast computes for nothing."""
    found = _SWAPPED_IN.search(read_bytes(root / "proc/vmstat") or b"")
    return int(found[1]) * page_bytes if found else None


def read_process(pid: int, root: Path = Path("/")) -> ProcessMemory | None:
    """One small file, where smaps_rollup would walk all page tables; None when it is gone."""
    fields = _fields(root / "proc" / str(pid) / "status")
    try:
        anonymous = fields[b"RssAnon"] + fields[b"RssShmem"]
        return ProcessMemory(fields[b"VmRSS"], anonymous, fields[b"RssFile"], fields[b"VmHWM"])
    except KeyError:
        # A zombie has a status without memory.
        return None


def read_free_block(
    root: Path = Path("/"), page_bytes: int = os.sysconf("SC_PAGE_SIZE")
) -> FreeBlock | None:
    """From the free lists of the kernel's allocator, of all zones; None when they are not told."""
    zones = _BUDDIES.findall(read_text(root / "proc/buddyinfo") or "")
    blocks: dict[int, int] = {}
    for zone in zones:
        for order, count in enumerate(map(int, zone.split())):
            blocks[order] = blocks.get(order, 0) + count
    free = [order for order, count in blocks.items() if count]
    if not free:
        return None
    return FreeBlock(page_bytes << max(free), blocks[max(free)])


def read_zram(root: Path = Path("/")) -> Zram | None:
    """None where no swap lives in memory."""
    swaps = read_text(root / "proc/swaps") or ""
    found = re.findall(r"^/dev/(zram\d+)\s+\S+\s+(\d{1,15})\s", swaps, re.MULTILINE)
    if not found:
        return None
    used = [_zram_used_bytes(root, device) for device, _ in found]
    known = [size_bytes for size_bytes in used if size_bytes is not None]
    return Zram(
        sum(int(size_kb) for _, size_kb in found) * 1024,
        sum(known) if len(known) == len(used) else None,
    )


def zram_bytes(root: Path = Path("/")) -> int | None:
    """The size of all swap devices that live in memory; None where there are none."""
    zram = read_zram(root)
    return zram.size_bytes if zram else None


def _zram_used_bytes(root: Path, device: str) -> int | None:
    """The third number of mm_stat: what original data and bookkeeping take."""
    numbers = (read_text(root / "sys/block" / device / "mm_stat") or "").split()
    is_whole = len(numbers) >= 3 and all(re.fullmatch(r"\d{1,15}", n) for n in numbers[:3])
    return int(numbers[2]) if is_whole else None


def _nvmap_bytes(root: Path) -> int | None:
    """Root may read who holds what; the last line adds it up."""
    text = read_text(root / "sys/kernel/debug/nvmap/iovmm/clients")
    found = _NVMAP_TOTAL.search(text) if text else None
    return int(found[1]) * 1024 if found else None


def _fields(path: Path) -> dict[bytes, int]:
    return {name: int(value) * 1024 for name, value in _FIELD.findall(read_bytes(path) or b"")}
