"""When jobs rest: from limits and one sample after the other to the holds that are in force.

                 passed                          not passed for rest_s
    (no hold) ───────────▶ held, with a sentence ────────────────────────▶ (no hold)
                             ▲        │  between resuming and pausing,
                             └────────┘  or passed again: the rest counts anew

A limit that is passed holds until the board was well for ``rest_s``, so a job that warms its board
does not flap; heat and battery have a gap between pausing and resuming, too. What a sample does not
tell holds nothing. Pure: time is that of the samples, and the minute of the day comes with them.
What holds of every course of samples is in tests/agent/operating/test_resting.py.
"""

import enum
from collections.abc import Iterator
from dataclasses import dataclass, replace

from agent.operating.limits import OperatingLimits
from jetson.throttling import WORTH_A_WARNING
from protos.limits import is_within
from protos.nanofleet.v1.telemetry_pb2 import TelemetrySample

# What a battery must have gained before a job goes on: it would be empty again in a minute.
BATTERY_GAP_PERCENT = 5.0
_MIB = 1 << 20

Counts = tuple[tuple[str, int], ...]


class Verdict(enum.Enum):
    PASSED = "passed"
    # Between the limit and that for going on.
    NEAR = "near"
    WELL = "well"
    # The board does not tell.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Judgement:
    """Of one limit. ``said``: what is passed; ``until``: what ends the rest."""

    limit: str
    verdict: Verdict
    said: str = ""
    until: str = ""


@dataclass(frozen=True, slots=True)
class Hold:
    limit: str
    # As it was when the hold began.
    sentence: str
    # Since when the board is well; None: it is not.
    well_since_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Resting:
    holds: tuple[Hold, ...] = ()
    # Of over-current, in the sample before.
    counts: Counts = ()

    @property
    def why(self) -> str:
        """Empty: no rest."""
        return " ".join(hold.sentence for hold in self.holds)


def step(
    state: Resting,
    limits: OperatingLimits,
    sample: TelemetrySample,
    local_minute: int | None,
    whose: str,
) -> Resting:
    """``local_minute``: of the day; None where the clock is not set. ``whose`` limits they are:
    "the agent", "the job"."""
    held = {hold.limit: hold for hold in state.holds}
    holds = []
    for judged in judgements(limits, sample, local_minute, state.counts):
        hold = held.get(judged.limit)
        if judged.verdict is Verdict.PASSED:
            sentence = hold.sentence if hold else _sentence(judged, limits.rest_s, whose)
            holds.append(Hold(judged.limit, sentence))
        elif hold is not None and (kept := _kept(hold, judged, limits.rest_s, sample)):
            holds.append(kept)
    return Resting(tuple(holds), _counts(sample))


def unmeasured(
    limits: OperatingLimits, sample: TelemetrySample, local_minute: int | None
) -> list[str]:
    """A sentence for each limit that the board does not measure."""
    return [
        f"limits.{judged.limit} has no effect: {judged.said}."
        for judged in judgements(limits, sample, local_minute, ())
        if judged.verdict is Verdict.UNKNOWN
    ]


def judgements(
    limits: OperatingLimits, sample: TelemetrySample, local_minute: int | None, counts: Counts
) -> Iterator[Judgement]:
    """Of the limits that are set."""
    if limits.pause_above_c:
        yield _heat(limits, sample)
    if limits.over_current:
        yield _over_current(sample, counts)
    if limits.pause_above_pressure_percent:
        yield _pressure(limits.pause_above_pressure_percent, sample)
    if limits.pause_above_swap_in_mib_per_s:
        yield _swap_in(limits.pause_above_swap_in_mib_per_s, sample)
    if limits.hours:
        yield _hours(limits.hours, local_minute)
    if limits.mains_only:
        yield _mains(sample)
    if limits.pause_below_battery_percent:
        yield _battery(limits.pause_below_battery_percent, sample)


def _heat(limits: OperatingLimits, sample: TelemetrySample) -> Judgement:
    name = "pause_above_c"
    if not sample.HasField("heat"):
        return Judgement(name, Verdict.UNKNOWN, "this board does not tell its temperature")
    celsius, above, below = sample.heat.celsius, limits.pause_above_c, limits.resume_below_c
    verdict = _verdict(celsius > above, celsius <= below)
    said = f"The board is at {celsius:.1f} °C, more than {above:g} °C"
    return Judgement(name, verdict, said, f"at most {below:g} °C")


