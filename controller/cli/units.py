"""Numbers for people: sizes, durations, ages, rates. Absent is "–", never zero.

Sizes are decimal (1 MB = 10^6 bytes), three significant digits, so that a column stays narrow and
a file manager shows the same number.
"""

import re
import time

ABSENT = "–"
_MINUTE_S = 60
_HOUR_S = 3600
_DAY_S = 86_400
_SECONDS = {"": 1, "s": 1, "m": _MINUTE_S, "h": _HOUR_S, "d": _DAY_S}
_DURATION = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)(?P<unit>[smhd]?)")


def size(size_bytes: float | None) -> str:
    """``468 MB``, ``1.04 GB``."""
    if size_bytes is None:
        return ABSENT
    value = float(size_bytes)
    if value < 999.5:
        return f"{value:.0f} B"
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.5 or unit == "TB":
            break
    return f"{_three_digits(value)} {unit}"


def duration(seconds: float | None) -> str:
    """``38 ms``, ``8.4 s``, ``2 min 13 s``, ``3 h 5 min``, ``2 d 4 h``: the two largest units."""
    if seconds is None:
        return ABSENT
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return _two(whole // _MINUTE_S, "min", whole % _MINUTE_S, "s")
    if whole < _DAY_S:
        return _two(whole // _HOUR_S, "h", whole % _HOUR_S // _MINUTE_S, "min")
    return _two(whole // _DAY_S, "d", whole % _DAY_S // _HOUR_S, "h")


def clock(seconds: float | None) -> str:
    """``2:13`` or ``3:05:09``: a duration for a narrow column."""
    if seconds is None:
        return ABSENT
    minutes, rest = divmod(round(seconds), _MINUTE_S)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def age(utc_ns: int, now_ns: int) -> str:
    """``12 s ago``; "never" for 0, "just now" when the clocks disagree about the order."""
    if not utc_ns:
        return "never"
    seconds = (now_ns - utc_ns) / 1e9
    if seconds < 1:
        return "just now"
    if seconds < _MINUTE_S:
        return f"{seconds:.0f} s ago"
    if seconds < _HOUR_S:
        return f"{seconds // _MINUTE_S:.0f} min ago"
    if seconds < _DAY_S:
        return f"{seconds // _HOUR_S:.0f} h ago"
    return f"{seconds // _DAY_S:.0f} d ago"


def stamp(utc_ns: int) -> str:
    """``2025-06-30 14:05:09``, local time; "–" for 0."""
    if not utc_ns:
        return ABSENT
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(utc_ns / 1e9))


def rate(tokens_per_s: float | None) -> str:
    """``182 tokens/s``."""
    if tokens_per_s is None:
        return ABSENT
    return f"{_three_digits(tokens_per_s)} tokens/s"


def speed(size_bytes: float, seconds: float) -> str:
    """``11.4 MB/s``."""
    return f"{size(size_bytes / seconds)}/s" if seconds > 0 else ABSENT


def watts(power_mw: float | None) -> str:
    return ABSENT if power_mw is None else f"{power_mw / 1000:.1f} W"


def celsius(degrees: float | None) -> str:
    return ABSENT if degrees is None else f"{degrees:.0f} °C"


def supply(on_mains: bool | None, battery_percent: float | None) -> str:
    """``mains``, ``battery 40 %``, ``mains, battery 87 %``: what feeds a board."""
    battery = "" if battery_percent is None else f"battery {battery_percent:.0f} %"
    if on_mains is None:
        return battery or ABSENT
    if on_mains:
        return f"mains, {battery}" if battery else "mains"
    return battery or "battery"


def simulated(said: str, is_simulated: bool) -> str:
    """Marks what no sensor has measured; what is absent needs no mark."""
    return f"{said} sim" if is_simulated and said != ABSENT else said


def energy(joules: float | None) -> str:
    """``840 J``, ``12.6 kJ``."""
    if joules is None:
        return ABSENT
    if joules < 999.5:
        return f"{_three_digits(joules)} J"
    return f"{_three_digits(joules / 1000)} kJ"


def seconds_of(text: str) -> float:
    """``15m``, ``90s``, ``2h``, ``1d`` or ``2.5`` (seconds); raises ValueError otherwise."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return float(match["number"]) * _SECONDS[match["unit"]]


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    said = f"{large} {large_unit}"
    return f"{said} {small} {small_unit}" if small else said


def _three_digits(value: float) -> str:
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
