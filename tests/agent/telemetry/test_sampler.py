import os
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from agent.telemetry.board import SENSORS_FOUND_EVERY, STATE_READ_EVERY
from agent.telemetry.sampler import Sampler, WorkerStatus
from jetson.simulation import tree as simulated
from protos.nanofleet.v1.telemetry_pb2 import TelemetrySample, WorkerSample
from tests.jetson import trees
from tests.jetson.trees import spoiled, write

S = 1_000_000_000
# Ways of spoiling that differ for a sampler that starts with them.
STARTED_WITH = {"missing", "unreadable", "bytes", "large"}


class Clock:
    """CLOCK_BOOTTIME that moves when it is told to."""

    def __init__(self) -> None:
        self.now_ns = 1000 * S

    def __call__(self) -> int:
        return self.now_ns


def nobody() -> Sequence[WorkerStatus]:
    return ()


def sampler(root: Path, clock: Clock) -> Sampler:
    return Sampler(root, nobody, boottime_ns=clock, utc_ns=lambda: 42)


def test_sample_of_an_orin_nano(tmp_path: Path) -> None:
    tree = {**trees.ORIN_NANO, "proc/sys/kernel/random/boot_id": b"8d6c21f0\n"}
    clock = Clock()
    taking = sampler(write(tree, tmp_path), clock)
    first = taking.sample()
    clock.now_ns += 2 * S
    second = taking.sample()
    assert (second.seq, second.boot_id, second.utc_ns) == (0, "8d6c21f0", 42)
    assert second.boottime_ns - first.boottime_ns == 2 * S
    assert second.memory.available_bytes == 6_012_340 * 1024
    assert second.memory.swap_used_bytes == 975_360 * 1024
    assert second.memory.pressure_some_percent == 1.53
    assert second.memory.agent_rss_bytes > 0
    assert second.cpu.frequency_mhz == 1190
    assert (second.gpu.load_percent, second.gpu.frequency_mhz) == (0.0, 305)
    assert second.gpu.HasField("load_percent")
    assert {t.zone: t.celsius for t in second.temperatures}["tj-thermal"] == 44.531
    assert (second.power.total_mw, second.power.total_source) == (2957, "VDD_IN")
    assert [rail.name for rail in second.power.rails] == ["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"]
    assert not first.power.HasField("energy_j")
    assert second.power.energy_j == taking.energy.total_j == 5.914
    assert (second.heat.zone, second.heat.celsius) == ("tj-thermal", 44.531)
    assert (second.heat.throttle_celsius, second.heat.critical_celsius) == (99.0, 104.5)
    assert second.emc.cap_mhz == 3199
    assert [(one.name, one.events) for one in second.over_current] == [
        ("OC1 under-voltage", 1),
        ("OC2 average over-current", 0),
        ("OC3 instantaneous over-current", 27_390),
    ]
    assert (second.power_mode.id, second.power_mode.name) == (2, "MAXN_SUPER")
    assert second.power_mode.clocks_pinned is False
    assert second.cpu.cores_online == 6
    assert second.memory.swap_total_bytes == 3_901_440 * 1024
    assert second.memory.nvmap_bytes == 312_356 * 1024
    assert not second.simulated
    assert second.disk_free_bytes > 0
    assert second.HasField("network")


def test_swap_and_supply(tmp_path: Path) -> None:
    """A rate over the time that really passed, from the first sample on."""
    files = {
        **trees.ORIN_NANO,
        **simulated.swapped_in(1000),
        **simulated.supply("battery", "Battery", capacity=41, status="Discharging"),
    }
    clock = Clock()
    taking = sampler(write(files, tmp_path), clock)

    def rate(pages: int | None, after_ns: int) -> float | None:
        clock.now_ns += after_ns
        file = tmp_path / "proc/vmstat"
        file.unlink(missing_ok=True)
        if pages is not None:
            write(simulated.swapped_in(pages), tmp_path)
        read = taking.sample().memory
        return read.swap_in_bytes_per_s if read.HasField("swap_in_bytes_per_s") else None

    page = os.sysconf("SC_PAGE_SIZE")
    assert rate(1000, S) == 0
    assert rate(3000, 4 * S) == 500 * page
    assert rate(10, S) == 0, "it began anew"
    assert rate(20, 0) is None
    assert rate(None, S) is None
    assert rate(20, S) is None
    assert rate(30, S) == 10 * page
    supply = taking.sample().supply
    assert (supply.on_mains, supply.battery_percent) == (False, 41)


def test_absent_is_absent(tmp_path: Path) -> None:
    """In a container without anything."""
    taken = sampler(tmp_path, Clock()).sample()
    for field in ("memory", "gpu", "power", "heat", "emc", "power_mode", "supply"):
        assert not taken.HasField(field), field
    assert not taken.temperatures
    assert not taken.offline_zones
    assert not taken.over_current
    assert not taken.cpu.HasField("cores_online")
    assert not taken.cpu.HasField("frequency_mhz")
    assert not taken.workers
    assert TelemetrySample.FromString(taken.SerializeToString()) == taken


def test_memory_of_a_nano(tmp_path: Path) -> None:
    taken = sampler(write(trees.NANO, tmp_path), Clock()).sample().memory
    assert (taken.zram_total_bytes, taken.zram_used_bytes) == (2 * 507_400 * 1024, 2 * 8_192)
    assert taken.nvmap_bytes == 61_440 * 1024
    assert taken.largest_free_block_bytes == os.sysconf("SC_PAGE_SIZE") << 10