def _over_current(sample: TelemetrySample, counts: Counts) -> Judgement:
    name, now = "over_current", _counts(sample)
    if not now:
        return Judgement(name, Verdict.UNKNOWN, "this board does not count over-current")
    before = dict(counts)
    risen = [(kind, events - before.get(kind, events)) for kind, events in now]
    told = [f"{rise} of {kind}" for kind, rise in risen if rise > 0]
    said = f"The board has just counted {' and '.join(told)}"
    return Judgement(name, _verdict(bool(told), not told), said, "without an event")


def _pressure(most_percent: float, sample: TelemetrySample) -> Judgement:
    name = "pause_above_pressure_percent"
    if not sample.memory.HasField("pressure_some_percent"):
        return Judgement(name, Verdict.UNKNOWN, "this kernel does not tell its pressure (PSI)")
    percent = sample.memory.pressure_some_percent
    said = f"Tasks waited for memory {percent:.0f} % of the last 10 s, more than {most_percent:g} %"
    verdict = _verdict(percent > most_percent, percent <= most_percent)
    return Judgement(name, verdict, said, f"at most {most_percent:g} %")


def _swap_in(most_mib: float, sample: TelemetrySample) -> Judgement:
    name = "pause_above_swap_in_mib_per_s"
    if not sample.memory.HasField("swap_in_bytes_per_s"):
        return Judgement(name, Verdict.UNKNOWN, "this kernel does not count what it swaps in")
    mib = sample.memory.swap_in_bytes_per_s / _MIB
    said = f"{mib:.1f} MiB/s come back from swap, more than {most_mib:g}"
    verdict = _verdict(mib > most_mib, mib <= most_mib)
    return Judgement(name, verdict, said, f"at most {most_mib:g} MiB/s")


def _hours(hours: tuple[str, ...], local_minute: int | None) -> Judgement:
    if local_minute is None:
        return Judgement("hours", Verdict.UNKNOWN, "the device's clock is not set")
    is_open = is_within(local_minute, hours)
    clock = f"{local_minute // 60:02}:{local_minute % 60:02}"
    said = f"It is {clock}, outside of {', '.join(hours)}"
    return Judgement("hours", _verdict(not is_open, is_open), said, "within these hours")


def _mains(sample: TelemetrySample) -> Judgement:
    if not sample.supply.HasField("on_mains"):
        return Judgement("mains_only", Verdict.UNKNOWN, "this board does not tell its supply")
    on_mains = sample.supply.on_mains
    verdict = _verdict(not on_mains, on_mains)
    return Judgement("mains_only", verdict, "A battery feeds the board", "on mains")


def _battery(least_percent: float, sample: TelemetrySample) -> Judgement:
    name = "pause_below_battery_percent"
    if not sample.supply.HasField("battery_percent"):
        return Judgement(name, Verdict.UNKNOWN, "this board does not tell its battery")
    percent = sample.supply.battery_percent
    again = min(100.0, least_percent + BATTERY_GAP_PERCENT)
    said = f"The battery has {percent:.0f} %, less than {least_percent:g} %"
    verdict = _verdict(percent < least_percent, percent >= again)
    return Judgement(name, verdict, said, f"{again:g} % or more")


def _verdict(is_passed: bool, is_well: bool) -> Verdict:
    return Verdict.PASSED if is_passed else Verdict.WELL if is_well else Verdict.NEAR


def _sentence(judged: Judgement, rest_s: float, whose: str) -> str:
    return (
        f"{judged.said}: by {whose}'s limits it rests until the board was {judged.until}"
        f" for {rest_s:g} s."
    )


def _kept(hold: Hold, judged: Judgement, rest_s: float, sample: TelemetrySample) -> Hold | None:
    """None once the board was well for long enough. A sensor that fell silent holds nobody back
    for longer than that."""
    if judged.verdict is Verdict.NEAR:
        return replace(hold, well_since_ns=None)
    since_ns = sample.boottime_ns if hold.well_since_ns is None else hold.well_since_ns
    if sample.boottime_ns - since_ns >= rest_s * 1e9:
        return None
    return replace(hold, well_since_ns=since_ns)


def _counts(sample: TelemetrySample) -> Counts:
    """What harms: the third kind rises in normal use."""
    return tuple(
        (one.name, one.events) for one in sample.over_current if one.name in WORTH_A_WARNING
    )
