"""A regular expression of a JSON schema (``pattern``), as an expression of GBNF.

What a text of JSON has in place of the characters: a quote and a backslash are escaped there. Every
text that comes of it matches the expression, in ECMAScript as in Python; not every match comes of
it: ``\\s`` is a blank, and the other classes are of ASCII. Without anchors anything may stand
around the match, as the standard says.

    choice   sequence ("|" sequence)*
    sequence (item repeat?)*   item: a character  .  [class]  \\d \\w \\s \\.  (choice)  (?:choice)
    repeat   *  +  ?  {3}  {3,}  {3,5}, lazy or not
    ^ and $  at the ends of the whole, or of what is between its "|"
"""

import json
import re
import string
from collections.abc import Iterable, Sequence
from typing import NoReturn, TypeAlias

from agent.inference.gbnf import MOST_NESTED, MOST_REPEATS

# First and last code point.
Span: TypeAlias = tuple[int, int]

_LAST = 0x10FFFF
# What JSON does not have as it is: control characters, and the two that are escaped. And half
# characters, which no text has.
_ESCAPED = '"\\'
_NOT_PLAIN = ((0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F), (0xD800, 0xDFFF))
_LINE_ENDS = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
_PRINTED = ((0x20, 0x7E),)
_SHORTHANDS: dict[str, tuple[Span, ...]] = {
    "d": ((0x30, 0x39),),
    "w": ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)),
    "s": ((0x20, 0x20),),
}
_CLASSES = tuple(f"\\{letter}" for letter in _SHORTHANDS)
_CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v"}
_REPEAT = re.compile(r"([*+?]|\{(\d+)(,)?(\d+)?\})\??")
_GROUP = re.compile(r"\((?:\?:|\?P?<[A-Za-z_]\w*>)?")


class PatternError(ValueError):
    """What cannot be said, and where it begins."""


