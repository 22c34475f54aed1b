"""Temperatures, GPU, clocks and memory on each board."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jetson import boot, memory
from jetson.clocks import CpuClocks, read_clocks
from jetson.gpu import GpuReading, read_gpu
from jetson.sysfs import count_of
from jetson.thermal import MOST_SENSORS, read_temperatures
from tests.jetson import trees
from tests.jetson.trees import write


@pytest.mark.parametrize(
    ("name", "zones"),
    [
        ("nano", {"AO-therm": 39.5, "CPU-therm": 36.5, "GPU-therm": 36.0, "PLL-therm": 34.0}),
        (
            "orin nano",
            {
                "cpu-thermal": 44.125,
                "gpu-thermal": 44.531,
                "soc2-thermal": 43.375,
                "tj-thermal": 44.531,
                "nvme Composite": 38.85,
            },
        ),
        ("raspberry pi", {"cpu-thermal": 51.4, "rp1_adc": 49.6}),
        (
            "workstation",
            {
                "acpitz": 27.8,
                "x86_pkg_temp": 45.0,
                "coretemp Package id 0": 46.0,
                "coretemp Core 0": 44.0,
            },
        ),
        ("container", {}),
    ],
)
def test_temperatures(tmp_path: Path, name: str, zones: dict[str, float]) -> None:
    read = read_temperatures(write(trees.BOARDS[name], tmp_path))
    assert {t.zone: t.celsius for t in read} == zones


def test_zone_that_is_switched_off_is_absent(tmp_path: Path) -> None:
    write(trees.NANO, tmp_path)
    (tmp_path / "sys/class/thermal/thermal_zone0/temp").write_text("-256000\n")
    assert "AO-therm" not in {t.zone for t in read_temperatures(tmp_path)}


def test_many_cores_make_no_endless_sample(tmp_path: Path) -> None:
    tree = {f"sys/class/hwmon/hwmon1/temp{n}_input": b"40000\n" for n in range(1, 129)}
    read = read_temperatures(write({**tree, "sys/class/hwmon/hwmon1/name": b"coretemp"}, tmp_path))
    assert len(read) == MOST_SENSORS


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nano", GpuReading(98.7, 921)),
        ("orin nano", GpuReading(0.0, 305)),
        ("agx orin", GpuReading(42.0, 1300)),
        ("xavier nx", GpuReading(12.3, 1109)),
        ("thor", None),
        ("workstation", None),
        ("container", None),
    ],
)
def test_gpu(tmp_path: Path, name: str, expected: GpuReading | None) -> None:
    assert read_gpu(write(trees.BOARDS[name], tmp_path)) == expected


def test_gpu_without_the_devfreq_class(tmp_path: Path) -> None:
    tree = {
        "sys/devices/gpu.0/load": b"500\n",
        "sys/devices/gpu.0/devfreq/57000000.gpu/cur_freq": b"76800000\n",
    }
    assert read_gpu(write(tree, tmp_path)) == GpuReading(50.0, 76)


def test_other_devfreq_devices_are_no_gpu(tmp_path: Path) -> None:
    tree = {"sys/class/devfreq/15340000.vic/device/load": b"5\n"}
    assert read_gpu(write(tree, tmp_path)) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nano", CpuClocks(1479, 4, False)),
        ("orin nano", CpuClocks(1190, 6, False)),
        ("xavier nx", CpuClocks(1420, 3, False)),
        ("container", CpuClocks(None, None, None)),
    ],
)
def test_clocks(tmp_path: Path, name: str, expected: CpuClocks) -> None:
    assert read_clocks(write(trees.BOARDS[name], tmp_path)) == expected


def test_pinned_clocks_are_seen(tmp_path: Path) -> None:
    write(trees.NANO, tmp_path)
    (tmp_path / "sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq").write_text("1984000")
    assert read_clocks(tmp_path).pinned is True


@pytest.mark.parametrize(
    ("ranges", "count"),
    [("0", 1), ("0-3", 4), ("0-1,4", 3), ("0,2-3,5", 4), ("", None), ("all", None), ("0-", None)],
)
def test_lists_of_the_kernel(ranges: str, count: int | None) -> None:
    assert count_of(ranges) == count


def test_memory_of_a_nano(tmp_path: Path) -> None:
    write(trees.NANO, tmp_path)
    assert memory.read_memory(tmp_path) == memory.MemoryReading(
        total_bytes=4_059_256 * 1024,
        available_bytes=3_301_120 * 1024,
        swap_total_bytes=2_029_628 * 1024,
        swap_used_bytes=507_407 * 1024,
        nvmap_bytes=61_440 * 1024,
    )
    assert memory.zram_bytes(tmp_path) == 2 * 507_400 * 1024
    assert memory.read_pressure_percent(tmp_path) is None


def test_pressure(tmp_path: Path) -> None:
    assert memory.read_pressure_percent(write(trees.ORIN_NANO, tmp_path)) == 1.53


def test_no_swap_is_zero_and_unknown_swap_is_absent(tmp_path: Path) -> None:
    reading = memory.read_memory(write(trees.AGX_ORIN, tmp_path))
    assert reading is not None
    assert reading.swap_used_bytes == 0
    (tmp_path / "proc/meminfo").write_text("MemTotal: 100 kB\nMemAvailable: 300 kB\n")
    reading = memory.read_memory(tmp_path)
    assert reading is not None
    assert reading.swap_used_bytes is None
    assert reading.available_bytes == reading.total_bytes == 100 * 1024


GROW = """
import mmap, sys
anonymous = bytearray(b"x" * (40 << 20))
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
sum(mapped[::4096])
print("ready", flush=True)
sys.stdin.read()
"""


def test_process_memory_tells_anonymous_from_mapped(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"w" * (30 << 20))
    with subprocess.Popen(
        [sys.executable, "-c", GROW, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        used = memory.read_process(child.pid)
        assert used is not None
        assert 40 << 20 <= used.anonymous_bytes < 60 << 20
        assert 30 << 20 <= used.file_bytes < 50 << 20
        assert used.rss_bytes == used.anonymous_bytes + used.file_bytes
        assert used.peak_rss_bytes >= used.rss_bytes
        child.kill()
        # Dead and not yet reaped: it has a status, and no memory.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert memory.read_process(child.pid) is None
    assert memory.read_process(child.pid) is None


def test_boot_of_this_machine() -> None:
    assert len(boot.boot_id()) == 36
    assert boot.boottime_ns() > 0
    assert boot.boot_id(Path("/nowhere")) == ""
