"""Which board this is.

The device tree's ``compatible`` is trusted first: its entries carry the module's part number
(p3767-0005) and, last, the SoC. The ``model`` text is for people only: one and the same Orin Nano
calls itself three things in three releases, and a carrier of another maker puts its own name. In a
container the device tree is visible and /etc/nv_tegra_release is not: L4T is then not known. Where
the container runtime masks the device tree, too, the kernel's soc0 still tells the SoC.

Facts: jetson_stats jtop/core/jetson_variables.py; meta-tegra conf/machine; the kernel's
drivers/soc/tegra/fuse.
"""

import os
import platform
import re
from dataclasses import dataclass, replace
from pathlib import Path

from jetson.clocks import read_power_mode
from jetson.memory import read_memory
from jetson.sysfs import count_of, read_bytes, read_text

_PART = re.compile(r"p\d{4}-\d{4}")
_RELEASE = re.compile(r"# R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)")
_PACKAGE = rb"^Package: %s$(?:\n.+)*?\nVersion: (\d[\d.]*)"
# Module and its variant in the key of the board's flashed images: "3767-300-0005-N.2-1-1-…".
_SPECIFICATION = re.compile(r"^TNSPEC (\d{4})-\w*-(\d{4})-", re.MULTILINE)
_CPU_NAME = re.compile(r"^(?:model name|Model)\s*: (.+)$", re.MULTILINE)

MODULES = {
    "p3448-0000": "Jetson Nano 4 GB",
    "p3448-0002": "Jetson Nano 4 GB (eMMC)",
    "p3448-0003": "Jetson Nano 2 GB",
    "p3310-1000": "Jetson TX2",
    "p3489-0000": "Jetson TX2i",
    "p3489-0888": "Jetson TX2 4 GB",
    "p3636-0001": "Jetson TX2 NX",
    "p3668-0000": "Jetson Xavier NX 8 GB (SD)",
    "p3668-0001": "Jetson Xavier NX 8 GB",
    "p3668-0003": "Jetson Xavier NX 16 GB",
    "p2888-0001": "Jetson AGX Xavier 16 GB",
    "p2888-0004": "Jetson AGX Xavier 32 GB",
    "p2888-0005": "Jetson AGX Xavier 64 GB",
    "p2888-0008": "Jetson AGX Xavier Industrial",
    "p3767-0000": "Jetson Orin NX 16 GB",
    "p3767-0001": "Jetson Orin NX 8 GB",
    "p3767-0003": "Jetson Orin Nano 8 GB",
    "p3767-0004": "Jetson Orin Nano 4 GB",
    "p3767-0005": "Jetson Orin Nano 8 GB (developer kit)",
    "p3701-0000": "Jetson AGX Orin (developer kit)",
    "p3701-0004": "Jetson AGX Orin 32 GB",
    "p3701-0005": "Jetson AGX Orin 64 GB",
    "p3701-0008": "Jetson AGX Orin Industrial",
    "p3834-0000": "Jetson T4000",
    "p3834-0008": "Jetson T5000",
}

CUDA_ARCHITECTURES = {
    "tegra210": "53",
    "tegra186": "62",
    "tegra194": "72",
    "tegra234": "87",
    "tegra264": "110",
}

# Of /sys/devices/soc0/soc_id: the chip's id, in decimal.
_CHIPS = {"33": "tegra210", "24": "tegra186", "25": "tegra194", "35": "tegra234", "38": "tegra264"}

# What modules are sold with; MemTotal is what firmware and kernel leave of it.
_SIZES_GB = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

JETPACKS = {
    "32.6.1": "4.6",
    "32.7.1": "4.6.1",
    "32.7.2": "4.6.2",
    "32.7.3": "4.6.3",
    "32.7.4": "4.6.4",
    "32.7.5": "4.6.5",
    "32.7.6": "4.6.6",
    "34.1.0": "5.0 DP",
    "34.1.1": "5.0.1 DP",
    "35.1.0": "5.0.2",
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "35.5.0": "5.1.3",
    "35.6.0": "5.1.4",
    "35.6.1": "5.1.5",
    "35.6.2": "5.1.5",
    "35.6.3": "5.1.5",
    "35.6.4": "5.1.6",
    "35.6.5": "5.1.7",
    "36.2.0": "6.0 DP",
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5.0": "6.2.2",
    "36.5.2": "6.2.3",
    "38.2.0": "7.0",
    "38.2.1": "7.0",
    "38.2.2": "7.0",
    "38.4.0": "7.1",
    "39.2.0": "7.2",
    "39.2.1": "7.2.1",
    "39.2.2": "7.2.2",
}


@dataclass(frozen=True, slots=True)
class Board:
    """What is known of the machine; None: not known here. The names are those of the protocol."""

    model: str | None
    module: str | None
    soc: str | None
    l4t: str | None
    jetpack: str | None
    kernel: str | None
    architecture: str | None
    cpu_count: int | None
    memory_total_bytes: int | None
    power_mode: str | None
    is_jetson: bool
    cuda_architecture: str | None
    # The part number of the board that carries the module, or the name that its maker gave it.
    carrier: str | None
    # What the module is sold with: 4, 8, 16 …
    memory_variant_gb: int | None
    # Of the userland that the agent runs in: what decides which wheels install.
    glibc: str | None
    # The runtime whose container this is, "docker"; None on the host.
    container: str | None


