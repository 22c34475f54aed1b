"""Operating limits: under which conditions of the board a job rests, and whether they make sense.

The same in agent.toml, in a job file and in JobSpec.limits, so they are checked in one place. Hours
are spans of local time, "22:00-06:00": from the first minute on, to the second without it; one
that ends before it begins goes over midnight.
"""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Protocol

MOST_SPANS = 16
LONGEST_REST_S = 86_400.0
# What a board must cool down by where nobody says it.
USUAL_GAP_C = 10.0

_SPAN = re.compile(r"(\d{2}):(\d{2})-(\d{2}):(\d{2})")
_DAY_MINUTES = 24 * 60


class Limits(Protocol):
    """0, empty and false: no limit."""

    @property
    def pause_above_c(self) -> float: ...
    @property
    def resume_below_c(self) -> float: ...
    @property
    def over_current(self) -> bool: ...
    @property
    def pause_above_pressure_percent(self) -> float: ...
    @property
    def pause_above_swap_in_mib_per_s(self) -> float: ...
    @property
    def hours(self) -> Sequence[str]: ...
    @property
    def mains_only(self) -> bool: ...
    @property
    def pause_below_battery_percent(self) -> float: ...
    @property
    def rest_s(self) -> float: ...


def problem(limits: Limits) -> tuple[str, str] | None:
    """The first key that makes no sense, and a sentence that says why and what to write."""
    return _numbers(limits) or _heat(limits) or _hours(limits.hours)


def is_within(minute: int, hours: Iterable[str]) -> bool:
    """Whether a minute of the day lies in one of the spans."""
    for span in hours:
        begin, end = _minutes(span)
        if begin <= minute < end or (end < begin and not end <= minute < begin):
            return True
    return False


def _numbers(limits: Limits) -> tuple[str, str] | None:
    for key, value, least, most in (
        ("pause_above_c", limits.pause_above_c, 20.0, 150.0),
        ("pause_above_pressure_percent", limits.pause_above_pressure_percent, 0.1, 100.0),
        ("pause_above_swap_in_mib_per_s", limits.pause_above_swap_in_mib_per_s, 0.001, 1e6),
        ("pause_below_battery_percent", limits.pause_below_battery_percent, 1.0, 100.0),
    ):
        if value != 0 and not (math.isfinite(value) and least <= value <= most):
            return key, f"is {value:g}; it lies between {least:g} and {most:g}, and 0 is no limit"
    if not (math.isfinite(limits.rest_s) and 1 <= limits.rest_s <= LONGEST_REST_S):
        return "rest_s", f"is {limits.rest_s:g}; it lies between 1 and {LONGEST_REST_S:g}"
    return None


def _heat(limits: Limits) -> tuple[str, str] | None:
    above, below = limits.pause_above_c, limits.resume_below_c
    if not above and below:
        return "resume_below_c", "is given without pause_above_c: say from which heat on to rest"
    if above and not (math.isfinite(below) and 0 < below < above):
        said = f"is {below:g}; it must be less than pause_above_c, which is {above:g}"
        return "resume_below_c", f"{said}: {above - USUAL_GAP_C:g}, say"
    return None


def _hours(hours: Sequence[str]) -> tuple[str, str] | None:
    if len(hours) > MOST_SPANS:
        return "hours", f"has {len(hours)} spans; at most {MOST_SPANS} are read"
    for span in hours:
        found = _SPAN.fullmatch(span)
        if found is None or any(int(found[n]) > 59 for n in (2, 4)):
            return "hours", f'has {span[:40]!r}; write a span as "22:00-06:00"'
        begin, end = _minutes(span)
        if begin == end or begin >= _DAY_MINUTES or end > _DAY_MINUTES:
            return "hours", f'has {span!r}, which is no part of a day; write it as "22:00-06:00"'
    return None


def _minutes(span: str) -> tuple[int, int]:
    begin, end = span.split("-")
    return _minute(begin), _minute(end)


def _minute(time: str) -> int:
    hour, minute = time.split(":")
    return int(hour) * 60 + int(minute)
