"""The files of a board, as /proc, /sys and /etc show them: one function for each family.

A tree is a name below the root and the bytes of its file. Contents follow what is published of real
boards; the numbers of devices are chosen odd, because they move on real boards, too.
"""

from pathlib import Path

Tree = dict[str, bytes]
# Of a thermal zone, in milli-°C: kinds and temperatures.
Trips = tuple[tuple[str, int], ...]


def write(tree: Tree, root: Path) -> Path:
    for name, content in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def device_tree(*entries: str, model: str) -> Tree:
    return {
        "proc/device-tree/compatible": b"".join(entry.encode() + b"\0" for entry in entries),
        "proc/device-tree/model": model.encode() + b"\0",
    }


def release(l4t: str, board: str) -> Tree:
    major, _, revision = l4t.partition(".")
    line = f"# R{major} (release), REVISION: {revision}, GCID: 123, BOARD: {board}, EABI: aarch64"
    return {"etc/nv_tegra_release": f"{line}, DATE: Tue Nov  1 17:35:03 UTC 2022\n".encode()}


def package(name: str, version: str) -> bytes:
    """An entry of dpkg's list."""
    return f"Package: {name}\nStatus: install ok installed\nVersion: {version}\n\n".encode()


def kernel(version: str) -> Tree:
    return {"proc/sys/kernel/osrelease": f"{version}\n".encode()}


def zones(*read: tuple[str, int | None], trips: Trips = ()) -> Tree:
    """Name and milli-°C; None: nothing to read. All with the same trip points."""
    tree: Tree = {}
    for number, (name, value_mc) in enumerate(read):
        folder = f"sys/class/thermal/thermal_zone{number}"
        tree[f"{folder}/type"] = f"{name}\n".encode()
        tree[f"{folder}/temp"] = b"\n" if value_mc is None else _line(value_mc)
        for trip, (kind, limit_mc) in enumerate(trips):
            tree[f"{folder}/trip_point_{trip}_type"] = f"{kind}\n".encode()
            tree[f"{folder}/trip_point_{trip}_temp"] = _line(limit_mc)
    return tree


def hwmon_rails(address: str, number: int, *rails: tuple[str, int, int]) -> Tree:
    """Rails as label, mV, mA; and the driver's own sum, which is none."""
    folder = f"sys/bus/i2c/drivers/ina3221/{address}/hwmon/hwmon{number}"
    tree: Tree = {f"{folder}/name": b"ina3221\n"}
    for channel, (label, voltage_mv, current_ma) in enumerate(rails, 1):
        tree[f"{folder}/in{channel}_label"] = f"{label}\n".encode()
        tree[f"{folder}/in{channel}_input"] = _line(voltage_mv)
        tree[f"{folder}/curr{channel}_input"] = _line(current_ma)
    tree[f"{folder}/in7_label"] = b"sum of shunt voltages\n"
    tree[f"{folder}/in7_input"] = b"12\n"
    return tree


