"""Every file of every board, missing, unreadable, empty or nonsense in turn.

No reader raises, and no reading that the file has no part in changes. What is read of the spoiled
file is absent or plausible; it is never a wild number.
"""

from pathlib import Path

import pytest

from jetson import board, boot, clocks, emc, gpu, memory, power, rapl, thermal, throttling
from tests.jetson.trees import BOARDS, TO_SPOIL, spoiled, write


def everything(root: Path) -> dict[str, object]:
    """All readings below a root, by family. A missing one is a missing key."""
    found: dict[str, object] = {
        "board": board.identify(root, "aarch64"),
        "clocks": clocks.read_clocks(root),
        "boot": boot.boot_id(root),
        "memory": memory.read_memory(root),
        "pressure": memory.read_pressure_percent(root),
        "swapped in": memory.read_swapped_in_bytes(root),
        "zram": memory.read_zram(root),
        "free block": memory.read_free_block(root),
        "emc": emc.read_emc(root),
        "over-current": throttling.read_over_current(root),
        "pinned": clocks.read_pinned(clocks.find_policies(root), gpu.find_gpu(root)),
        "heat": thermal.read_heat(root),
        "gpu": gpu.read_gpu(root),
        "counters": rapl.read_counters(root),
    }
    found |= {f"zone {t.zone}": t for t in thermal.read_temperatures(root)}
    reading = power.read_power(root)
    if reading is not None:
        found |= {f"rail {rail.name}": rail for rail in reading.rails}
        found["total"] = (reading.total_source, reading.total_mw)
    return found


@pytest.mark.parametrize("name", TO_SPOIL)
def test_spoiled_files_harm_nothing_else(tmp_path: Path, name: str) -> None:
    write(BOARDS[name], tmp_path)
    healthy = everything(tmp_path)
    for file, how in spoiled(BOARDS[name], tmp_path):
        check(healthy, everything(tmp_path), file, how)
    assert everything(tmp_path) == healthy


def check(healthy: dict[str, object], read: dict[str, object], file: str, how: str) -> None:
    changed = {name for name in {*healthy, *read} if read.get(name) != healthy.get(name)}
    stray = [name for name in changed if not concerns(name, file)]
    assert not stray, f"{file} {how}: {stray}"
    assert_plausible(read, f"{file} {how}")


def concerns(name: str, file: str) -> bool:
    """Whether a file has a part in a reading."""
    parts = {
        "drivers/ina": ("rail", "total"),
        "class/thermal": ("zone", "heat"),
        "class/hwmon": ("zone", "over-current"),
        "class/devfreq": ("gpu", "pinned"),
        "class/powercap": ("counters",),
        "system/cpu": ("clocks", "board", "pinned"),
        "proc/meminfo": ("memory", "board"),
        "proc/pressure": ("pressure",),
        "proc/swaps": ("zram",),
        "proc/vmstat": ("swapped in",),
        "sys/block": ("zram",),
        "proc/buddyinfo": ("free block",),
        "emc": ("emc",),
        "nvmap": ("memory",),
    }
    return any(part in file and name.startswith(names) for part, names in parts.items()) or (
        name == "board" and not file.startswith("sys/")
    )


def assert_plausible(read: dict[str, object], why: str) -> None:
    for value in read.values():
        if isinstance(value, thermal.Temperature | thermal.Heat):
            assert -60 <= value.celsius <= 200, why
        elif isinstance(value, power.Rail):
            assert value.power_mw is None or 0 <= value.power_mw < 10**6, why
        elif isinstance(value, gpu.GpuReading):
            assert value.load_percent is None or 0 <= value.load_percent <= 100, why
