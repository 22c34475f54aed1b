"""The GPU that shares the board's memory: its load and its clock.

Tegra's GPUs up to Orin are a devfreq device whose parent has a file ``load`` with tenths of a
percent. The device is called 57000000.gpu (Nano), 17000000.gp10b (TX2), .gv11b (Xavier), .ga10b
(Orin, JetPack 5) or .gpu (Orin, JetPack 6), and its folder moves; the class finds it, by that name
or by the device tree's. Thor's and discrete GPUs have no such file and are absent here.

A reading is instantaneous and noisy: a mean over samples says more.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from jetson.sysfs import children, read_int, read_text

_GPU = r"[0-9a-f]+\.(gpu|gm20b|gp10b|gv11b|ga10b|gb10b)$"
_NODES = frozenset({"gpu", "gm20b", "gp10b", "gv11b", "ga10b"})
# Where the class has no entry: images that mount a reduced /sys.
_PARENTS = ("sys/devices/gpu.0", "sys/devices/platform/gpu.0")

_LOADS = range(1001)
_CLOCKS_HZ = range(10**11)


@dataclass(frozen=True, slots=True)
class GpuReading:
    load_percent: float | None
    frequency_mhz: int | None


@dataclass(frozen=True, slots=True)
class GpuFiles:
    load: str
    frequency_hz: str

    def is_pinned(self) -> bool | None:
        """Whether its lowest and its highest clock are the same; None when they are not known."""
        folder = self.frequency_hz.rpartition("/")[0]
        low_hz, high_hz = read_int(f"{folder}/min_freq"), read_int(f"{folder}/max_freq")
        return None if low_hz is None or high_hz is None else low_hz == high_hz

    def read(self) -> GpuReading | None:
        load_tenths = read_int(self.load, _LOADS)
        frequency_hz = read_int(self.frequency_hz, _CLOCKS_HZ)
        if load_tenths is None and frequency_hz is None:
            return None
        return GpuReading(
            None if load_tenths is None else load_tenths / 10,
            None if frequency_hz is None else frequency_hz // 1_000_000,
        )


def find_gpu(root: Path = Path("/")) -> GpuFiles | None:
    """Where the GPU is read; None where there is none. It stays for as long as the boot."""
    devices = children(root / "sys/class/devfreq")
    named = [device for device in devices if re.match(_GPU, device.rpartition("/")[2])]
    nodes = [device for device in devices if read_text(f"{device}/device/of_node/name") in _NODES]
    for device in (*named, *nodes):
        return GpuFiles(f"{device}/device/load", f"{device}/cur_freq")
    for parent in _PARENTS:
        folder = root / parent
        if (folder / "load").exists():
            clocks = children(folder / "devfreq", r".+")
            return GpuFiles(f"{folder}/load", f"{clocks[0]}/cur_freq" if clocks else "")
    return None


def read_gpu(root: Path = Path("/")) -> GpuReading | None:
    """The GPU's load and clock now; None where there is no such GPU."""
    files = find_gpu(root)
    return None if files is None else files.read()
