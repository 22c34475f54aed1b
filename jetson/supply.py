"""What feeds the board: mains or a battery, and how full that is.

From /sys/class/power_supply, which has an entry for each charger, port and battery that has a
driver. Most boards have none, and are fed through a jack that the kernel knows nothing of. An Orin
lists the USB-C port that feeds nothing (online 0) while the jack does: so nothing online means a
battery only where there is one. The battery of a mouse or a pad is none of the board's
(scope Device).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from jetson.sysfs import children, read_int, read_text

# 2 is "online, fixed or programmable" of some chargers.
_ONLINE = range(3)
_PERCENT = range(101)
_CHARGED = ("Charging", "Full", "Not charging")
_DISCHARGED = "Discharging"


@dataclass(frozen=True, slots=True)
class Supply:
    """None: not told."""

    on_mains: bool | None
    battery_percent: float | None


@dataclass(frozen=True, slots=True)
class SupplyFiles:
    chargers: tuple[str, ...] = ()
    batteries: tuple[str, ...] = ()


def find_supplies(root: Path = Path("/")) -> SupplyFiles:
    chargers, batteries = [], []
    for folder in children(root / "sys/class/power_supply"):
        kind = read_text(f"{folder}/type") or ""
        if kind == "Battery" and read_text(f"{folder}/scope") != "Device":
            batteries.append(folder)
        elif kind in ("Mains", "Wireless") or kind.startswith("USB"):
            chargers.append(folder)
    return SupplyFiles(tuple(chargers), tuple(batteries))


def read_supply(files: SupplyFiles) -> Supply | None:
    """None where nothing is told."""
    percents = _present(read_int(f"{folder}/capacity", _PERCENT) for folder in files.batteries)
    percent = sum(percents) / len(percents) if percents else None
    on_mains = _on_mains(files)
    return None if on_mains is None and percent is None else Supply(on_mains, percent)


def _on_mains(files: SupplyFiles) -> bool | None:
    """A charger that is online; else what the batteries do."""
    online = _present(read_int(f"{folder}/online", _ONLINE) for folder in files.chargers)
    if any(online):
        return True
    states = [read_text(f"{folder}/status") for folder in files.batteries]
    if _DISCHARGED in states:
        return False
    if any(state in _CHARGED for state in states):
        return True
    return False if online and files.batteries else None


def _present(numbers: Iterable[int | None]) -> list[int]:
    return [number for number in numbers if number is not None]
