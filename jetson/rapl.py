"""RAPL: the energy counters of x86 processors, for agents that run on a workstation.

A counter rises by microjoules and wraps; power is its difference over a time. Since 2020 kernels
let only root read it (CVE-2020-8694): without the right to it power is absent, as anywhere else.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from jetson.sysfs import children, read_int, read_text

PLATFORM = "platform (RAPL)"
PACKAGE = "package (RAPL)"


@dataclass(frozen=True, slots=True)
class EnergyCounter:
    name: str
    energy_uj: int
    # The counter starts again at zero after this value.
    range_uj: int


@dataclass(frozen=True, slots=True)
class EnergySpent:
    """Joules since an earlier reading, by domain, and which of them is the total."""

    domains: tuple[tuple[str, int], ...]
    total_uj: int
    total_source: str


def read_counters(root: Path = Path("/")) -> tuple[EnergyCounter, ...]:
    """The top-level domains: one for each package, and the platform where the board has it."""
    counters = []
    for domain in children(root / "sys/class/powercap", r"intel-rapl:\d+$"):
        name = read_text(f"{domain}/name")
        range_uj = read_int(f"{domain}/max_energy_range_uj") or 0
        energy_uj = read_int(f"{domain}/energy_uj", range(range_uj + 1))
        if name is not None and energy_uj is not None:
            counters.append(EnergyCounter(name, energy_uj, range_uj))
    return tuple(counters)


def spent(
    before: tuple[EnergyCounter, ...], after: tuple[EnergyCounter, ...]
) -> EnergySpent | None:
    """What was spent between two readings; None when their domains differ or there are none."""
    if not after or [c.name for c in before] != [c.name for c in after]:
        return None
    domains = tuple(
        (late.name, _risen_uj(early, late)) for early, late in zip(before, after, strict=True)
    )
    platform = [energy_uj for name, energy_uj in domains if name == "psys"]
    if platform:
        return EnergySpent(domains, sum(platform), PLATFORM)
    packages = [energy_uj for name, energy_uj in domains if re.match("package", name)]
    return EnergySpent(domains, sum(packages), PACKAGE) if packages else None


def _risen_uj(early: EnergyCounter, late: EnergyCounter) -> int:
    risen_uj = late.energy_uj - early.energy_uj
    return risen_uj if risen_uj >= 0 else risen_uj + late.range_uj
