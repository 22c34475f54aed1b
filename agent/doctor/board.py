"""The doctor's checks of the board: release, power mode, memory, desktop, container, sensors."""

import re
from pathlib import Path

from agent.doctor import probe
from agent.doctor.findings import Found, Site, fail, ok, warn
from agent.memory.budget import Budget
from jetson import memory, power, rapl
from jetson.board import identify
from jetson.clocks import read_clocks, read_power_mode
from jetson.profiles import profile_of
from jetson.sysfs import children, count_of, read_text
from protos.errors import WorkerFailed

# Tightened accounting of GPU buffers (CVE-2025-33177): large ones fail. Repaired in 36.5.0.
BROKEN_L4T = frozenset({"36.4.7"})
# Training on a 1B model takes 1.6 GB, serving one 1.3 GB.
COMFORTABLE_BYTES = 1_700_000_000
LEAST_BYTES = 500_000_000
DESKTOPS = frozenset({"Xorg", "Xwayland", "gnome-shell", "lxsession", "plasmashell", "lightdm"})


def board(site: Site) -> Found:
    known = identify(site.root)
    facts = [known.model or "unknown", known.module, known.l4t and f"L4T {known.l4t}"]
    text = ", ".join(fact for fact in facts if fact)
    return warn(text) if known.l4t in BROKEN_L4T else ok(text)


def available_memory(site: Site) -> Found:
    reading = memory.read_memory(site.root)
    if reading is None:
        return fail("/proc/meminfo does not tell what is available")
    usable_bytes = Budget.measured(reading).usable_bytes
    text = f"{usable_bytes / 1e6:,.0f} MB of {reading.total_bytes / 1e6:,.0f} MB are for workers"
    if usable_bytes < LEAST_BYTES:
        return fail(text)
    return warn(text) if usable_bytes < COMFORTABLE_BYTES else ok(text)


def desktop(site: Site) -> Found:
    processes = children(site.root / "proc", r"\d+$")
    running = {read_text(f"{process}/comm") for process in processes} & DESKTOPS
    if running:
        return warn(f"{', '.join(sorted(str(name) for name in running))} runs")
    return ok("none runs")


def allocation(site: Site) -> Found:
    """Takes a large buffer, as loading and training do, in a process of its own. L4T 36.4.7 and
    fragmented memory refuse one while gigabytes are free."""
    reading = memory.read_memory(site.root)
    if reading is not None and reading.available_bytes < 2 * site.probed_bytes:
        return warn(f"not tried: only {reading.available_bytes / 1e6:,.0f} MB are available")
    try:
        where = probe.allocation(site.probed_bytes, site.python)
    except WorkerFailed as error:
        return fail(str(error))
    return ok(f"{site.probed_bytes / 1e6:,.0f} MB in one piece, {where}")


def power_mode(site: Site) -> Found:
    """A board is left in a low mode for months unnoticed; some modes switch cores off."""
    mode, clocks = read_power_mode(site.root), read_clocks(site.root)
    present = count_of(read_text(site.root / "sys/devices/system/cpu/present") or "")
    cores = f"{clocks.online} cores" if clocks.online else "cores unknown"
    text = f"{mode}, {cores}" if mode else f"none, {cores}"
    if clocks.pinned:
        text += ", clocks pinned"
    if present and clocks.online and clocks.online < present:
        return warn(f"{text} of {present} are on")
    profile = profile_of(identify(site.root).module)
    watts = re.search(r"(\d+)W", mode.name or "") if mode else None
    if mode and mode.name == "MAXQ":
        return warn(f"{text}: the mode that saves power")
    if profile and watts and int(watts[1]) < profile.slowest_power_w:
        return warn(f"{text}: {profile.name} is slow below {profile.slowest_power_w} W")
    return ok(text)


def profile(site: Site) -> Found:
    """What is recommended here. `nanofleet-agent install` writes it into a first agent.toml."""
    found = profile_of(identify(site.root).module)
    if found is None:
        return ok("none for this machine: the defaults are for it")
    fits = "trains and serves" if found.fits_1b == "both" else "serves, and does not train,"
    return ok(
        f"{found.name}: engine {found.engine}, {found.training_threads} threads, {found.data_type},"
        f" context {found.context_length}, {found.memory_budget_mib:,} MiB for workers;"
        f" {fits} 1B in Q8_0"
    )


def container(site: Site) -> Found:
    inside = _container(site.root)
    if inside is None:
        return ok("on the host")
    if identify(site.root).is_jetson and not (site.root / "dev/nvmap").exists():
        return warn(f"in {inside}, without the GPU's devices")
    return ok(f"in {inside}")


def _container(root: Path) -> str | None:
    if (root / ".dockerenv").exists():
        return "a Docker container"
    if (root / "run/.containerenv").exists():
        return "a Podman container"
    named = re.search(r"(?:^|\0)container=([\w-]+)", read_text(root / "proc/1/environ") or "")
    return f"a container ({named[1]})" if named else None


def power_sensor(site: Site) -> Found:
    reading = power.read_power(site.root)
    if reading is not None:
        rails = ", ".join(rail.name for rail in reading.rails)
        if reading.total_mw is None:
            return warn(f"{rails}: no reading")
        return ok(f"{reading.total_mw / 1000:.1f} W from {reading.total_source} ({rails})")
    if rapl.read_counters(site.root):
        return ok("the processor's energy counters (RAPL)")
    return warn("none can be read")
