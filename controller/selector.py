"""Selectors: which devices are meant, ``site=lab,board in (nano,orin-nano),mem>=3500Mi``.

    selector = [ term { "," term } ]
    term     = key "=" value | key "!=" value
             | key "in" "(" value { "," value } ")" | key "notin" "(" … ")"
             | key ( ">=" | "<=" | ">" | "<" ) quantity
    quantity = digits [ "." digits ] [ Ki | Mi | Gi | Ti | k | M | G | T ]

All terms must hold. A key is looked up among the device's labels first, then among the facts that
are known of it. An unknown key differs from every value: ``!=`` and ``notin`` hold, the others do
not. Pure; parsing is strict, because a typing error must not select the whole fleet.
"""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from protos.errors import InvalidRequest

Facts = Mapping[str, str]

_KEY = r"(?P<key>[A-Za-z][A-Za-z0-9_./-]*)"
_VALUE = r"[A-Za-z0-9_.+/:-]+"
_QUANTITY = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)(?P<unit>Ki|Mi|Gi|Ti|k|M|G|T|)")
_COMPARISON = re.compile(rf"{_KEY}\s*(?P<sign>>=|<=|!=|=|>|<)\s*(?P<value>{_VALUE})")
_MEMBERSHIP = re.compile(
    rf"{_KEY}\s+(?P<sign>in|notin)\s*\(\s*(?P<values>{_VALUE}(?:\s*,\s*{_VALUE})*)\s*\)"
)
_SEPARATOR = re.compile(r",(?![^(]*\))")

_FACTORS = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 1 << 10,
    "Mi": 1 << 20,
    "Gi": 1 << 30,
    "Ti": 1 << 40,
}
_ORDER: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True, slots=True)
class Term:
    """``sign`` is in, notin (``=`` and ``!=`` are they, with one value), or a comparison."""

    text: str
    key: str
    sign: str
    values: tuple[str, ...]

    def holds(self, labels: Mapping[str, str], facts: Facts) -> bool:
        value = labels.get(self.key, facts.get(self.key))
        if self.sign == "in":
            return value in self.values
        if self.sign == "notin":
            return value not in self.values
        number = None if value is None else quantity(value)
        bound = quantity(self.values[0])
        return number is not None and bound is not None and _ORDER[self.sign](number, bound)


@dataclass(frozen=True, slots=True)
class Selector:
    terms: tuple[Term, ...]

    def failing(self, labels: Mapping[str, str], facts: Facts) -> Term | None:
        """The first term that does not hold; None when the device is selected."""
        return next((term for term in self.terms if not term.holds(labels, facts)), None)

    def selects(self, labels: Mapping[str, str], facts: Facts) -> bool:
        return self.failing(labels, facts) is None


def parse(text: str) -> Selector:
    """The selector; an empty text selects every device. Raises InvalidRequest."""
    if not text.strip():
        return Selector(())
    return Selector(tuple(_term(part.strip()) for part in _SEPARATOR.split(text)))


def checked_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels; raises InvalidRequest for one that no selector could ask for."""
    for key, value in labels.items():
        if not re.fullmatch(_KEY, key) or not re.fullmatch(_VALUE, value):
            raise InvalidRequest(
                f"{key}={value} is no label.",
                why="A key starts with a letter; keys and values have letters, digits and . _ / -.",
                fix="Write labels like site=lab.",
                field="labels",
            )
    return dict(labels)


def quantity(text: str) -> float | None:
    """``3500Mi`` as a number; None when it is none."""
    match = _QUANTITY.fullmatch(text)
    return None if match is None else float(match["number"]) * _FACTORS[match["unit"]]


def _term(text: str) -> Term:
    if match := _MEMBERSHIP.fullmatch(text):
        values = tuple(re.split(r"\s*,\s*", match["values"]))
        return Term(text, match["key"], match["sign"], values)
    match = _COMPARISON.fullmatch(text)
    if match is None:
        raise _wrong(text, "It is no term of a selector.")
    sign, value = match["sign"], match["value"]
    if sign in _ORDER and quantity(value) is None:
        raise _wrong(text, f"{value!r} is no quantity, such as 3500Mi, 4G or 2.5.")
    return Term(text, match["key"], {"=": "in", "!=": "notin"}.get(sign, sign), (value,))


def _wrong(text: str, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"The selector has {text!r}." if text else "The selector has an empty term.",
        why=why,
        fix="Write terms like site=lab, name!=x, board in (nano,orin-nano) or mem>=3500Mi, "
        "with commas between them.",
        field="selector",
    )
