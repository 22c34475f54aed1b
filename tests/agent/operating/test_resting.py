"""When a job rests: each limit, what is said, and what holds of every course of samples."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.operating.limits import OperatingLimits
from agent.operating.resting import Resting, step, unmeasured
from jetson.throttling import AVERAGE, INSTANTANEOUS, UNDER_VOLTAGE
from protos.nanofleet.v1.telemetry_pb2 import (
    HeatSample,
    MemorySample,
    OverCurrentSample,
    SupplySample,
    TelemetrySample,
)

S = 1_000_000_000
NOON = 12 * 60
HEAT = OperatingLimits(pause_above_c=90, resume_below_c=80)
MIB = 1 << 20


def sample(second: float = 0, **parts: object) -> TelemetrySample:
    return TelemetrySample(boottime_ns=int(second * S), **parts)  # type: ignore[arg-type]


def at(celsius: float) -> HeatSample:
    return HeatSample(zone="tj-thermal", celsius=celsius)


def counted(*events: int) -> list[OverCurrentSample]:
    names = (UNDER_VOLTAGE, AVERAGE, INSTANTANEOUS)
    return [OverCurrentSample(name=n, events=e) for n, e in zip(names, events, strict=True)]


def why(limits: OperatingLimits, *seen: TelemetrySample, minute: int | None = NOON) -> str:
    """After these samples, a second apart."""
    state = Resting()
    for second, each in enumerate(seen):
        each.boottime_ns = second * S
        state = step(state, limits, each, minute, "the job")
    return state.why


@pytest.mark.parametrize(
    ("limits", "bad", "good", "said"),
    [
        (
            HEAT,
            sample(heat=at(91.24)),
            sample(heat=at(90)),
            "The board is at 91.2 °C, more than 90 °C: by the job's limits it rests until the"
            " board was at most 80 °C for 30 s.",
        ),
        (
            OperatingLimits(pause_above_pressure_percent=40, rest_s=5),
            sample(memory=MemorySample(pressure_some_percent=55)),
            sample(memory=MemorySample(pressure_some_percent=40)),
            "Tasks waited for memory 55 % of the last 10 s, more than 40 %: by the job's limits it"
            " rests until the board was at most 40 % for 5 s.",
        ),
        (
            OperatingLimits(pause_above_swap_in_mib_per_s=8),
            sample(memory=MemorySample(swap_in_bytes_per_s=8.5 * MIB)),
            sample(memory=MemorySample(swap_in_bytes_per_s=8 * MIB)),
            "8.5 MiB/s come back from swap, more than 8: by the job's limits it rests until the"
            " board was at most 8 MiB/s for 30 s.",
        ),
        (
            OperatingLimits(mains_only=True),
            sample(supply=SupplySample(on_mains=False)),
            sample(supply=SupplySample(on_mains=True)),
            "A battery feeds the board: by the job's limits it rests until the board was on mains"
            " for 30 s.",
        ),
        (
            OperatingLimits(pause_below_battery_percent=20),
            sample(supply=SupplySample(battery_percent=19)),
            sample(supply=SupplySample(battery_percent=20)),
            "The battery has 19 %, less than 20 %: by the job's limits it rests until the board was"
            " 25 % or more for 30 s.",
        ),
    ],
)
def test_each_limit(
    limits: OperatingLimits, bad: TelemetrySample, good: TelemetrySample, said: str
) -> None:
    assert why(limits, good) == ""
    assert why(limits, good, bad) == said
    assert why(limits, bad, good) == said, "it has not rested yet"
    assert why(OperatingLimits(), bad) == ""
    assert unmeasured(limits, bad, NOON) == []


def test_over_current_is_what_rises() -> None:
    limits = OperatingLimits(over_current=True)
    seen = [sample(over_current=counted(3, 7, 900))]
    assert why(limits, *seen) == "", "what was counted before is over"
    assert why(limits, *seen, sample(over_current=counted(3, 7, 950))) == "", "OC3 is usual"
    assert why(limits, *seen, sample(over_current=counted(3, 9, 950))) == (
        "The board has just counted 2 of OC2 average over-current: by the job's limits it rests"
        " until the board was without an event for 30 s."
    )


@pytest.mark.parametrize(("minute", "rests"), [(21 * 60 + 59, True), (22 * 60, False), (359, False),
                                               (360, True), (None, False)])  # fmt: skip
def test_hours(minute: int | None, rests: bool) -> None:
    limits = OperatingLimits(hours=("22:00-06:00",))
    assert (why(limits, sample(), minute=minute) != "") is rests
    assert why(replace(limits, hours=("22:00-06:00", "00:00-24:00")), sample(), minute=minute) == ""


def test_what_a_board_does_not_tell_is_said_and_never_holds() -> None:
    every = OperatingLimits(90, 80, True, 40, 8, ("22:00-06:00",), True, 20)
    assert why(every, sample(), minute=None) == ""
    said = unmeasured(every, sample(), None)
    assert len(said) == 7
    assert "limits.mains_only has no effect: this board does not tell its supply." in said
    assert unmeasured(OperatingLimits(), sample(), None) == []


def test_a_hold_ends_after_the_whole_rest_only() -> None:
    state, course = Resting(), [(0, 91), (1, 79), (20, 79), (21, 81), (22, 79), (51, 80), (52, 80)]
    held = []
    for second, celsius in course:
        state = step(state, HEAT, sample(second, heat=at(celsius)), NOON, "the agent")
        held.append(bool(state.why))
    assert held == [True, True, True, True, True, True, False]


heats = st.none() | st.floats(60, 110)
courses = st.lists(st.tuples(st.floats(0.1, 40), heats), min_size=1, max_size=40)
limits = st.builds(
    lambda above, gap, rest: OperatingLimits(above, above - gap, rest_s=rest),
    st.floats(70, 100), st.floats(0.5, 15), st.floats(1, 90),
)  # fmt: skip


def played(
    course: list[tuple[float, float | None]], chosen: OperatingLimits
) -> list[tuple[int, float | None, bool]]:
    """Time, heat and whether it rests."""
    state, now_s, told = Resting(), 0.0, []
    for passed_s, celsius in course:
        now_s += passed_s
        seen = sample(now_s, heat=at(celsius) if celsius is not None else None)
        state = step(state, chosen, seen, NOON, "the job")
        told.append((seen.boottime_ns, celsius, bool(state.why)))
    return told


@settings(max_examples=300)
@given(courses, limits)
def test_a_rest_is_long_enough_and_ends_well(
    course: list[tuple[float, float | None]], chosen: OperatingLimits
) -> None:
    """No job flaps faster than its rest, and what a board told while it rested allows the end."""
    began_ns = worst_ns = 0
    was_held = False
    for now_ns, celsius, held in played(course, chosen):
        assert held or celsius is None or celsius <= chosen.pause_above_c
        if held and not was_held:
            began_ns = now_ns
        if celsius is not None and celsius > chosen.resume_below_c:
            worst_ns = now_ns
        if was_held and not held:
            assert now_ns - began_ns >= chosen.rest_s * S
            assert now_ns - worst_ns >= chosen.rest_s * S
        was_held = held


@settings(max_examples=300)
@given(courses, limits, st.floats(0, 10), st.floats(0, 10), st.floats(0, 30))
def test_stricter_limits_hold_whenever_looser_ones_do(
    course: list[tuple[float, float | None]],
    loose: OperatingLimits,
    above: float,
    below: float,
    rest_s: float,
) -> None:
    strict = replace(
        loose,
        pause_above_c=loose.pause_above_c - above,
        resume_below_c=min(loose.pause_above_c - above, loose.resume_below_c) - below,
        rest_s=loose.rest_s + rest_s,
    )
    for (_, _, held), (_, _, strictly) in zip(
        played(course, loose), played(course, strict), strict=True
    ):
        assert strictly or not held


@settings(max_examples=100)
@given(courses)
def test_no_limit_no_rest(course: list[tuple[float, float | None]]) -> None:
    assert not any(held for _, _, held in played(course, OperatingLimits(rest_s=1)))