def test_zone_that_goes_offline_and_mode_that_is_set_are_seen(tmp_path: Path) -> None:
    taking = sampler(write(trees.ORIN_NANO, tmp_path), Clock())
    taking.sample()
    (tmp_path / "var/lib/nvpmodel/status").write_text("pmode:0000\n")
    with trees.asleep(tmp_path / "sys/class/thermal/thermal_zone2/temp"):
        taken = [taking.sample() for _ in range(STATE_READ_EVERY)][-1]
    assert list(taken.offline_zones) == ["cv0-thermal"]
    assert taken.power_mode.name == "15W"


def test_power_that_cannot_be_read_keeps_its_place_and_its_energy(tmp_path: Path) -> None:
    clock = Clock()
    taking = sampler(write(trees.ORIN_NANO, tmp_path), clock)
    taking.sample()
    clock.now_ns += S
    taking.sample()
    next(tmp_path.glob("sys/bus/i2c/drivers/ina3221/*/hwmon/*/in1_input")).unlink()
    clock.now_ns += S
    taken = taking.sample()
    assert not taken.power.HasField("total_mw")
    assert taken.power.total_source == "VDD_IN"
    assert [rail.name for rail in taken.power.rails] == ["VDD_CPU_GPU_CV", "VDD_SOC"]
    assert taken.power.energy_j == 2.957


def test_workstation_counts_energy(tmp_path: Path) -> None:
    clock = Clock()
    taking = sampler(write(trees.WORKSTATION, tmp_path), clock)
    counter = tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj"
    counter.write_text("31000000\n")
    clock.now_ns += 2 * S
    taken = taking.sample()
    assert (taken.power.total_mw, taken.power.total_source) == (15_000, "package (RAPL)")
    assert [(rail.name, rail.power_mw) for rail in taken.power.rails] == [("package-0", 15_000)]
    assert taken.power.energy_j == 30.0
    # A counter that leaps by kilowatts, and one that cannot be read any more.
    counter.write_text("262143000000\n")
    clock.now_ns += S
    assert not taking.sample().HasField("power")
    counter.unlink()
    clock.now_ns += S
    assert not taking.sample().HasField("power")
    assert taking.energy.total_j == 30.0


def test_load_is_the_mean_since_the_sample_before(tmp_path: Path) -> None:
    """Busy for a known share of the machine; other processes may only add to it."""
    taking = Sampler(tmp_path, nobody)
    taking.sample()
    started_s, process = time.monotonic(), psutil.Process()
    used_s = sum(process.cpu_times()[:2])
    while sum(process.cpu_times()[:2]) - used_s < 0.3:
        sum(range(10_000))
    elapsed_s = time.monotonic() - started_s
    load = taking.sample().cpu.load_percent
    floor = 100 * 0.3 / elapsed_s / (os.cpu_count() or 1)
    # The kernel counts in ticks of 10 ms.
    assert 0.7 * floor <= load <= 100
    assert load == round(load, 1)


def test_worker_is_joined_with_its_memory(tmp_path: Path) -> None:
    status = WorkerStatus(
        WorkerSample.KIND_TRAINING,
        os.getpid(),
        tokens_per_s=12.5,
        job_id="01JD",
        step=3,
        total_steps=120,
        loss=0.0,
        time_to_go_s=88.0,
    )
    gone = WorkerStatus(WorkerSample.KIND_INFERENCE, 2**22 + 1)
    taken = Sampler(tmp_path, lambda: [status, gone]).sample()
    trainer, server = taken.workers
    assert (trainer.kind, trainer.pid) == (WorkerSample.KIND_TRAINING, os.getpid())
    assert (trainer.step, trainer.total_steps, trainer.job_id) == (3, 120, "01JD")
    assert trainer.HasField("loss")
    assert trainer.rss_bytes == trainer.anonymous_bytes + trainer.file_bytes
    assert trainer.peak_rss_bytes >= trainer.rss_bytes
    assert server.pid == 2**22 + 1
    assert server.rss_bytes == 0
    assert not server.HasField("tokens_per_s")


def test_driver_that_comes_later_is_found(tmp_path: Path) -> None:
    taking = sampler(tmp_path, Clock())
    taking.sample()
    write(trees.NANO, tmp_path)
    taken = [taking.sample() for _ in range(SENSORS_FOUND_EVERY)][-1]
    assert taken.power.total_mw == 2875


def test_free_space_is_that_of_the_state_folder(tmp_path: Path) -> None:
    taken = Sampler(tmp_path, nobody, state=tmp_path).sample()
    assert abs(taken.disk_free_bytes - psutil.disk_usage(str(tmp_path)).free) < 1 << 30


@pytest.mark.parametrize("name", trees.TO_SPOIL)
def test_no_spoiled_file_ends_the_record(tmp_path: Path, name: str) -> None:
    """Each file of each board, spoiled before the sampler starts and while it runs."""
    write(trees.BOARDS[name], tmp_path)
    clock = Clock()
    running = sampler(tmp_path, clock)
    for file, how in spoiled(trees.BOARDS[name], tmp_path):
        clock.now_ns += S
        running.sample()
        if how in STARTED_WITH and not file.startswith("etc/"):
            sampler(tmp_path, clock).sample()
