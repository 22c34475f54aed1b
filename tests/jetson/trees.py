"""Trees of /proc, /sys and /etc for readers that take a root, and ways of spoiling them.

Every board of jetson/simulation/boards.py, at rest; some of them as they are told of in documents,
busy and with oddities; and machines that are no Jetson.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jetson.simulation import tree
from jetson.simulation.boards import BOARDS as AT_REST
from jetson.simulation.boards import tree_of
from jetson.simulation.tree import Tree, write

__all__ = ["AT_REST", "BOARDS", "CONTENTS", "TO_SPOIL", "Tree", "asleep", "spoiled", "write"]

PSI = tree.pressure(1.53)


def memory(total_kb: int, available_kb: int, swap_kb: int, more: str = "") -> Tree:
    """A quarter of the swap is taken."""
    return tree.memory(total_kb, available_kb, swap_kb, swap_kb // 4, more)


CONTENTS: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \n",
    "text": b"unavailable\n",
    "bytes": b"\xff\xfe\x00\x80\n",
    "fraction": b"12.5\n",
    "large": b"9" * 18,
    "huge": b"9" * 40,
    "negative": b"-999999999",
    "underscores": b"1_000",
    "long": b"x" * 300_000,
}


@contextmanager
def asleep(path: Path) -> Iterator[None]:
    """A file that answers EAGAIN, as that of a unit that is powered down: a pipe that is empty."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        yield
    finally:
        os.close(writer)


def spoiled(tree: Tree, root: Path) -> Iterator[tuple[str, str]]:
    """Spoils each file of a written tree in each way, one at a time; names the file and the way."""
    for file, content in tree.items():
        path = root / file
        path.unlink()
        yield file, "missing"
        # A folder in its place answers reads with an error, even to root.
        path.mkdir()
        yield file, "unreadable"
        path.rmdir()
        if not file.startswith("var/lib/dpkg"):  # a regular file, always
            with asleep(path):
                yield file, "asleep"
            path.unlink()
        for how, bad in CONTENTS.items():
            path.write_bytes(bad)
            yield file, how
        path.write_bytes(content)


KERNEL = "proc/sys/kernel/osrelease"

NANO: Tree = {
    **tree.device_tree(
        "nvidia,p3449-0000-b00+p3448-0000-b00",
        "nvidia,jetson-nano",
        "nvidia,tegra210",
        model="NVIDIA Jetson Nano Developer Kit",
    ),
    **tree.release("32.7.1", "t210ref"),
    **tree.iio_rails(
        "6-0040",
        0,
        ("POM_5V_IN", 5_000, 575),
        ("POM_5V_GPU", 5_000, 8),
        ("POM_5V_CPU", 5_000, 102),
    ),
    **tree.zones(
        ("AO-therm", 39_500),
        ("CPU-therm", 36_500),
        ("GPU-therm", 36_000),
        ("PLL-therm", 34_000),
        ("PMIC-Die", 100_000),
        ("thermal-fan-est", 36_250),
        trips=(("passive", 97_000), ("critical", 102_500)),
    ),
    **tree.gpu("57000000.gpu", 987, 921_600_000, 76_800_000, 921_600_000),
    **tree.cores("0-3", ("policy0", 1_479_000, 102_000, 1_984_000)),
    **memory(4_059_256, 3_301_120, 2_029_628, "NvMapMemUsed:      61440 kB\n"),
    **tree.zram(2, 507_400, 8_192),
    **tree.free_blocks(1, 0, 4, 2, 0, 0, 0, 0, 0, 0, 98),
    KERNEL: b"4.9.253-tegra\n",
    **tree.power_modes(1, "MAXN", "5W"),
    "sys/kernel/nvpmodel_emc_cap/emc_iso_cap": b"0\n",
    "sys/kernel/debug/clk/emc/clk_rate": b"1600000000\n",
    "var/lib/dpkg/status": tree.package("libc6", "2.27-3ubuntu1.6"),
}

