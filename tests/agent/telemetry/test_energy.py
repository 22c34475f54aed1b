import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.telemetry.energy import LONGEST_GAP_NS, EnergyMeter

S = 1_000_000_000


def test_nothing_is_known_before_two_samples() -> None:
    meter = EnergyMeter()
    assert meter.total_j is None
    meter.add_power(0, 5000)
    assert meter.total_j is None
    meter.add_power(S, 5000)
    assert meter.total_j == 5.0


def test_trapezoid_at_uneven_times() -> None:
    meter = EnergyMeter()
    for second, power_mw in ((0, 1000), (1, 3000), (4, 3000), (6, 0)):
        meter.add_power(second * S, power_mw)
    assert meter.total_j == 2.0 + 9.0 + 3.0


@pytest.mark.parametrize("elapsed_ns", [LONGEST_GAP_NS + 1, 0, -S])
def test_gaps_and_clocks_that_stand_are_not_bridged(elapsed_ns: int) -> None:
    meter = EnergyMeter()
    meter.add_power(100 * S, 9000)
    meter.add_power(100 * S + elapsed_ns, 9000)
    assert meter.total_j is None
    meter.add_power(101 * S + elapsed_ns, 9000)
    assert meter.total_j == 9.0


def test_counted_energy_is_added_as_it_is() -> None:
    meter = EnergyMeter()
    meter.add_energy(1_500_000)
    meter.add_energy(1)
    assert meter.total_j == 1.500001


@given(st.lists(st.integers(0, 60_000), min_size=2, max_size=50))
def test_a_month_of_small_steps_loses_nothing(powers_mw: list[int]) -> None:
    """The same readings in one meter, after a month of others, add exactly the same energy."""
    fresh, old = EnergyMeter(), EnergyMeter()
    month_uj = 5_000_000 * 86_400 * 30
    old.add_energy(month_uj)
    for number, power_mw in enumerate(powers_mw):
        fresh.add_power(number * S, power_mw)
        old.add_power(number * S, power_mw)
    assert fresh.total_j is not None
    assert old.total_j == (round(fresh.total_j * 10**6) + month_uj) / 10**6