def iio_rails(address: str, number: int, *rails: tuple[str, int, int]) -> Tree:
    """Rails as label, mV, mA, with the power that the driver computes."""
    folder = f"sys/bus/i2c/drivers/ina3221x/{address}/iio:device{number}"
    tree: Tree = {}
    for channel, (label, voltage_mv, current_ma) in enumerate(rails):
        tree[f"{folder}/rail_name_{channel}"] = f"{label}\n".encode()
        tree[f"{folder}/in_power{channel}_input"] = _line(voltage_mv * current_ma // 1000)
        tree[f"{folder}/in_voltage{channel}_input"] = _line(voltage_mv)
        tree[f"{folder}/in_current{channel}_input"] = _line(current_ma)
    return tree


def input_monitor(address: str, number: int, power_mw: int) -> Tree:
    """Thor's INA238."""
    folder = f"sys/bus/i2c/drivers/ina238/{address}/hwmon/hwmon{number}"
    return {f"{folder}/power1_input": _line(power_mw * 1000)}


def gpu(name: str, load_tenths: int, clock_hz: int, lowest_hz: int, highest_hz: int) -> Tree:
    folder = f"sys/class/devfreq/{name}"
    return {
        f"{folder}/device/load": _line(load_tenths),
        f"{folder}/cur_freq": _line(clock_hz),
        f"{folder}/min_freq": _line(lowest_hz),
        f"{folder}/max_freq": _line(highest_hz),
    }


def cores(online: str, *clusters: tuple[str, int, int, int]) -> Tree:
    """Clusters as policy and the current, lowest and highest clock in kHz."""
    tree: Tree = {"sys/devices/system/cpu/online": f"{online}\n".encode()}
    for policy, clock_khz, lowest_khz, highest_khz in clusters:
        folder = f"sys/devices/system/cpu/cpufreq/{policy}"
        tree[f"{folder}/scaling_cur_freq"] = _line(clock_khz)
        tree[f"{folder}/scaling_min_freq"] = _line(lowest_khz)
        tree[f"{folder}/scaling_max_freq"] = _line(highest_khz)
    return tree


def power_modes(chosen: int, *names: str) -> Tree:
    """The mode that is set, and the names of modes 0, 1, 2 …"""
    lines = ["< PARAM TYPE=FILE NAME=CPU_ONLINE >"]
    for number, name in enumerate(names):
        lines += [f"< POWER_MODEL ID={number} NAME={name} >", "CPU_ONLINE CORE_0 1"]
    return {
        "var/lib/nvpmodel/status": f"pmode:{chosen:04d} fmode:fanNull\n".encode(),
        "etc/nvpmodel.conf": ("\n".join(lines) + "\n").encode(),
    }


def supply(name: str, kind: str, **files: object) -> Tree:
    """An entry of the kernel's list of chargers, ports and batteries."""
    folder = f"sys/class/power_supply/{name}"
    named = {"type": kind, **files}
    return {f"{folder}/{file}": f"{content}\n".encode() for file, content in named.items()}


def over_current(number: int, *events: int) -> Tree:
    folder = f"sys/class/hwmon/hwmon{number}"
    counts = {f"{folder}/oc{kind}_event_cnt": _line(count) for kind, count in enumerate(events, 1)}
    return {f"{folder}/name": b"soctherm_oc\n", **counts}


def memory(
    total_kb: int, available_kb: int, swap_kb: int, used_kb: int = 0, more: str = ""
) -> Tree:
    """/proc/meminfo; ``used_kb`` of the swap is taken."""
    lines = [
        f"MemTotal:       {total_kb} kB",
        f"MemFree:        {available_kb * 3 // 4} kB",
        f"MemAvailable:   {available_kb} kB",
        f"SwapTotal:      {swap_kb} kB",
        f"SwapFree:       {swap_kb - used_kb} kB",
    ]
    return {"proc/meminfo": ("\n".join(lines) + "\n" + more).encode()}


def zram(devices: int, size_kb: int, used_bytes: int) -> Tree:
    """Swap in memory, as the images ship it: ``used_bytes`` of memory for each device."""
    swaps = "Filename Type Size Used Priority\n"
    tree: Tree = {}
    for number in range(devices):
        swaps += f"/dev/zram{number} partition {size_kb} 0 5\n"
        stat = f"{3 * used_bytes} {used_bytes} {used_bytes} 0 {used_bytes} 0 0 0\n"
        tree[f"sys/block/zram{number}/mm_stat"] = stat.encode()
    return {"proc/swaps": swaps.encode(), **tree}


def free_blocks(*counts: int) -> Tree:
    """Free pieces of 1, 2, 4 … pages."""
    listed = " ".join(f"{count:6d}" for count in counts)
    return {"proc/buddyinfo": f"Node 0, zone   Normal {listed} \n".encode()}


def swapped_in(pages: int) -> Tree:
    return {"proc/vmstat": f"nr_free_pages 81234\npswpin {pages}\npswpout 7\n".encode()}


def pressure(some_percent: float) -> Tree:
    text = (
        f"some avg10={some_percent:.2f} avg60=0.40 avg300=0.10 total=123\n"
        "full avg10=0.00 avg60=0.00 avg300=0.00 total=9\n"
    )
    return {"proc/pressure/memory": text.encode()}


def _line(number: int) -> bytes:
    return f"{number}\n".encode()
