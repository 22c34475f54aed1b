"""The syntax of GBNF, checked before llama.cpp sees it.

llama.cpp explains a wrong grammar by a line on stderr, and some it does not survive: ``{3,1}``
takes all the memory that there is, and parentheses in parentheses overflow its stack. So a grammar
is read here first; an error names line and column, and what is too large is refused.

    rule      name "::=" choice, up to the end of the line
    choice    sequence ("|" sequence)*
    sequence  (item repeat?)*             item: "text"  [class]  .  name  ( choice )
    repeat    *  +  ?  {3}  {3,}  {3,5}                      comment: # to the end of the line
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import NoReturn, TypeAlias

from agent.inference.failures import invalid_grammar

LIMIT_BYTES = 64 << 10
MOST_REPEATS = 1000
# llama.cpp writes repetitions out. So many characters and references are a megabyte.
MOST_ELEMENTS = 100_000
MOST_NESTED = 64
ROOT = "root"

_ESCAPE = r'\\(?:[trn"\\\[\]]|x[\dA-Fa-f]{2}|u[\dA-Fa-f]{4}|U00(?:0[\dA-Fa-f]|10)[\dA-Fa-f]{4})'
_CHARACTER = re.compile(rf"{_ESCAPE}|.", re.DOTALL)
_LITERAL = re.compile(rf'"((?:[^"\\]|{_ESCAPE})*)"')
_CLASS = re.compile(rf"\[\^?((?:[^\]\\]|{_ESCAPE})+)\]")
_NAME = re.compile(r"[A-Za-z0-9-]+")
_REPEAT = re.compile(r"[*+?]|\{[ \t]*(\d{1,9})[ \t]*(?:(,)[ \t]*(\d{1,9})?[ \t]*)?\}")
_GAP = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_WIDE_GAP = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_BOUNDS = {"*": (0, None), "+": (1, None), "?": (0, 1)}


@dataclass(frozen=True, slots=True)
class _Item:
    """A terminal, a reference to ``rule``, or a ``group``; ``place`` is where it begins."""

    place: int
    # As llama.cpp will write it out.
    elements: int
    rule: str = ""
    group: "_Choice" = ()
    minimum: int = 1
    maximum: int | None = 1


_Choice: TypeAlias = tuple[tuple[_Item, ...], ...]


def check(text: str) -> None:
    """Raises InvalidRequest (INVALID_GRAMMAR) unless llama.cpp can use the grammar."""
    size = len(text.encode())
    if size > LIMIT_BYTES:
        raise invalid_grammar(f"It has {size} bytes, and {LIMIT_BYTES} are allowed.")
    if "\0" in text:
        raise invalid_grammar("It has a character NUL.")
    rules = _Reader(text).rules()
    if ROOT not in rules:
        raise invalid_grammar(f"It has no rule {ROOT!r}, which is the whole answer.")
    elements = sum(_elements(choice) for choice in rules.values())
    if elements > MOST_ELEMENTS:
        raise invalid_grammar(
            f"Written out it has {elements} elements, and {MOST_ELEMENTS} are allowed."
        )
    _check_items(text, rules)
    _check_left_edges(rules)


class _Reader:
    """Reads once from the front; ``_at`` is the next character."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def rules(self) -> dict[str, _Choice]:
        found: dict[str, _Choice] = {}
        self._skip(_WIDE_GAP)
        while self._at < len(self._text):
            begin = self._at
            name = self._take(_NAME, "the name of a rule")[0]
            if name in found:
                _fail(self._text, begin, f"the rule {name} is there twice")
            self._skip(_GAP)
            self._expect("::=")
            self._skip(_WIDE_GAP)
            found[name] = self._choice(0)
            if self._next() not in ("", "\r", "\n"):
                _fail(self._text, self._at, "expected the end of the rule")
            self._skip(_WIDE_GAP)
        return found

    def _choice(self, depth: int) -> _Choice:
        sequences = [self._sequence(depth)]
        while self._next() == "|":
            self._at += 1
            self._skip(_WIDE_GAP)
            sequences.append(self._sequence(depth))
        return tuple(sequences)

    def _sequence(self, depth: int) -> tuple[_Item, ...]:
        items: list[_Item] = []
        is_repeated = False
        while (begins := self._next()) not in ("", "\r", "\n", "|", ")"):
            if begins in "*+?{":
                if not items or is_repeated:
                    _fail(self._text, self._at, f"there is no item before {begins}")
                items.append(self._repeated(items.pop()))
                is_repeated = True
            else:
                items.append(self._item(begins, depth))
                is_repeated = False
            self._skip(_WIDE_GAP if depth else _GAP)
        return tuple(items)

    def _item(self, begins: str, depth: int) -> _Item:
        place = self._at
        if begins == '"':
            said = self._take(_LITERAL, "a text with its end quote and known escapes")[1]
            return _Item(place, len(_CHARACTER.findall(said)))
        if begins == "[":
            said = self._take(_CLASS, "a class with its ] and known escapes")[1]
            return _Item(place, len(_CHARACTER.findall(said)))
        if begins == ".":
            self._at += 1
            return _Item(place, 1)
        if begins == "(":
            return self._group(depth + 1)
        return _Item(place, 1, rule=self._take(_NAME, "a text, a class, a rule or a group")[0])

    def _group(self, depth: int) -> _Item:
        place = self._at
        if depth > MOST_NESTED:
            _fail(self._text, place, f"more than {MOST_NESTED} parentheses are open")
        self._at += 1
        self._skip(_WIDE_GAP)
        choice = self._choice(depth)
        self._expect(")")
        return _Item(place, _elements(choice) + 1, group=choice)

    def _repeated(self, item: _Item) -> _Item:
        place = self._at
        found = self._take(_REPEAT, "{3}, {3,} or {3,5}")
        if found[0] in _BOUNDS:
            least, most = _BOUNDS[found[0]]
        else:
            least = int(found[1])
            most = int(found[3]) if found[3] else None if found[2] else least
        if most is not None and least > most:
            _fail(self._text, place, f"{least} is more than {most}")
        if max(least, most or 0) > MOST_REPEATS:
            _fail(self._text, place, f"more than {MOST_REPEATS} repetitions")
        elements = item.elements * max(least + 1 if most is None else most, 1)
        return _Item(item.place, elements, group=((item,),), minimum=least, maximum=most)

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _skip(self, gap: re.Pattern[str]) -> None:
        found = gap.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _take(self, pattern: re.Pattern[str], wanted: str) -> re.Match[str]:
        found = pattern.match(self._text, self._at)
        if found is None:
            _fail(self._text, self._at, f"expected {wanted}")
        self._at = found.end()
        return found

    def _expect(self, text: str) -> None:
        if not self._text.startswith(text, self._at):
            _fail(self._text, self._at, f"expected {text}")
        self._at += len(text)