ORIN_NANO: Tree = {
    **tree.device_tree(
        "nvidia,p3768-0000+p3767-0005-super",
        "nvidia,p3767-0005",
        "nvidia,tegra234",
        model="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
    ),
    **tree.release("36.4.3", "generic"),
    **tree.hwmon_rails(
        "1-0040",
        11,
        ("VDD_IN", 5_072, 583),
        ("VDD_CPU_GPU_CV", 5_064, 96),
        ("VDD_SOC", 5_064, 200),
    ),
    **tree.zones(
        ("cpu-thermal", 44_125),
        ("gpu-thermal", 44_531),
        ("cv0-thermal", None),
        ("soc2-thermal", 43_375),
        ("tj-thermal", 44_531),
        trips=(("active", 51_000), ("passive", 99_000), ("critical", 104_500)),
    ),
    "sys/class/hwmon/hwmon2/name": b"cpu_thermal\n",
    "sys/class/hwmon/hwmon2/temp1_input": b"44125\n",
    "sys/class/hwmon/hwmon3/name": b"nvme\n",
    "sys/class/hwmon/hwmon3/temp1_input": b"48850\n",
    "sys/class/hwmon/hwmon3/temp1_label": b"Composite\n",
    **tree.over_current(8, 1, 0, 27_390),
    **tree.gpu("17000000.gpu", 0, 305_000_000, 305_000_000, 1_020_000_000),
    **tree.cores(
        "0-5",
        ("policy0", 729_600, 115_200, 1_984_000),
        ("policy4", 1_190_400, 115_200, 1_984_000),
    ),
    **memory(7_802_880, 6_012_340, 3_901_440),
    **PSI,
    KERNEL: b"5.15.148-tegra\n",
    **tree.power_modes(2, "15W", "25W", "MAXN_SUPER"),
    "sys/kernel/nvpmodel_clk_cap/emc": b"3199000000\n",
    "sys/kernel/debug/nvmap/iovmm/clients": b"CLIENT PROCESS PID SIZE\n"
    b"user python3 4242 312344K\nuser gnome-shell 900 12K\ntotal 312356K\n",
}

