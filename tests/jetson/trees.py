"""Trees of /proc, /sys and /etc, as the boards show them, for readers that take a root.

Contents follow what is published of real boards; numbers of devices are chosen odd, because they
move on real boards, too.
"""

from collections.abc import Iterator
from pathlib import Path

Tree = dict[str, bytes]

MEMINFO = """MemTotal:       {total} kB
MemFree:         812345 kB
MemAvailable:   {available} kB
SwapTotal:      {swap} kB
SwapFree:       {swap_free} kB
"""
PSI = (
    b"some avg10=1.53 avg60=0.40 avg300=0.10 total=123\n"
    b"full avg10=0.00 avg60=0.00 avg300=0.00 total=9\n"
)


def write(tree: Tree, root: Path) -> Path:
    for name, content in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


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
        for how, bad in CONTENTS.items():
            path.write_bytes(bad)
            yield file, how
        path.write_bytes(content)


def _zones(*zones: tuple[str, str]) -> Tree:
    tree = {}
    for number, (name, value) in enumerate(zones):
        folder = f"sys/class/thermal/thermal_zone{number}"
        tree[f"{folder}/type"] = f"{name}\n".encode()
        tree[f"{folder}/temp"] = f"{value}\n".encode()
    return tree


def _meminfo(total_kb: int, available_kb: int, swap_kb: int, extra: str = "") -> bytes:
    values = {"total": total_kb, "available": available_kb, "swap": swap_kb}
    return (MEMINFO.format(**values, swap_free=swap_kb - swap_kb // 4) + extra).encode()


def _hwmon_rails(address: str, number: int, *rails: tuple[str, int, int]) -> Tree:
    """Rails as label, mV, mA; and the driver's own sum, which is none."""
    folder = f"sys/bus/i2c/drivers/ina3221/{address}/hwmon/hwmon{number}"
    tree: Tree = {f"{folder}/name": b"ina3221\n"}
    for channel, (label, voltage_mv, current_ma) in enumerate(rails, 1):
        tree[f"{folder}/in{channel}_label"] = f"{label}\n".encode()
        tree[f"{folder}/in{channel}_input"] = f"{voltage_mv}\n".encode()
        tree[f"{folder}/curr{channel}_input"] = f"{current_ma}\n".encode()
    tree[f"{folder}/in7_label"] = b"sum of shunt voltages\n"
    tree[f"{folder}/in7_input"] = b"12\n"
    return tree


def _iio_rails(address: str, number: int, *rails: tuple[str, int]) -> Tree:
    folder = f"sys/bus/i2c/drivers/ina3221x/{address}/iio:device{number}"
    tree: Tree = {}
    for channel, (name, power_mw) in enumerate(rails):
        tree[f"{folder}/rail_name_{channel}"] = f"{name}\n".encode()
        tree[f"{folder}/in_power{channel}_input"] = f"{power_mw}\n".encode()
        tree[f"{folder}/in_voltage{channel}_input"] = b"5000\n"
        tree[f"{folder}/in_current{channel}_input"] = f"{power_mw // 5}\n".encode()
    return tree


def _device_tree(*entries: str, model: str) -> Tree:
    return {
        "proc/device-tree/compatible": b"".join(entry.encode() + b"\0" for entry in entries),
        "proc/device-tree/model": model.encode() + b"\0",
    }


def _cpu(online: str, *clocks: tuple[str, int]) -> Tree:
    tree: Tree = {"sys/devices/system/cpu/online": f"{online}\n".encode()}
    for policy, clock_khz in clocks:
        folder = f"sys/devices/system/cpu/cpufreq/{policy}"
        tree[f"{folder}/scaling_cur_freq"] = f"{clock_khz}\n".encode()
        tree[f"{folder}/scaling_min_freq"] = b"102000\n"
        tree[f"{folder}/scaling_max_freq"] = b"1984000\n"
    return tree


def _release(major: int, revision: str, board: str) -> Tree:
    line = f"# R{major} (release), REVISION: {revision}, GCID: 123, BOARD: {board}, EABI: aarch64"
    return {"etc/nv_tegra_release": f"{line}, DATE: Tue Nov  1 17:35:03 UTC 2022\n".encode()}


def _gpu(name: str, load: int, clock_hz: int) -> Tree:
    return {
        f"sys/class/devfreq/{name}/device/load": f"{load}\n".encode(),
        f"sys/class/devfreq/{name}/cur_freq": f"{clock_hz}\n".encode(),
    }


KERNEL = "proc/sys/kernel/osrelease"

NANO: Tree = {
    **_device_tree(
        "nvidia,p3449-0000-b00+p3448-0000-b00",
        "nvidia,jetson-nano",
        "nvidia,tegra210",
        model="NVIDIA Jetson Nano Developer Kit",
    ),
    **_release(32, "7.1", "t210ref"),
    **_iio_rails("6-0040", 0, ("POM_5V_IN", 2875), ("POM_5V_GPU", 39), ("POM_5V_CPU", 509)),
    **_zones(
        ("AO-therm", "39500"),
        ("CPU-therm", "36500"),
        ("GPU-therm", "36000"),
        ("PLL-therm", "34000"),
        ("PMIC-Die", "100000"),
        ("thermal-fan-est", "36250"),
    ),
    **_gpu("57000000.gpu", 987, 921_600_000),
    **_cpu("0-3", ("policy0", 1_479_000)),
    "proc/meminfo": _meminfo(4_059_256, 3_301_120, 2_029_628, "NvMapMemUsed:      61440 kB\n"),
    "proc/swaps": b"Filename Type Size Used Priority\n"
    b"/dev/zram0 partition 507400 0 5\n/dev/zram1 partition 507400 0 5\n",
    KERNEL: b"4.9.253-tegra\n",
    "var/lib/nvpmodel/status": b"pmode:0001 fmode:fanNull\n",
    "etc/nvpmodel.conf": b"< PARAM TYPE=FILE NAME=CPU_ONLINE >\n"
    b"< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=1 NAME=5W >\n",
}

ORIN_NANO: Tree = {
    **_device_tree(
        "nvidia,p3768-0000+p3767-0005-super",
        "nvidia,p3767-0005",
        "nvidia,tegra234",
        model="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
    ),
    **_release(36, "4.3", "generic"),
    **_hwmon_rails(
        "1-0040",
        11,
        ("VDD_IN", 5072, 583),
        ("VDD_CPU_GPU_CV", 5064, 96),
        ("VDD_SOC", 5064, 200),
    ),
    **_zones(
        ("cpu-thermal", "44125"),
        ("gpu-thermal", "44531"),
        ("cv0-thermal", ""),
        ("soc2-thermal", "43375"),
        ("tj-thermal", "44531"),
    ),
    "sys/class/hwmon/hwmon2/name": b"cpu_thermal\n",
    "sys/class/hwmon/hwmon2/temp1_input": b"44125\n",
    "sys/class/hwmon/hwmon3/name": b"nvme\n",
    "sys/class/hwmon/hwmon3/temp1_input": b"38850\n",
    "sys/class/hwmon/hwmon3/temp1_label": b"Composite\n",
    **_gpu("17000000.gpu", 0, 305_000_000),
    **_cpu("0-5", ("policy0", 729_600), ("policy4", 1_190_400)),
    "proc/meminfo": _meminfo(7_802_880, 6_012_340, 3_901_440),
    "proc/pressure/memory": PSI,
    KERNEL: b"5.15.148-tegra\n",
    "var/lib/nvpmodel/status": b"pmode:0002\n",
    "etc/nvpmodel.conf": b"< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n",
}

AGX_ORIN: Tree = {
    **_device_tree(
        "nvidia,p3737-0000+p3701-0005",
        "nvidia,p3701-0005",
        "nvidia,tegra234",
        model="NVIDIA Jetson AGX Orin Developer Kit",
    ),
    **_release(35, "4.1", "t186ref"),
    **_hwmon_rails(
        "1-0040",
        3,
        ("VDD_GPU_SOC", 19_000, 270),
        ("VDD_CPU_CV", 19_000, 42),
        ("VIN_SYS_5V0", 5_000, 900),
    ),
    **_hwmon_rails("1-0041", 4, ("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 19_000, 30), ("NC", 0, 0)),
    **_zones(("CPU-therm", "52968"), ("GPU-therm", "48000"), ("tj-therm", "53500")),
    **_gpu("17000000.ga10b", 420, 1_300_500_000),
    **_cpu("0-11", ("policy0", 2_201_600), ("policy4", 2_201_600), ("policy8", 729_600)),
    "proc/meminfo": _meminfo(64_348_160, 60_000_000, 0),
    "proc/pressure/memory": PSI,
    KERNEL: b"5.10.120-tegra\n",
    "var/lib/nvpmodel/status": b"pmode:0000\n",
    "etc/nvpmodel.conf": b"< POWER_MODEL ID=0 NAME=MAXN >\n",
}

XAVIER_NX: Tree = {
    **_device_tree(
        "nvidia,p3509-0000+p3668-0001",
        "nvidia,p3668-0001",
        "nvidia,tegra194",
        model="NVIDIA Jetson Xavier NX Developer Kit",
    ),
    "var/lib/dpkg/status": b"Package: bash\nVersion: 5.0-6\n\n"
    b"Package: nvidia-l4t-core\nStatus: install ok installed\nVersion: 35.4.1-20230801124926\n\n",
    **_hwmon_rails(
        "7-0040", 6, ("VDD_IN", 4976, 812), ("VDD_CPU_GPU_CV", 4976, 140), ("VDD_SOC", 4976, 220)
    ),
    **_zones(("CPU-therm", "41500"), ("GPU-therm", "41000"), ("AUX-therm", "40500")),
    **_gpu("17000000.gv11b", 123, 1_109_250_000),
    **_cpu("0-1,4", ("policy0", 1_420_800)),
    "proc/meminfo": _meminfo(7_958_528, 6_900_000, 3_979_264),
    KERNEL: b"5.10.104-tegra\n",
}

THOR: Tree = {
    **_device_tree(
        "nvidia,p4071-0000+p3834-0008",
        "nvidia,p3834-0008",
        "nvidia,tegra264",
        model="NVIDIA Jetson AGX Thor Developer Kit",
    ),
    **_release(38, "2.0", "generic"),
    **_hwmon_rails(
        "2-0040",
        5,
        ("VDD_GPU", 1, 1),
        ("VDD_CPU_SOC_MSS", 19_000, 210),
        ("VIN_SYS_5V0", 5_000, 800),
    ),
    "sys/bus/i2c/drivers/ina238/2-0044/hwmon/hwmon6/power1_input": b"31250000\n",
    **_cpu("0-13", ("policy0", 2_601_000)),
    "proc/meminfo": _meminfo(128_790_528, 120_000_000, 0),
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
    **_zones(("acpitz", "27800"), ("x86_pkg_temp", "45000")),
    "sys/class/hwmon/hwmon0/name": b"acpitz\n",
    "sys/class/hwmon/hwmon0/temp1_input": b"27800\n",
    "sys/class/hwmon/hwmon1/name": b"coretemp\n",
    "sys/class/hwmon/hwmon1/temp1_input": b"46000\n",
    "sys/class/hwmon/hwmon1/temp1_label": b"Package id 0\n",
    "sys/class/hwmon/hwmon1/temp2_input": b"44000\n",
    "sys/class/hwmon/hwmon1/temp2_label": b"Core 0\n",
    "proc/meminfo": _meminfo(32_000_000, 24_000_000, 8_000_000),
    "proc/pressure/memory": PSI,
    KERNEL: b"6.1.0-21-amd64\n",
    **_cpu("0-7", ("policy0", 3_600_000)),
}

RASPBERRY_PI: Tree = {
    **_device_tree("raspberrypi,5-model-b", "brcm,bcm2712", model="Raspberry Pi 5 Model B Rev 1.0"),
    **_zones(("cpu-thermal", "51400")),
    "sys/class/hwmon/hwmon0/name": b"cpu_thermal\n",
    "sys/class/hwmon/hwmon0/temp1_input": b"51400\n",
    "sys/class/hwmon/hwmon1/name": b"rp1_adc\n",
    "sys/class/hwmon/hwmon1/temp1_input": b"49600\n",
    **_cpu("0-3", ("policy0", 2_400_000)),
    "proc/meminfo": _meminfo(8_256_000, 7_000_000, 102_396),
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
}