def _check_items(text: str, rules: dict[str, _Choice]) -> None:
    empty = _possibly_empty(rules)
    for choice in rules.values():
        for item in _items(choice):
            if item.rule and item.rule not in rules:
                _fail(text, item.place, f"there is no rule {item.rule}")
            if item.maximum is None and _is_empty(item.group, empty):
                _fail(text, item.place, "what may be empty is repeated without end")


def _check_left_edges(rules: dict[str, _Choice]) -> None:
    """A rule that begins with itself would be entered without end before a character is read."""
    empty = _possibly_empty(rules)
    edges = {name: set(_left_edges(choice, empty)) for name, choice in rules.items()}
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        cycle = " → ".join(dict.fromkeys(error.args[1]))
        raise invalid_grammar(
            f"A rule begins with itself ({cycle}), so that it would never end."
        ) from None


def _possibly_empty(rules: dict[str, _Choice]) -> frozenset[str]:
    found: frozenset[str] = frozenset()
    while True:
        now = frozenset(name for name, choice in rules.items() if _is_empty(choice, found))
        if now == found:
            return found
        found = now


def _left_edges(choice: _Choice, empty: frozenset[str]) -> Iterator[str]:
    """The rules that a text of ``choice`` may begin with."""
    for sequence in choice:
        for item in sequence:
            if item.rule:
                yield item.rule
            yield from _left_edges(item.group, empty)
            if not _may_be_empty(item, empty):
                break


def _items(choice: _Choice) -> Iterator[_Item]:
    """Every item, those of groups included."""
    for sequence in choice:
        for item in sequence:
            yield item
            yield from _items(item.group)


def _is_empty(choice: _Choice, empty: frozenset[str]) -> bool:
    return any(all(_may_be_empty(item, empty) for item in sequence) for sequence in choice)


def _may_be_empty(item: _Item, empty: frozenset[str]) -> bool:
    if item.minimum == 0 or item.elements == 0:
        return True
    return item.rule in empty if item.rule else _is_empty(item.group, empty)


def _elements(choice: _Choice) -> int:
    return sum(item.elements for sequence in choice for item in sequence)


def _fail(text: str, place: int, what: str) -> NoReturn:
    line = text.count("\n", 0, place) + 1
    column = place - text.rfind("\n", 0, place)
    raise invalid_grammar(f"Line {line}, column {column}: {what}.")
