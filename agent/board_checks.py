"""The doctor's checks of the board: its release, its memory, its swap, its sensors."""

from agent.findings import Found, Site, fail, ok, warn
from agent.memory.budget import Budget
from jetson import memory, power, rapl
from jetson.board import identify
from jetson.sysfs import children, read_text

# Tightened accounting of GPU buffers (CVE-2025-33177): large ones fail. Repaired in 36.5.0.
BROKEN_L4T = frozenset({"36.4.7"})
# Training on a 1B model takes 1.6 GB, serving one 1.3 GB.
COMFORTABLE_BYTES = 1_700_000_000
LEAST_BYTES = 500_000_000
DESKTOPS = frozenset({"Xorg", "Xwayland", "gnome-shell", "lxsession", "plasmashell", "lightdm"})


def board(site: Site) -> Found:
    known = identify(site.root)
    facts = [known.model or "unknown", known.module, known.l4t and f"L4T {known.l4t}"]
    facts += [known.power_mode and f"power mode {known.power_mode}"]
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


def swap(site: Site) -> Found:
    reading = memory.read_memory(site.root)
    zram_bytes = memory.zram_bytes(site.root)
    if zram_bytes is not None:
        return warn(f"{zram_bytes / 1e6:,.0f} MB of zram")
    if reading is None or not reading.swap_total_bytes:
        return ok("none")
    return ok(f"{reading.swap_total_bytes / 1e6:,.0f} MB, none of it in memory")


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
