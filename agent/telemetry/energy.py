"""Energy: power integrated over time, from instantaneous samples with real timestamps.

The sensors' own averages are smoothed over unknown windows, so the integral is made here: the
trapezoid between two samples, on CLOCK_BOOTTIME, in integers, so that no joule is lost to rounding
in a month. 1 mW for 1 ns is 1 pJ.

A gap (no reading, a stopped agent, a sleeping board) is not bridged when it is long: what was drawn
in it is not known, and the figure is then a lower bound.
"""

# Ten missed samples at the usual second each.
LONGEST_GAP_NS = 10_000_000_000
_PJ_PER_J = 10**12
_PJ_PER_UJ = 10**6


class EnergyMeter:
    """Joules since the first sample. ``total_j`` is None until two samples gave an interval."""

    def __init__(self, longest_gap_ns: int = LONGEST_GAP_NS) -> None:
        self._longest_gap_ns = longest_gap_ns
        self._last: tuple[int, int] | None = None
        # Twice the energy, because a trapezoid has a half in it.
        self._twice_pj: int | None = None

    def add_power(self, boottime_ns: int, power_mw: int) -> None:
        """An instantaneous reading."""
        if self._last is not None:
            then_ns, then_mw = self._last
            elapsed_ns = boottime_ns - then_ns
            if 0 < elapsed_ns <= self._longest_gap_ns:
                self._add((then_mw + power_mw) * elapsed_ns)
        self._last = (boottime_ns, power_mw)

    def add_energy(self, energy_uj: int) -> None:
        """What a counter of energy rose by: exact, and needs no clock."""
        self._add(2 * energy_uj * _PJ_PER_UJ)

    @property
    def total_j(self) -> float | None:
        return None if self._twice_pj is None else self._twice_pj / (2 * _PJ_PER_J)

    def _add(self, twice_pj: int) -> None:
        self._twice_pj = (self._twice_pj or 0) + twice_pj
