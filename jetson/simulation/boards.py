"""Every board, at rest: what a simulation starts from and what the readers are tested on.

Written by us from the published formats, tables and datasheets; none of it was recorded on a board.
What a board draws and how warm it gets under load is an assumption of ours: it makes a rehearsal
alive, and is no statement about the board.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from jetson.simulation import tree
from jetson.simulation.tree import Tree, Trips

_THROTTLE: Trips = (("passive", 99_000), ("hot", 103_000), ("critical", 105_000))


@dataclass(frozen=True, slots=True)
class Draw:
    """What full load of all cores adds, and how the heat follows."""

    busy_mw: int
    celsius_per_w: float
    time_constant_s: float = 30.0


@dataclass(frozen=True, slots=True)
class SampleBoard:
    compatible: tuple[str, ...]
    model: str
    l4t: str
    kernel: str
    glibc: str
    memory_kb: int
    # Label, mV and mA of each rail, by the monitor's address.
    monitors: Mapping[str, tuple[tuple[str, int, int], ...]]
    zones: tuple[tuple[str, int | None], ...]
    gpu: str
    gpu_highest_hz: int
    cores: int
    clusters: tuple[str, ...]
    highest_khz: int
    modes: tuple[str, ...]
    draw: Draw
    mode: int = 0
    release_word: str = "generic"
    gpu_lowest_hz: int = 114_750_000
    lowest_khz: int = 115_200
    zram_devices: int = 6
    trips: Trips = _THROTTLE
    emc_cap: tuple[str, int] | None = None
    input_mw: int | None = None
    more: Tree = field(default_factory=dict)

    @property
    def available_kb(self) -> int:
        """At rest: the system of a headless board takes a sixth, and 700 MB at most."""
        return self.memory_kb - min(700_000, self.memory_kb // 6)


def tree_of(board: SampleBoard) -> Tree:
    """All files of the board."""
    major = int(board.l4t.partition(".")[0])
    rails = tree.iio_rails if major < 34 else tree.hwmon_rails
    found: Tree = {
        **tree.device_tree(*board.compatible, model=board.model),
        **tree.release(board.l4t, board.release_word),
        "var/lib/dpkg/status": tree.package("libc6", f"{board.glibc}-0ubuntu1"),
        **tree.kernel(board.kernel),
        **tree.zones(*board.zones, trips=board.trips),
        **tree.cores(
            f"0-{board.cores - 1}",
            *((name, board.lowest_khz, board.lowest_khz, board.highest_khz)
              for name in board.clusters),
        ),
        **tree.power_modes(board.mode, *board.modes),
        **tree.free_blocks(812, 420, 301, 92, 41, 17, 9, 5, 3, 2, board.memory_kb // 40_000),
    }  # fmt: skip
    for number, (address, measured) in enumerate(board.monitors.items(), 3):
        found |= rails(address, number, *measured)
    if board.input_mw is not None:
        found |= tree.input_monitor("2-0044", 9, board.input_mw)
    if board.gpu:
        lowest_hz, highest_hz = board.gpu_lowest_hz, board.gpu_highest_hz
        found |= tree.gpu(board.gpu, 0, lowest_hz, lowest_hz, highest_hz)
    swap_kb = board.memory_kb // 2 if board.zram_devices else 0
    nvmap = "NvMapMemUsed:      61440 kB\n" if major < 36 else ""
    found |= tree.memory(board.memory_kb, board.available_kb, swap_kb, more=nvmap)
    if board.zram_devices:
        found |= tree.zram(board.zram_devices, swap_kb // board.zram_devices, 4_096)
    found |= tree.swapped_in(0)
    if major >= 34:
        found |= tree.pressure(0.0)
    if "tegra234" in board.compatible[-1] or "tegra264" in board.compatible[-1]:
        found |= tree.over_current(7, 0, 0, 12)
    if board.emc_cap is not None:
        path, cap_hz = board.emc_cap
        found[path] = f"{cap_hz}\n".encode()
    return found | board.more


_R32_ZONES = (
    ("AO-therm", 38_500),
    ("CPU-therm", 35_500),
    ("GPU-therm", 35_000),
    ("PLL-therm", 33_500),
    ("PMIC-Die", 100_000),
    ("thermal-fan-est", 35_250),
)
_R35_ZONES = (("CPU-therm", 41_500), ("GPU-therm", 41_000), ("AUX-therm", 40_500),
              ("AO-therm", 41_000), ("PMIC-Die", 50_000))  # fmt: skip
_ORIN_ZONES = (("cpu-thermal", 44_125), ("gpu-thermal", 43_500), ("cv0-thermal", None),
               ("cv1-thermal", None), ("cv2-thermal", None), ("soc0-thermal", 42_125),
               ("soc1-thermal", 43_156), ("soc2-thermal", 43_375),
               ("tj-thermal", 44_125))  # fmt: skip
_ISO_CAP = "sys/kernel/nvpmodel_emc_cap/emc_iso_cap"
_CLK_CAP = "sys/kernel/nvpmodel_clk_cap/emc"
_ORIN_L4T, _ORIN_KERNEL = "36.5.0", "5.15.185-tegra"
_R35_L4T, _R35_KERNEL = "35.6.1", "5.10.216-tegra"


def _of(*parts: str, soc: str) -> tuple[str, ...]:
    return (*(f"nvidia,{part}" for part in parts), f"nvidia,{soc}")


NANO = SampleBoard(
    compatible=_of("p3449-0000-b00+p3448-0000-b00", "jetson-nano", soc="tegra210"),
    model="NVIDIA Jetson Nano Developer Kit",
    l4t="32.7.6",
    kernel="4.9.337-tegra",
    glibc="2.27",
    memory_kb=4_059_256,
    monitors={
        "6-0040": (("POM_5V_IN", 5_000, 250), ("POM_5V_GPU", 5_000, 8), ("POM_5V_CPU", 5_000, 42))
    },
    zones=_R32_ZONES,
    trips=(("passive", 97_000), ("critical", 102_500)),
    gpu="57000000.gpu",
    gpu_lowest_hz=76_800_000,
    gpu_highest_hz=921_600_000,
    cores=4,
    clusters=("policy0",),
    lowest_khz=102_000,
    highest_khz=1_479_000,
    modes=("MAXN", "5W"),
    release_word="t210ref",
    zram_devices=4,
    draw=Draw(busy_mw=3_900, celsius_per_w=5.5),
)

TX2 = SampleBoard(
    compatible=_of("p2597-0000+p3310-1000", soc="tegra186"),
    model="quill",
    l4t="32.7.6",
    kernel="4.9.337-tegra",
    glibc="2.27",
    memory_kb=8_048_000,
    monitors={
        "0-0040": (
            ("VDD_SYS_GPU", 19_000, 8),
            ("VDD_SYS_SOC", 19_000, 25),
            ("VDD_4V0_WIFI", 4_800, 6),
        ),
        "0-0041": (
            ("VDD_IN", 19_000, 130),
            ("VDD_SYS_CPU", 19_000, 12),
            ("VDD_SYS_DDR", 19_000, 20),
        ),
    },
    zones=(
        ("BCPU-therm", 38_000),
        ("MCPU-therm", 38_000),
        ("GPU-therm", 36_500),
        ("PLL-therm", 38_000),
        ("Tboard_tegra", 34_000),
        ("Tdiode_tegra", 35_250),
        ("PMIC-Die", 100_000),
        ("thermal-fan-est", 37_300),
    ),
    trips=(("passive", 95_500), ("critical", 101_000)),
    gpu="17000000.gp10b",
    gpu_highest_hz=1_300_500_000,
    cores=6,
    clusters=("policy0", "policy1"),
    lowest_khz=345_600,
    highest_khz=2_035_200,
    modes=("MAXN", "MAXQ", "MAXP_CORE_ALL", "MAXP_CORE_ARM", "MAXP_CORE_DENVER"),
    mode=3,
    release_word="t186ref",
    draw=Draw(busy_mw=7_500, celsius_per_w=3.0),
)

XAVIER_NX = SampleBoard(
    compatible=_of("p3509-0000+p3668-0000", "p3668-0000", soc="tegra194"),
    model="NVIDIA Jetson Xavier NX Developer Kit",
    l4t=_R35_L4T,
    kernel=_R35_KERNEL,
    glibc="2.31",
    memory_kb=7_958_528,
    monitors={
        "7-0040": (("VDD_IN", 4_976, 690), ("VDD_CPU_GPU_CV", 4_976, 80), ("VDD_SOC", 4_976, 210))
    },
    zones=_R35_ZONES,
    trips=(("passive", 95_500), ("critical", 101_000)),
    gpu="17000000.gv11b",
    gpu_highest_hz=1_109_250_000,
    cores=6,
    clusters=("policy0", "policy2", "policy4"),
    highest_khz=1_420_800,
    modes=("15W_2CORE", "15W_4CORE", "15W_6CORE", "10W_2CORE", "10W_4CORE"),
    mode=2,
    release_word="t186ref",
    emc_cap=(_ISO_CAP, 1_600_000_000),
    draw=Draw(busy_mw=7_000, celsius_per_w=3.0),
)

AGX_XAVIER = replace(
    XAVIER_NX,
    compatible=_of("p2822-0000+p2888-0004", "p2972-0000", soc="tegra194"),
    model="Jetson-AGX",
    memory_kb=32_100_000,
    monitors={
        "1-0040": (("GPU", 19_000, 10), ("CPU", 19_000, 20), ("SOC", 19_000, 60)),
        "1-0041": (("CV", 19_000, 0), ("VDDRQ", 19_000, 20), ("SYS5V", 19_000, 70)),
    },
    gpu_highest_hz=1_377_000_000,
    cores=8,
    clusters=("policy0", "policy2", "policy4", "policy6"),
    highest_khz=2_265_600,
    modes=("MAXN", "MODE_10W", "MODE_15W", "MODE_30W_ALL"),
    mode=3,
    draw=Draw(busy_mw=15_000, celsius_per_w=1.4, time_constant_s=60),
)

ORIN_NANO = SampleBoard(
    compatible=_of("p3768-0000+p3767-0005-super", "p3767-0005", soc="tegra234"),
    model="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
    l4t=_ORIN_L4T,
    kernel=_ORIN_KERNEL,
    glibc="2.35",
    memory_kb=7_802_880,
    monitors={
        "1-0040": (("VDD_IN", 5_072, 740), ("VDD_CPU_GPU_CV", 5_064, 96), ("VDD_SOC", 5_064, 200))
    },
    zones=_ORIN_ZONES,
    gpu="17000000.gpu",
    gpu_lowest_hz=306_000_000,
    gpu_highest_hz=918_000_000,
    cores=6,
    clusters=("policy0", "policy4"),
    lowest_khz=729_600,
    highest_khz=1_344_000,
    modes=("15W", "25W", "MAXN_SUPER"),
    mode=1,
    emc_cap=(_CLK_CAP, 3_199_000_000),
    draw=Draw(busy_mw=5_500, celsius_per_w=3.0),
)

ORIN_NX = replace(
    ORIN_NANO,
    compatible=_of("p3768-0000+p3767-0000", "p3767-0000", soc="tegra234"),
    model="NVIDIA Orin NX Developer Kit",
    memory_kb=15_757_312,
    gpu_highest_hz=918_000_000,
    cores=8,
    clusters=("policy0", "policy4"),
    highest_khz=1_984_000,
    modes=("MAXN", "10W", "15W", "25W"),
    mode=3,
    draw=Draw(busy_mw=9_000, celsius_per_w=2.2),
)

AGX_ORIN = replace(
    ORIN_NANO,
    compatible=_of("p3737-0000+p3701-0005", "p3701-0005", soc="tegra234"),
    model="NVIDIA Jetson AGX Orin Developer Kit",
    memory_kb=64_348_160,
    monitors={
        "1-0040": (
            ("VDD_GPU_SOC", 19_000, 130),
            ("VDD_CPU_CV", 19_000, 32),
            ("VIN_SYS_5V0", 5_000, 600),
        ),
        "1-0041": (("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 19_000, 30), ("NC", 0, 0)),
    },
    gpu_highest_hz=1_300_500_000,
    cores=12,
    clusters=("policy0", "policy4", "policy8"),
    highest_khz=2_201_600,
    modes=("MAXN", "MODE_15W", "MODE_30W", "MODE_50W"),
    mode=2,
    draw=Draw(busy_mw=22_000, celsius_per_w=1.0, time_constant_s=60),
)

THOR = replace(
    ORIN_NANO,
    compatible=_of("p4071-0000+p3834-0008", "p3834-0008", soc="tegra264"),
    model="NVIDIA Jetson AGX Thor Developer Kit",
    l4t="38.4.0",
    kernel="6.8.12-tegra",
    glibc="2.39",
    memory_kb=128_790_528,
    monitors={
        "2-0040": (
            ("VDD_GPU", 19_000, 90),
            ("VDD_CPU_SOC_MSS", 19_000, 210),
            ("VIN_SYS_5V0", 5_000, 800),
        )
    },
    zones=(
        ("cpu-thermal", 41_000),
        ("gpu-thermal", 40_500),
        ("soc012-thermal", 40_000),
        ("soc345-thermal", 40_250),
        ("tj-thermal", 41_000),
    ),
    # Its GPU is read through nvidia-smi, not through devfreq.
    gpu="",
    cores=14,
    clusters=("policy0",),
    highest_khz=2_601_000,
    modes=("MAXN", "120W", "90W", "70W"),
    mode=1,
    zram_devices=0,
    emc_cap=None,
    input_mw=27_000,
    draw=Draw(busy_mw=40_000, celsius_per_w=0.7, time_constant_s=60),
)


def _module(board: SampleBoard, carrier: str, module: str) -> SampleBoard:
    """Another module of the same family."""
    soc = board.compatible[-1].removeprefix("nvidia,")
    return replace(board, compatible=_of(f"{carrier}+{module}", module, soc=soc))


BOARDS: dict[str, SampleBoard] = {
    "nano-4gb": NANO,
    "nano-4gb-emmc": _module(NANO, "p3449-0000-b00", "p3448-0002-b00"),
    # Nothing on it measures power.
    "nano-2gb": replace(
        _module(NANO, "p3542-0000", "p3448-0003"),
        model="NVIDIA Jetson Nano 2GB Developer Kit",
        memory_kb=2_027_000,
        monitors={},
    ),
    "tx2": TX2,
    "tx2-nx": replace(
        _module(TX2, "p3509-0000", "p3636-0001"), model="lanai-3636", memory_kb=3_916_000
    ),
    "xavier-nx-8gb-sd": XAVIER_NX,
    "xavier-nx-8gb": _module(XAVIER_NX, "p3509-0000", "p3668-0001"),
    "xavier-nx-16gb": replace(_module(XAVIER_NX, "p3509-0000", "p3668-0003"), memory_kb=16_050_000),
    "agx-xavier-16gb": replace(
        _module(AGX_XAVIER, "p2822-0000", "p2888-0001"), memory_kb=16_050_000
    ),
    "agx-xavier-32gb": AGX_XAVIER,
    "agx-xavier-64gb": replace(
        _module(AGX_XAVIER, "p2822-0000", "p2888-0005"), memory_kb=64_300_000
    ),
    "agx-xavier-industrial": _module(AGX_XAVIER, "p2822-0000", "p2888-0008"),
    "orin-nano-4gb": replace(
        _module(ORIN_NANO, "p3768-0000", "p3767-0004"),
        model="NVIDIA Jetson Orin Nano Developer Kit",
        memory_kb=3_900_000,
        modes=("10W", "7W_AI"),
        mode=0,
        gpu_highest_hz=624_750_000,
        highest_khz=1_510_400,
    ),
    "orin-nano-8gb": replace(
        _module(ORIN_NANO, "p3768-0000", "p3767-0003"),
        model="NVIDIA Jetson Orin Nano Developer Kit",
        modes=("15W", "7W"),
        mode=0,
        gpu_highest_hz=624_750_000,
        highest_khz=1_510_400,
    ),
    "orin-nano-8gb-devkit": ORIN_NANO,
    "orin-nx-8gb": replace(
        _module(ORIN_NX, "p3768-0000", "p3767-0001"),
        memory_kb=7_802_880,
        cores=6,
        gpu_highest_hz=765_000_000,
    ),
    "orin-nx-16gb": ORIN_NX,
    "agx-orin-devkit": replace(_module(AGX_ORIN, "p3737-0000", "p3701-0000"), memory_kb=31_268_864),
    "agx-orin-32gb": replace(
        _module(AGX_ORIN, "p3737-0000", "p3701-0004"),
        memory_kb=31_268_864,
        cores=8,
        clusters=("policy0", "policy4"),
        highest_khz=2_188_800,
        gpu_highest_hz=930_750_000,
    ),
    "agx-orin-64gb": AGX_ORIN,
    "agx-orin-industrial": _module(AGX_ORIN, "p3737-0000", "p3701-0008"),
    "thor-t5000": THOR,
    "thor-t4000": replace(
        _module(THOR, "p4071-0000", "p3834-0000"), memory_kb=64_395_264, cores=12
    ),
}
