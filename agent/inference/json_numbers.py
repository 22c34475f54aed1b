"""Numbers between two bounds, as expressions of GBNF. Pure.

A range is told digit by digit: from 27 to 3051 are "2" [7-9], [3-9] [0-9], [1-9] [0-9]{2}, and so
on. What has no bound has 15 digits at most, as many as a double keeps in order: one digit more, and
a number below a bound could be read as the bound.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

MOST_DIGITS = 15
_MOST = 10**MOST_DIGITS - 1
_SOME_MORE = 3


@dataclass(frozen=True, slots=True)
class Range:
    """Infinite where there is no bound."""

    least: Decimal = Decimal("-Infinity")
    most: Decimal = Decimal("Infinity")
    without_least: bool = False
    without_most: bool = False

    @property
    def negated(self) -> "Range":
        return Range(-self.most, -self.least, self.without_most, self.without_least)


def integers(found: Range) -> str:
    """Empty when there are none."""
    least, most = max(found.least, Decimal(-_MOST)), min(found.most, Decimal(_MOST))
    first = int(least.to_integral_value("ROUND_CEILING"))
    last = int(most.to_integral_value("ROUND_FLOOR"))
    first += found.without_least and first == found.least
    last -= found.without_most and last == found.most
    options = []
    if first < 0:
        options += [f'"-" ({option})' for option in _counts(max(1, -last), -first)]
    if last >= 0:
        options += _counts(max(0, first), last)
    return " | ".join(options)


def numbers(found: Range) -> str:
    """Without an exponent. Empty when there are none."""
    options = []
    if found.least < 0:
        options += [f'"-" ({option})' for option in _positive(found.negated)]
    if found.most >= 0:
        options += _positive(found)
    return " | ".join(options)


def is_told(bound: Decimal) -> bool:
    """Whether the bound has few enough digits, and some are left for the numbers beside it."""
    whole, fraction = _parts(abs(bound))
    return len(str(whole)) + len(fraction) + _SOME_MORE <= MOST_DIGITS


def _positive(found: Range) -> Iterator[str]:
    """Those from 0 on."""
    without_least = found.without_least and found.least >= 0
    whole, fraction = _parts(max(found.least, Decimal(0)))
    if found.most.is_infinite():
        digits = MOST_DIGITS - _SOME_MORE - len(fraction)
        end, end_fraction = 10**digits - 1, "9"
    else:
        end, end_fraction = _parts(found.most)
    size = max(len(fraction), len(end_fraction))
    first, last = int(fraction.ljust(size, "0")), int(end_fraction.ljust(size, "0"))
    top = 10**size - 1
    if whole == end:
        yield from _fractions(whole, first, last, size, without_least, found.without_most)
    elif whole < end:
        yield from _fractions(whole, first, top, size, without_least, False, is_whole_top=True)
        for option in _counts(whole + 1, end - 1):
            yield f'({option}) ("." [0-9]{{1,{_SOME_MORE}}})?'
        yield from _fractions(end, 0, last, size, False, found.without_most)


def _fractions(
    whole: int,
    first: int,
    last: int,
    size: int,
    without_first: bool,
    without_last: bool,
    is_whole_top: bool = False,
) -> Iterator[str]:
    """``whole`` and a fraction of ``size`` digits from ``first`` to ``last``, and some more digits.
    ``is_whole_top``: also what lies beyond the last digit of ``last``."""
    more = f"[0-9]{{0,{_SOME_MORE}}}"
    if is_whole_top and first == 0 and not without_first:
        yield f'"{whole}" ("." [0-9]{{1,{_SOME_MORE}}})?'
        return
    least = first + without_first
    most = last - (without_last and not is_whole_top)
    is_one = first == last and not is_whole_top
    if is_one and least > most:
        return
    if least == 0 or (most == 0 and not is_whole_top):
        yield f'"{whole}"'
    # With fewer digits: 2.5 is between 2.25 and 2.75.
    for digits in range(1, size):
        unit = 10 ** (size - digits)
        for option in _padded(-(-least // unit), most // unit, digits):
            yield f'"{whole}." {option}'
    more = f"[0-9]{{0,{_SOME_MORE}}}"
    if not is_one:
        beyond = f"[0-9]{{0,{_SOME_MORE - 1}}} [1-9]" if without_first else more
        yield f'"{whole}.{first:0{size}}" {beyond}'
    for option in _padded(first + 1, last if is_whole_top else last - 1, size):
        yield f'"{whole}." {option} {more}'
    if not without_last and not is_whole_top:
        yield f'"{whole}.{last:0{size}}" "0"{{0,{_SOME_MORE}}}'


def _parts(bound: Decimal) -> tuple[int, str]:
    """Of a bound from 0 on: 2.50 is 2 and "5"."""
    whole, _, fraction = f"{bound:f}".partition(".")
    return int(whole), fraction.rstrip("0") or "0"


def _counts(first: int, last: int) -> Iterator[str]:
    """Integers from 0 on, without leading zeros."""
    for size in range(len(str(first)), len(str(max(last, 0))) + 1):
        least = 0 if size == 1 else 10 ** (size - 1)
        yield from _padded(max(first, least), min(last, 10**size - 1), size)


def _padded(first: int, last: int, size: int) -> Iterator[str]:
    """Exactly ``size`` digits."""
    if first > last:
        return
    if size == 0:
        yield '""'
        return
    if (first, last) == (0, 10**size - 1):
        yield f"[0-9]{{{size}}}"
        return
    unit = 10 ** (size - 1)
    low, high = first // unit, last // unit
    if low == high:
        for rest in _padded(first % unit, last % unit, size - 1):
            yield f'"{low}" {rest}'
        return
    if first % unit:
        for rest in _padded(first % unit, unit - 1, size - 1):
            yield f'"{low}" {rest}'
        low += 1
    whole_high = high if last % unit == unit - 1 else high - 1
    if low <= whole_high:
        yield f"[{low}-{whole_high}] [0-9]{{{size - 1}}}" if size > 1 else f"[{low}-{whole_high}]"
    if whole_high < high:
        for rest in _padded(0, last % unit, size - 1):
            yield f'"{high}" {rest}'
