"""Ranges as grammars, judged by what they write out: all of the range, and nothing beyond it."""

import re
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from agent.inference.json_numbers import MOST_DIGITS, Range, integers, is_told, numbers

BOUNDS = st.integers(-1200, 1200) | st.integers(-(10**9), 10**9)
DECIMALS = st.decimals(-1200, 1200, places=2) | BOUNDS.map(Decimal)


def matches(expression: str, text: str) -> bool:
    """GBNF of literals, classes, groups and repetitions is a regular expression, quoted."""
    pattern = re.sub(r'"([^"]*)"', lambda quoted: re.escape(quoted[1]), expression)
    return bool(expression) and re.fullmatch(pattern.replace(" ", ""), text) is not None


@st.composite
def ranges(draw: st.DrawFn, bounds: st.SearchStrategy[Decimal]) -> Range:
    least, most = sorted((draw(bounds), draw(bounds)))
    found = Range(least, most, draw(st.booleans()), draw(st.booleans()))
    if draw(st.booleans()):
        found = Range(least, without_least=found.without_least)
    return found.negated if draw(st.booleans()) else found


def holds(found: Range, value: Decimal) -> bool:
    above = value > found.least if found.without_least else value >= found.least
    return above and (value < found.most if found.without_most else value <= found.most)


@given(ranges(BOUNDS.map(Decimal)), BOUNDS)
def test_integers_are_those_of_the_range(found: Range, value: int) -> None:
    expression = integers(found)
    nearby = {value}
    for bound in (found.least, found.most):
        if bound.is_finite():
            nearby |= {int(bound) + step for step in (-1, 0, 1)}
    for one in nearby:
        assert matches(expression, str(one)) == holds(found, Decimal(one)), (one, expression)


@given(ranges(DECIMALS), st.decimals(-1300, 1300, places=2), st.integers(0, 999))
def test_numbers_are_those_of_the_range(found: Range, value: Decimal, more: int) -> None:
    expression = numbers(found)
    nearby = [value]
    for bound in (found.least, found.most):
        if bound.is_finite():
            nearby += [bound + step * Decimal("0.01") for step in (-1, 0, 1)]
    for one in nearby:
        for text in (f"{one:f}", f"{one:f}".rstrip("0").rstrip(".") if "." in f"{one:f}" else "0"):
            if text != "-0" and Decimal(text) == one:
                assert matches(expression, text) == holds(found, one), (text, expression)
        longer = f"{one:.2f}{more:03}"
        if matches(expression, longer):
            # As a program reads it: a double.
            assert holds(found, Decimal(float(longer))) or Decimal(longer) == one, longer


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_what_is_told_leaves_room_for_the_numbers_beside_it(bound: Decimal) -> None:
    if is_told(bound):
        digits = f"{abs(bound):f}".replace(".", "").lstrip("0")
        assert len(digits) <= MOST_DIGITS
        assert integers(Range(bound)) or bound > 10**MOST_DIGITS - 1
        assert numbers(Range(bound, without_least=True))
