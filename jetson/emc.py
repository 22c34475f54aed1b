"""EMC: the clock of the memory that CPU and GPU share, which bounds how fast a model answers.

A power mode may cap it, and everybody may read the cap; what it runs at now only root may, below
debugfs. A cap of 0 means that there is none.
"""

from dataclasses import dataclass
from pathlib import Path

from jetson.sysfs import read_int

_CAPS = (
    "sys/kernel/nvpmodel_clk_cap/emc",  # from r36 on
    "sys/kernel/nvpmodel_emc_cap/emc_iso_cap",
)
_RATES = (
    "sys/kernel/debug/bpmp/debug/clk/emc/rate",
    "sys/kernel/debug/clk/emc/clk_rate",  # Nano
)
_CLOCKS_HZ = range(1, 10**11)


@dataclass(frozen=True, slots=True)
class EmcReading:
    # None: no cap, or not known.
    cap_mhz: int | None
    frequency_mhz: int | None


def read_emc(root: Path = Path("/")) -> EmcReading | None:
    """None where neither cap nor clock can be read."""
    cap_mhz, frequency_mhz = _first_mhz(root, _CAPS), _first_mhz(root, _RATES)
    known = cap_mhz is not None or frequency_mhz is not None
    return EmcReading(cap_mhz, frequency_mhz) if known else None


def _first_mhz(root: Path, paths: tuple[str, ...]) -> int | None:
    clocks_hz = (read_int(root / path, _CLOCKS_HZ) for path in paths)
    return next((clock // 1_000_000 for clock in clocks_hz if clock is not None), None)
