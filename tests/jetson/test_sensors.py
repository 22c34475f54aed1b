"""Temperatures, GPU, clocks and memory on each board."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from jetson import boot, memory
from jetson.clocks import CpuClocks, find_policies, read_clocks, read_pinned
from jetson.emc import EmcReading, read_emc
from jetson.gpu import GpuReading, find_gpu, read_gpu
from jetson.sysfs import count_of, is_asleep, read_int, read_text
from jetson.thermal import (
    MOST_SENSORS,
    Heat,
    TripPoint,
    find_sensors,
    offline,
    read_heat,
    read_sensors,
    read_temperatures,
    read_zones,
)
from jetson.throttling import OverCurrent, read_over_current
from tests.jetson import trees
from tests.jetson.trees import asleep, write


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
                "nvme Composite": 48.85,
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


@pytest.mark.parametrize(
    ("name", "heat"),
    [
        ("nano", Heat("AO-therm", 39.5, 97.0, 102.5)),
        # Not the disk, which is hotter.
        ("orin nano", Heat("tj-thermal", 44.531, 99.0, 104.5)),
        ("agx orin", Heat("tj-therm", 53.5, None, None)),
        ("thor-t5000", Heat("tj-thermal", 41.0, 99.0, 105.0)),
        ("workstation", Heat("x86_pkg_temp", 45.0, None, None)),
        ("container", None),
    ],
)
def test_the_temperature_of_the_board(tmp_path: Path, name: str, heat: Heat | None) -> None:
    assert read_heat(write(trees.BOARDS[name], tmp_path)) == heat


def test_junction_counts_even_where_another_zone_is_hotter(tmp_path: Path) -> None:
    write(trees.ORIN_NANO, tmp_path)
    (tmp_path / "sys/class/thermal/thermal_zone0/temp").write_text("60000\n")
    heat = read_heat(tmp_path)
    assert heat is not None
    assert (heat.zone, heat.celsius) == ("tj-thermal", 44.531)


def test_trip_points(tmp_path: Path) -> None:
    zones = {zone.name: zone.trips for zone in read_zones(write(trees.ORIN_NANO, tmp_path))}
    assert zones["cpu-thermal"] == (
        TripPoint("active", 51.0),
        TripPoint("passive", 99.0),
        TripPoint("critical", 104.5),
    )
    # One that a driver has not set, and one that tells no kind.
    (tmp_path / "sys/class/thermal/thermal_zone0/trip_point_1_temp").write_text("0\n")
    (tmp_path / "sys/class/thermal/thermal_zone0/trip_point_2_type").unlink()
    zones = {zone.name: zone.trips for zone in read_zones(tmp_path)}
    assert zones["cpu-thermal"] == (TripPoint("active", 51.0),)


def test_zone_whose_unit_is_powered_down_is_offline(tmp_path: Path) -> None:
    """EAGAIN on r36; -256 where a release mends it that way; a broken file is neither."""
    write(trees.ORIN_NANO, tmp_path)
    zone = tmp_path / "sys/class/thermal"
    with asleep(zone / "thermal_zone2/temp"):
        (zone / "thermal_zone3/temp").write_text("-256000\n")
        (zone / "thermal_zone1/temp").write_text("broken\n")
        sensors = find_sensors(tmp_path)
        read = read_sensors(sensors)
        assert offline(sensors, read) == ("cv0-thermal", "soc2-thermal")
    assert {one.zone for one in read} == {"cpu-thermal", "tj-thermal", "nvme Composite"}


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


def test_gpu_by_its_name_in_the_device_tree(tmp_path: Path) -> None:
    tree = {
        "sys/class/devfreq/gpu-devfreq/device/of_node/name": b"ga10b\0",
        "sys/class/devfreq/gpu-devfreq/device/load": b"250\n",
        "sys/class/devfreq/gpu-devfreq/cur_freq": b"612000000\n",
    }
    assert read_gpu(write(tree, tmp_path)) == GpuReading(25.0, 612)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # The cap is 0: there is none.
        ("nano", EmcReading(None, 1600)),
        ("orin nano", EmcReading(3199, None)),
        ("xavier-nx-8gb", EmcReading(1600, None)),
        ("thor", None),
        ("workstation", None),
    ],
)
def test_clock_of_the_memory(tmp_path: Path, name: str, expected: EmcReading | None) -> None:
    assert read_emc(write(trees.BOARDS[name], tmp_path)) == expected


def test_over_current(tmp_path: Path) -> None:
    assert read_over_current(write(trees.ORIN_NANO, tmp_path)) == (
        OverCurrent("OC1 under-voltage", 1),
        OverCurrent("OC2 average over-current", 0),
        OverCurrent("OC3 instantaneous over-current", 27_390),
    )
    assert read_over_current(tmp_path / "nowhere") == ()


def test_largest_free_block(tmp_path: Path) -> None:
    write(trees.NANO, tmp_path)
    assert memory.read_free_block(tmp_path, 4096) == memory.FreeBlock(4 << 20, 98)
    lists = (
        "Node 0, zone      DMA      1      0      3\nNode 0, zone   Normal      9      2      1\n"
    )
    (tmp_path / "proc/buddyinfo").write_text(lists)
    assert memory.read_free_block(tmp_path, 4096) == memory.FreeBlock(16 << 10, 4)
    (tmp_path / "proc/buddyinfo").write_text("Node 0, zone      DMA      0      0      0\n")
    assert memory.read_free_block(tmp_path) is None


def test_zram(tmp_path: Path) -> None:
    write(trees.NANO, tmp_path)
    assert memory.read_zram(tmp_path) == memory.Zram(2 * 507_400 * 1024, 2 * 8_192)
    (tmp_path / "sys/block/zram1/mm_stat").write_text("none\n")
    assert memory.read_zram(tmp_path) == memory.Zram(2 * 507_400 * 1024, None)
    assert memory.read_zram(tmp_path / "nowhere") is None


def test_nvmap_for_root_where_meminfo_has_it_no_more(tmp_path: Path) -> None:
    reading = memory.read_memory(write(trees.ORIN_NANO, tmp_path))
    assert reading is not None
    assert reading.nvmap_bytes == 312_356 * 1024


def test_file_that_may_not_be_read(tmp_path: Path) -> None:
    """EACCES, also when the tests run as root."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    secret = folder / "energy_uj"
    secret.write_text("12\n")
    secret.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65_534)
        assert (read_int(secret), read_text(secret), is_asleep(secret)) == (None, None, False)
    finally:
        os.seteuid(user)
        shutil.rmtree(folder)


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
    policies, engine = find_policies(tmp_path), find_gpu(tmp_path)
    assert read_pinned(policies, engine) is False, "the GPU's clock is free"
    (tmp_path / "sys/class/devfreq/57000000.gpu/min_freq").write_text("921600000")
    assert read_pinned(policies, engine) is True
    assert read_pinned((), engine) is None


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