AGX_ORIN: Tree = {
    **tree.device_tree(
        "nvidia,p3737-0000+p3701-0005",
        "nvidia,p3701-0005",
        "nvidia,tegra234",
        model="NVIDIA Jetson AGX Orin Developer Kit",
    ),
    **tree.release("35.4.1", "t186ref"),
    **tree.hwmon_rails(
        "1-0040",
        3,
        ("VDD_GPU_SOC", 19_000, 270),
        ("VDD_CPU_CV", 19_000, 42),
        ("VIN_SYS_5V0", 5_000, 900),
    ),
    **tree.hwmon_rails("1-0041", 4, ("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 19_000, 30), ("NC", 0, 0)),
    **tree.zones(("CPU-therm", 52_968), ("GPU-therm", 48_000), ("tj-therm", 53_500)),
    **tree.gpu("17000000.ga10b", 420, 1_300_500_000, 306_000_000, 1_300_500_000),
    **tree.cores(
        "0-11",
        ("policy0", 2_201_600, 115_200, 2_201_600),
        ("policy4", 2_201_600, 115_200, 2_201_600),
        ("policy8", 729_600, 115_200, 2_201_600),
    ),
    **memory(64_348_160, 60_000_000, 0),
    **PSI,
    KERNEL: b"5.10.120-tegra\n",
    **tree.power_modes(0, "MAXN"),
}

XAVIER_NX: Tree = {
    **tree.device_tree(
        "nvidia,p3509-0000+p3668-0001",
        "nvidia,p3668-0001",
        "nvidia,tegra194",
        model="NVIDIA Jetson Xavier NX Developer Kit",
    ),
    "var/lib/dpkg/status": tree.package("bash", "5.0-6")
    + tree.package("nvidia-l4t-core", "35.4.1-20230801124926"),
    **tree.hwmon_rails(
        "7-0040",
        6,
        ("VDD_IN", 4_976, 812),
        ("VDD_CPU_GPU_CV", 4_976, 140),
        ("VDD_SOC", 4_976, 220),
    ),
    **tree.zones(("CPU-therm", 41_500), ("GPU-therm", 41_000), ("AUX-therm", 40_500)),
    **tree.gpu("17000000.gv11b", 123, 1_109_250_000, 114_750_000, 1_109_250_000),
    **tree.cores("0-1,4", ("policy0", 1_420_800, 115_200, 1_907_200)),
    **memory(7_958_528, 6_900_000, 3_979_264),
    KERNEL: b"5.10.104-tegra\n",
}

THOR: Tree = {
    **tree.device_tree(
        "nvidia,p4071-0000+p3834-0008",
        "nvidia,p3834-0008",
        "nvidia,tegra264",
        model="NVIDIA Jetson AGX Thor Developer Kit",
    ),
    **tree.release("38.2.0", "generic"),
    **tree.hwmon_rails(
        "2-0040",
        5,
        ("VDD_GPU", 1, 1),
        ("VDD_CPU_SOC_MSS", 19_000, 210),
        ("VIN_SYS_5V0", 5_000, 800),
    ),
    **tree.input_monitor("2-0044", 6, 31_250),
    **tree.cores("0-13", ("policy0", 2_601_000, 115_200, 2_601_000)),
    **memory(128_790_528, 120_000_000, 0),
    KERNEL: b"6.8.12-tegra\n",
}

WORKSTATION: Tree = {
    "proc/cpuinfo": b"processor\t: 0\nmodel name\t: Intel(R) Core(TM) i7-9700 CPU @ 3.00GHz\n\n"
    b"processor\t: 1\nmodel name\t: Intel(R) Core(TM) i7-9700 CPU @ 3.00GHz\n",
    "sys/class/powercap/intel-rapl:0/name": b"package-0\n",
    "sys/class/powercap/intel-rapl:0/energy_uj": b"1000000\n",
    "sys/class/powercap/intel-rapl:0/max_energy_range_uj": b"262143328850\n",
    "sys/class/powercap/intel-rapl:0:0/name": b"core\n",
    "sys/class/powercap/intel-rapl:0:0/energy_uj": b"900000\n",
    "sys/class/powercap/intel-rapl:0:0/max_energy_range_uj": b"262143328850\n",
    **tree.zones(("acpitz", 27_800), ("x86_pkg_temp", 45_000)),
    "sys/class/hwmon/hwmon0/name": b"acpitz\n",
    "sys/class/hwmon/hwmon0/temp1_input": b"27800\n",
    "sys/class/hwmon/hwmon1/name": b"coretemp\n",
    "sys/class/hwmon/hwmon1/temp1_input": b"46000\n",
    "sys/class/hwmon/hwmon1/temp1_label": b"Package id 0\n",
    "sys/class/hwmon/hwmon1/temp2_input": b"44000\n",
    "sys/class/hwmon/hwmon1/temp2_label": b"Core 0\n",
    **memory(32_000_000, 24_000_000, 8_000_000),
    **PSI,
    KERNEL: b"6.1.0-21-amd64\n",
    **tree.cores("0-7", ("policy0", 3_600_000, 800_000, 4_700_000)),
    "var/lib/dpkg/status": tree.package("libc6", "2.36-9+deb12u7"),
}

RASPBERRY_PI: Tree = {
    **tree.device_tree(
        "raspberrypi,5-model-b", "brcm,bcm2712", model="Raspberry Pi 5 Model B Rev 1.0"
    ),
    **tree.zones(("cpu-thermal", 51_400)),
    "sys/class/hwmon/hwmon0/name": b"cpu_thermal\n",
    "sys/class/hwmon/hwmon0/temp1_input": b"51400\n",
    "sys/class/hwmon/hwmon1/name": b"rp1_adc\n",
    "sys/class/hwmon/hwmon1/temp1_input": b"49600\n",
    **tree.cores("0-3", ("policy0", 2_400_000, 1_500_000, 2_400_000)),
    **memory(8_256_000, 7_000_000, 102_396),
    KERNEL: b"6.6.31+rpt-rpi-2712\n",
}

CONTAINER: Tree = {}

BOARDS: dict[str, Tree] = {
    "nano": NANO,
    "orin nano": ORIN_NANO,
    "agx orin": AGX_ORIN,
    "xavier nx": XAVIER_NX,
    "thor": THOR,
    "workstation": WORKSTATION,
    "raspberry pi": RASPBERRY_PI,
    "container": CONTAINER,
    **{name: tree_of(board) for name, board in AT_REST.items()},
}

# One of each make: the boards of a family have the same files.
TO_SPOIL = (
    "nano",
    "orin nano",
    "agx orin",
    "xavier nx",
    "thor",
    "workstation",
    "raspberry pi",
    "container",
    "tx2",
    "agx-xavier-32gb",
)