def expression(pattern: str) -> str:
    """What stands between the quotes. Raises PatternError."""
    return _Reader(pattern).whole()


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def whole(self) -> str:
        options = [self._anchored()]
        while self._took("|"):
            options.append(self._anchored())
        if self._at < len(self._text):
            self._fail("the ) has no (")
        return " | ".join(options)

    def _anchored(self) -> str:
        before = "" if self._took("^") else "character* "
        body = self._sequence(0)
        after = "" if self._took("$") else " character*"
        if self._next not in ("", "|", ")"):
            self._fail("nothing can follow $")
        return f"{before}{body}{after}"

    def _choice(self, depth: int) -> str:
        if depth > MOST_NESTED // 2:
            self._fail("its parentheses are nested too deeply")
        options = [self._sequence(depth)]
        while self._took("|"):
            options.append(self._sequence(depth))
        return " | ".join(options)

    def _sequence(self, depth: int) -> str:
        items = []
        while self._next and self._next not in "|)$":
            items.append(self._item(depth) + self._repeat())
        if self._next == "$" and depth:
            self._fail("an anchor inside parentheses cannot be said")
        return " ".join(items) or '""'

    def _item(self, depth: int) -> str:
        begin = self._at
        if match := _GROUP.match(self._text, begin):
            self._at = match.end()
            if self._next == "?":
                self._at = begin
                self._fail("what looks ahead or behind cannot be said")
            inner = self._choice(depth + 1)
            if not self._took(")"):
                self._at = begin
                self._fail("the ( has no )")
            return f"({inner})"
        character = self._taken()
        if character == ".":
            return _one_of(_without([(0, _LAST)], _LINE_ENDS))
        if character == "[":
            return self._class(begin)
        if character == "\\":
            return _one_of(self._escape(begin))
        if character in "*+?^":
            self._at = begin
            self._fail(f"{character!r} cannot stand here")
        return _one_of([(ord(character), ord(character))])

    def _class(self, begin: int) -> str:
        is_negated, spans, is_ascii = self._took("^"), list[Span](), False
        while not self._took("]"):
            if not self._next:
                self._at = begin
                self._fail("the [ has no ]")
            is_ascii |= self._text[self._at : self._at + 2].lower() in _CLASSES
            first = self._member()
            if len(first) == 1 and first[0][0] == first[0][1] and self._is_range():
                self._at += 1
                last = self._member()
                if len(last) != 1 or last[0][1] < first[0][0]:
                    self._fail("the range is none")
                first = [(first[0][0], last[0][1])]
            spans += first
        if is_negated and spans:
            # The classes of letters and digits are larger than ours elsewhere.
            spans = _without(_PRINTED if is_ascii else [(0, _LAST)], spans)
        if not spans:
            self._fail("the class is empty")
        return _one_of(spans)

    def _is_range(self) -> bool:
        return self._next == "-" and self._text[self._at + 1 : self._at + 2] not in ("", "]")

    def _member(self) -> list[Span]:
        begin = self._at
        character = self._taken()
        if character == "\\":
            return self._escape(begin)
        return [(ord(character), ord(character))]

    def _escape(self, begin: int) -> list[Span]:
        if not self._next:
            self._fail("the \\ escapes nothing")
        letter = self._taken()
        if letter in _SHORTHANDS:
            return list(_SHORTHANDS[letter])
        if letter.lower() in _SHORTHANDS:
            return _without(_PRINTED, _SHORTHANDS[letter.lower()])
        if letter in "xu":
            size = 2 if letter == "x" else 4
            digits = self._text[self._at : self._at + size]
            if len(digits) != size or set(digits) - set(string.hexdigits):
                self._fail(f"\\{letter} is followed by {size} hexadecimal digits")
            self._at += size
            return [(int(digits, 16),) * 2]
        if letter in _CONTROLS:
            return [(ord(_CONTROLS[letter]),) * 2]
        if letter.isalnum():
            self._at = begin
            self._fail(f"\\{letter} cannot be said")
        return [(ord(letter), ord(letter))]

    def _repeat(self) -> str:
        match = _REPEAT.match(self._text, self._at)
        if not match:
            return ""
        if match[2] and max(int(match[2]), int(match[4] or 0)) > MOST_REPEATS:
            self._fail(f"more than {MOST_REPEATS} repetitions cannot be said")
        if match[4] and int(match[4]) < int(match[2]):
            self._fail(f"{match[2]} is more than {match[4]}")
        self._at = match.end()
        return match[1]

    @property
    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _took(self, character: str) -> bool:
        found = self._next == character
        self._at += found
        return found

    def _taken(self) -> str:
        character = self._next
        self._at += 1
        return character

    def _fail(self, what: str) -> NoReturn:
        raise PatternError(f"at its character {self._at + 1}, {what}")


def _one_of(spans: Sequence[Span]) -> str:
    """The characters as JSON has them; other control characters than these are left out."""
    options = []
    if plain := _without(spans, _NOT_PLAIN):
        options.append(f"[{''.join(map(_written, plain))}]")
    for character in (*_ESCAPED, *_CONTROLS.values()):
        if any(first <= ord(character) <= last for first, last in spans):
            escaped = json.dumps(character)[1:-1]
            options.append('"' + escaped.replace("\\", "\\\\").replace('"', '\\"') + '"')
    if not options:
        raise PatternError("a control character is all that can stand at one of its places")
    return options[0] if len(options) == 1 else f"({' | '.join(options)})"


def _without(spans: Iterable[Span], taken: Iterable[Span]) -> list[Span]:
    left = sorted(spans)
    for first, last in taken:
        parts = []
        for begin, end in left:
            if end < first or last < begin:
                parts.append((begin, end))
                continue
            if begin < first:
                parts.append((begin, first - 1))
            if last < end:
                parts.append((last + 1, end))
        left = parts
    return left


def _written(span: Span) -> str:
    first, last = (_character(code) for code in span)
    return first if span[0] == span[1] else f"{first}-{last}"


def _character(code: int) -> str:
    if code < 0x80 and chr(code).isalnum():
        return chr(code)
    if code < 0x100:
        return f"\\x{code:02X}"
    return f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"
