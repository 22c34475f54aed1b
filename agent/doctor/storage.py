"""The doctor's checks of the disk: room, speed, wear, and what swaps to it.

An SD card or eMMC wears out, and slows down before it does. What it is, how worn and whether its
file system has seen errors is read from sysfs, without root; how fast it is shows in a few small
files that are written, synced and removed.
"""

import os
import re
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from agent.doctor.findings import Found, Level, Site, fail, ok, warn
from jetson import memory
from jetson.sysfs import read_int, read_text

_MB = 1_000_000
_WRITTEN_BYTES = 16 << 20
_SYNCS = 5
# Of Q8_0 at 1B parameters: what is served where nothing else is known.
_USUAL_MODEL_BYTES = 1_069_000_000
# eMMC: tenths of its life, and 1 for "as it should be".
_WORN = 9
_PRE_END_OF_LIFE = {2: "most of its spare blocks are used", 3: "its spare blocks are used up"}


def disk(site: Site) -> Found:
    folder = next(path for path in (site.state, *site.state.parents) if path.exists())
    usage = shutil.disk_usage(folder)
    text = f"{usage.free / 1e9:.1f} GB of {usage.total / 1e9:.1f} GB are free"
    if usage.free < site.least_disk_bytes:
        return fail(text)
    return warn(text) if usage.free < site.comfortable_disk_bytes else ok(text)


def storage(site: Site) -> Found:
    """What the state folder lies on, how healthy and how fast it is."""
    if not site.state.is_dir():
        return ok("not measured: there is no state folder")
    device = _device(site)
    medium = _medium(site.root, device)
    for level, trouble in _troubles(site.root, device):
        return Found(level, f"{medium}: {trouble}")
    try:
        sync_ms, write_mb_s = _measure(site.state)
    except OSError as error:
        return fail(f"{medium}: cannot be written: {error.strerror}")
    text = f"{medium}: writes {write_mb_s:,.0f} MB/s, {sync_ms:.1f} ms for a small sync"
    is_slow = sync_ms > site.slow_sync_ms or write_mb_s < site.slow_write_mb_s
    return warn(f"{text}: slow") if is_slow else ok(text)


def swap(site: Site) -> Found:
    """zram takes memory that a large model needs; a card that is swapped to wears and crawls."""
    reading = memory.read_memory(site.root)
    zram_bytes = memory.zram_bytes(site.root)
    model_bytes = max(_USUAL_MODEL_BYTES, _largest(site.state / "artifacts" / "objects"))
    if zram_bytes is not None:
        text = f"{zram_bytes / _MB:,.0f} MB of zram"
        # Where a model is a small part of the memory, zram takes it from nobody.
        is_large = reading is None or model_bytes * 8 > reading.total_bytes
        model = f"beside models of {model_bytes / _MB:,.0f} MB"
        return warn(f"{text}, {model}") if is_large else ok(f"{text}, much memory {model}")
    if reading is None or not reading.swap_total_bytes:
        return ok("none")
    places = _swap_places(site.root)
    text = f"{reading.swap_total_bytes / _MB:,.0f} MB, none of it in memory"
    cards = [place for place in places if _is_card(place)]
    if cards:
        return warn(f"{text}, on a card or eMMC ({', '.join(cards)})")
    return ok(f"{text}, on {', '.join(places)}" if places else text)


def _measure(folder: Path) -> tuple[float, float]:
    """Milliseconds for a synced write of 4 KiB, and megabytes a second of one of 16 MiB."""
    with tempfile.TemporaryFile(dir=folder) as file:
        syncs = [_timed_s(file.fileno(), os.urandom(4096)) for _ in range(_SYNCS)]
        write_s = _timed_s(file.fileno(), os.urandom(_WRITTEN_BYTES))
    return statistics.median(syncs) * 1000, _WRITTEN_BYTES / _MB / write_s


def _timed_s(descriptor: int, data: bytes) -> float:
    start_s = time.monotonic()
    os.write(descriptor, data)
    os.fsync(descriptor)
    return max(1e-6, time.monotonic() - start_s)


def _device(site: Site) -> str:
    """The kernel's name of what holds the state folder: mmcblk0p1; empty where it does not say."""
    number = site.state.stat().st_dev
    where = f"sys/dev/block/{os.major(number)}:{os.minor(number)}/uevent"
    named = re.search(r"^DEVNAME=(\S+)$", read_text(site.root / where) or "", re.MULTILINE)
    return named[1] if named else ""


def _disk_of(device: str) -> str:
    """mmcblk0p1 is a part of mmcblk0, nvme0n1p2 of nvme0n1, sda1 of sda."""
    return re.sub(r"(?<=\d)p\d+$|(?<=^sd[a-z])\d+$", "", device)


def _medium(root: Path, device: str) -> str:
    disk = _disk_of(device)
    if not disk:
        return "a disk that is not known here"
    if _is_card(device):
        kind = read_text(root / "sys/block" / disk / "device/type")
        return {"SD": "an SD card", "MMC": "eMMC"}.get(kind or "", "a card") + f" ({device})"
    if disk.startswith("nvme"):
        return f"NVMe ({device})"
    if disk.startswith("vd"):
        return f"a virtual disk ({device})"
    rotates = read_int(root / "sys/block" / disk / "queue/rotational") == 1
    return f"a rotating disk ({device})" if rotates else f"a disk ({device})"


def _troubles(root: Path, device: str) -> list[tuple[Level, str]]:
    """What the medium or its file system says of itself; the worst first."""
    found = []
    folder = root / "sys/block" / _disk_of(device) / "device"
    errors = read_int(root / "sys/fs/ext4" / device / "errors_count") if device else None
    if errors:
        found.append((Level.FAIL, f"its file system has seen {errors} errors"))
    end = _hexadecimal(read_text(folder / "pre_eol_info"))
    if end in _PRE_END_OF_LIFE:
        found.append((Level.FAIL if end == max(_PRE_END_OF_LIFE) else Level.WARN,
                      _PRE_END_OF_LIFE[end]))  # fmt: skip
    worn = max(map(_hexadecimal, (read_text(folder / "life_time") or "").split()), default=0)
    if worn >= _WORN:
        found.append((Level.WARN, f"about {min(worn * 10, 100)} % of its life is used"))
    return sorted(found, key=lambda trouble: -trouble[0])


def _hexadecimal(text: str | None) -> int:
    return int(text, 16) if text and re.fullmatch(r"0x[0-9a-fA-F]{1,4}", text) else 0


def _swap_places(root: Path) -> list[str]:
    lines = (read_text(root / "proc/swaps") or "").splitlines()[1:]
    return [line.split()[0] for line in lines if line.strip()]


def _is_card(device: str) -> bool:
    return device.rpartition("/")[2].startswith("mmcblk")


def _largest(folder: Path) -> int:
    sizes = (path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return max(sizes, default=0)