def identify(root: Path = Path("/"), machine: str = "") -> Board:
    """The board below ``root``. ``machine`` is its architecture where the kernel does not tell."""
    compatible = _compatible(root)
    soc = compatible[-1].rpartition(",")[2] if compatible else _chip(root)
    is_jetson = soc in CUDA_ARCHITECTURES
    l4t = _l4t(root) if is_jetson else None
    memory = read_memory(root)
    module = _module(compatible) or _flashed_module(root) if is_jetson else None
    return Board(
        model=_model(root, module),
        module=module,
        soc=soc,
        l4t=l4t,
        jetpack=JETPACKS.get(l4t) if l4t else None,
        kernel=read_text(root / "proc/sys/kernel/osrelease"),
        architecture=read_text(root / "proc/sys/kernel/arch") or machine or platform.machine(),
        cpu_count=_cpu_count(root),
        memory_total_bytes=memory.total_bytes if memory else None,
        power_mode=_power_mode(root),
        is_jetson=is_jetson,
        cuda_architecture=CUDA_ARCHITECTURES.get(soc) if soc else None,
        carrier=_carrier(compatible) if is_jetson else None,
        memory_variant_gb=_variant_gb(memory.total_bytes) if is_jetson and memory else None,
        glibc=_glibc(root),
        container=_container(root),
    )


def as_it_is_now(board: Board, root: Path = Path("/")) -> Board:
    """With what may have changed since ``identify``: a person sets another power mode, and with it
    the number of cores that are on. Three small files are read, nothing is searched for."""
    return replace(board, power_mode=_power_mode(root), cpu_count=_cpu_count(root))


def _power_mode(root: Path) -> str | None:
    mode = read_power_mode(root)
    return str(mode) if mode else None


def _compatible(root: Path) -> list[str]:
    """The entries of the device tree, most special first; they are separated by NULs."""
    text = read_text(root / "proc/device-tree/compatible")
    return [entry for entry in (text or "").split("\0") if "," in entry]


def _module(compatible: list[str]) -> str | None:
    """The module's part number. The first entry names the carrier, too, in front of it."""
    parts = [part for entry in compatible for part in _PART.findall(entry)]
    known = [part for part in parts if part in MODULES]
    after_plus = [part for entry in compatible for part in _PART.findall(entry.partition("+")[2])]
    return next(iter([*known, *after_plus, *parts]), None)


def _flashed_module(root: Path) -> str | None:
    """From r35 on the image knows which board it was made for."""
    found = _SPECIFICATION.search(read_text(root / "etc/nv_boot_control.conf") or "")
    return f"p{found[1]}-{found[2]}" if found else None


def _carrier(compatible: list[str]) -> str | None:
    """What stands before the module in the first entry that names both; "p3768-0000"."""
    for entry in compatible:
        carrier, plus, _ = entry.partition("+")
        if plus:
            part = _PART.search(carrier)
            return part[0] if part else carrier
    first = compatible[0] if compatible else ""
    is_foreign = first and not first.startswith("nvidia,")
    return first.replace(",", " ") if is_foreign else None


def _chip(root: Path) -> str | None:
    if read_text(root / "sys/devices/soc0/family") != "Tegra":
        return None
    return _CHIPS.get(read_text(root / "sys/devices/soc0/soc_id") or "")


def _variant_gb(total_bytes: int) -> int | None:
    return next((size for size in _SIZES_GB if total_bytes <= size << 30), None)


def _container(root: Path) -> str | None:
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    return read_text(root / "run/systemd/container")


def _glibc(root: Path) -> str | None:
    """The one that this process runs on; below another root, the package's."""
    if root == Path("/"):
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        return version if name == "glibc" else None
    return _package_version(root, b"libc6")


def _model(root: Path, module: str | None) -> str | None:
    if module in MODULES:
        return f"NVIDIA {MODULES[module]}"
    named = read_text(root / "proc/device-tree/model")
    if named is not None:
        return named
    found = _CPU_NAME.search(read_text(root / "proc/cpuinfo") or "")
    return found[1].strip() if found else None


def _l4t(root: Path) -> str | None:
    found = _RELEASE.search(read_text(root / "etc/nv_tegra_release") or "")
    if found is not None:
        return f"{found[1]}.{found[2]}"
    return _package_version(root, b"nvidia-l4t-core")


def _package_version(root: Path, package: bytes) -> str | None:
    """Of an installed Debian package, without the revision of its packaging."""
    try:
        installed = (root / "var/lib/dpkg/status").read_bytes()
    except OSError:
        return None
    found = re.search(_PACKAGE % package, installed, re.MULTILINE)
    return found[1].decode() if found else None


def _cpu_count(root: Path) -> int | None:
    """Cores that are on: a power mode may switch some off."""
    online = read_text(root / "sys/devices/system/cpu/online")
    counted = count_of(online) if online else None
    if counted is not None:
        return counted
    listed = (read_bytes(root / "proc/cpuinfo") or b"").count(b"\nprocessor\t")
    return listed + 1 if listed else None
