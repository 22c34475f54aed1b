"""A JSON schema as a grammar: every text of the grammar is valid by the schema.

Not the other way round: properties come in the order of the schema, and none but those that it
names. What a grammar cannot promise (``not``, ``uniqueItems``, ``multipleOf``, …) is refused with
the keyword's place and what to write instead. The converter that comes with llama-cpp-python leaves
such keywords out without a word, and writes a backslash in a constant wrongly.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from agent.inference import gbnf, json_numbers, json_pattern
from agent.inference.gbnf import LIMIT_BYTES, ROOT
from agent.inference.json_apart import Apart
from agent.inference.json_keywords import (
    Schema,
    check_alone,
    check_known,
    fail,
    limits,
    listed,
    range_of,
    refused,
    text_of,
    types_of,
    values_of,
)
from agent.inference.json_numbers import Range
from protos.errors import InvalidRequest

MOST_NESTED = 32

_SPACE = r'(" " | "\n" " "{0,20})?'
_BUILT_IN = {
    "space": _SPACE,
    # No half of a pair: two of them would count as one character.
    "character": r'[^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" code-unit)',
    "code-unit": "[0-9a-cefA-CEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2}",
    "string": r'"\"" character* "\""',
    "whole": '"0" | [1-9] [0-9]{0,15}',
    "integer": '"-"? whole',
    "number": '"-"? whole ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,3})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "value": "string | number | boolean | null | array | object",
    "array": '"[" space (value space ("," space value space)*)? "]"',
    "object": '"{" space (member space ("," space member space)*)? "}"',
    "member": 'string space ":" space value',
    "date": '[0-9]{4} "-" (long-month | short-month | february)',
    "long-month": '("01" | "03" | "05" | "07" | "08" | "10" | "12") "-" (day | "30" | "31")',
    "short-month": '("04" | "06" | "09" | "11") "-" (day | "30")',
    # The 29th is no date in most years.
    "february": '"02-" ("0" [1-9] | "1" [0-9] | "2" [0-8])',
    "day": '"0" [1-9] | [12] [0-9]',
    "time": '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,6})? zone',
    "zone": '"Z" | [+-] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9]',
    "date-time": 'date "T" time',
    "uuid": '[0-9a-f]{8} ("-" [0-9a-f]{4}){3} "-" [0-9a-f]{12}',
}
_FORMATS = ("date", "time", "date-time", "uuid")
_RANGES: Mapping[str, Callable[[Range], str]] = {
    "integer": json_numbers.integers,
    "number": json_numbers.numbers,
}


def grammar(text: str) -> str:
    """The schema as GBNF. Raises InvalidRequest (INVALID_GRAMMAR) that names the place."""
    if len(text.encode()) > LIMIT_BYTES:
        raise refused(f"It has more than {LIMIT_BYTES} bytes.")
    try:
        schema = json.loads(text, parse_constant=_no_number)
        json.dumps(schema, ensure_ascii=False).encode()  # half a character could not be spelled
    except (ValueError, RecursionError) as error:
        raise refused(f"It is no JSON: {error}.") from None
    text = _Converter(schema).text()
    try:
        gbnf.check(text)
    except InvalidRequest as error:
        raise refused(f"Written as a grammar: {error.why}") from None
    return text


class _Converter:
    """Each schema becomes a rule; ``where`` is a schema's place as a JSON pointer."""

    def __init__(self, schema: object) -> None:
        self._schema = schema
        self._rules: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def text(self) -> str:
        rules = {ROOT: self._referred("#", "#"), **self._rules, **_BUILT_IN}
        return "".join(f"{name} ::= {rule}\n" for name, rule in rules.items())

    def _rule(self, body: str) -> str:
        name = f"rule-{len(self._rules) + 1}"
        self._rules[name] = body
        return name

    def _referred(self, pointer: str, where: str) -> str:
        """The rule of the schema at ``pointer``: one for all references, also for its own."""
        if pointer not in self._names:
            name = self._names[pointer] = f"schema-{len(self._names) + 1}"
            self._rules[name] = self._visit(self._found(pointer, where), pointer, 0)
        return self._names[pointer]

    def _found(self, pointer: str, where: str) -> object:
        if pointer != "#" and not pointer.startswith("#/"):
            fail(where, f"$ref {pointer!r} does not point into this schema")
        found = self._schema
        for part in pointer.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or key not in found:
                fail(where, f"$ref {pointer!r} points to nothing")
            found = found[key]
        return found

    def _visit(self, schema: object, where: str, depth: int) -> str:
        """The expression of a schema: one that may stand for itself, as a rule's body."""
        if depth > MOST_NESTED:
            fail(where, f"more than {MOST_NESTED} schemas are nested")
        if schema is True:
            return "value"
        if not isinstance(schema, dict):
            fail(where, "a schema is an object, or true")
        check_known(schema, where)
        if "$ref" in schema:
            check_alone(schema, "$ref", where)
            return self._referred(text_of(schema["$ref"], where), where)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                check_alone(schema, keyword, where)
                return self._options(schema[keyword], f"{where}/{keyword}", depth)
        types = types_of(schema, where)
        values = values_of(schema, types, where)
        if values is not None:
            return " | ".join(map(_literal, values))
        return " | ".join(self._typed(name, schema, where, depth) for name in types)

    def _options(self, given: object, where: str, depth: int) -> str:
        options = listed(given, where)
        if not options:
            fail(where, "there is nothing to choose from")
        if where.endswith("/oneOf"):
            self._check_apart(options, where)
        return " | ".join(
            self._rule(self._visit(option, f"{where}/{number}", depth + 1))
            for number, option in enumerate(options)
        )

    def _check_apart(self, options: Sequence[object], where: str) -> None:
        """A grammar takes what any of them allows; so nothing may be allowed by two."""
        apart = Apart(lambda pointer: self._found(pointer, where))
        for number, option in enumerate(options):
            for other, before in enumerate(options[:number]):
                if not apart.are(before, option):
                    fail(
                        where,
                        f"what its schemas {other} and {number} allow is not plainly apart",
                        "Write anyOf, or give them different types, or a required property with "
                        "different const values.",
                    )

    def _typed(self, name: str, schema: Schema, where: str, depth: int) -> str:
        if name == "object" and schema.keys() & {"properties", "required", "additionalProperties"}:
            return self._rule(self._object(schema, where, depth))
        if name == "array":
            return self._rule(self._array(schema, where, depth))
        if name in _RANGES and (found := range_of(schema, where)):
            told = _RANGES[name](found)
            if not told:
                fail(where, f"there is no {name} between its bounds")
            return self._rule(told)
        if name == "string" and "pattern" in schema:
            return self._matching(schema, where)
        if name == "string" and "format" in schema:
            return self._formatted(schema, where)
        if name == "string" and schema.keys() & {"minLength", "maxLength"}:
            bounds = _repeat(*limits(schema, "minLength", "maxLength", where))
            return self._rule(rf'"\"" character{bounds} "\""')
        return name

    def _matching(self, schema: Schema, where: str) -> str:
        for other in ("minLength", "maxLength", "format"):
            if other in schema:
                fix = "Write the length into the pattern, as in ^[a-z]{2,8}$."
                fail(f"{where}/{other}", f"{other!r} beside pattern cannot be said", fix)
        pattern = text_of(schema["pattern"], f"{where}/pattern")
        try:
            return self._rule(rf'"\"" ({json_pattern.expression(pattern)}) "\""')
        except json_pattern.PatternError as error:
            fix = "Use characters, classes, groups, |, repetitions, and ^ and $ at the ends."
            fail(f"{where}/pattern", f"{error}", fix)

    def _formatted(self, schema: Schema, where: str) -> str:
        where = f"{where}/format"
        if schema["format"] not in _FORMATS:
            fix = "Write it as a pattern."
            fail(where, f"the format is none of {', '.join(_FORMATS)}", fix)
        if schema.keys() & {"minLength", "maxLength"}:
            fail(where, "a format has its length already", "Leave the length out.")
        return self._rule(rf'"\"" {schema["format"]} "\""')

    def _array(self, schema: Schema, where: str, depth: int) -> str:
        item = self._rule(self._visit(schema.get("items", True), f"{where}/items", depth + 1))
        least, most = limits(schema, "minItems", "maxItems", where)
        if most == 0:
            return '"[" space "]"'
        more = _repeat(max(least - 1, 0), None if most is None else most - 1)
        some = f'{item} space ("," space {item} space){more}' if most != 1 else f"{item} space"
        return f'"[" space {some} "]"' if least else f'"[" space ({some})? "]"'

    def _object(self, schema: Schema, where: str, depth: int) -> str:
        named = schema.get("properties", {})
        if not isinstance(named, dict):
            fail(f"{where}/properties", "properties is an object")
        names = listed(schema.get("required", []), f"{where}/required")
        required = [text_of(name, f"{where}/required") for name in names]
        properties: dict[str, object] = {**named, **{n: True for n in required if n not in named}}
        if not properties:
            return self._map(schema.get("additionalProperties", True), where, depth)
        members = [
            (self._member(name, value, f"{where}/properties/{name}", depth), name in required)
            for name, value in properties.items()
        ]
        return f'"{{" space {self._members(members)} "}}"'

    def _map(self, values: object, where: str, depth: int) -> str:
        if values is False:
            return '"{" space "}"'
        value = self._rule(self._visit(values, f"{where}/additionalProperties", depth + 1))
        member = f'string space ":" space {value} space'
        return f'"{{" space ({member} ("," space {member})*)? "}}"'

    def _member(self, name: str, schema: object, where: str, depth: int) -> str:
        value = self._rule(self._visit(schema, where, depth + 1))
        return self._rule(f'{_literal(name)} space ":" space {value} space')

    def _members(self, members: Sequence[tuple[str, bool]]) -> str:
        """Those after the first that is written have a comma in front: so the first one decides.
        Each rest of the list is a rule of its own."""
        rests = [""]
        for member, is_required in reversed(members):
            following = f'"," space {member}' if is_required else f'("," space {member})?'
            rests.insert(0, self._rule(f"{following} {rests[0]}"))
        firsts = []
        for number, (member, is_required) in enumerate(members):
            firsts.append(f"{member} {rests[number + 1]}")
            if is_required:
                return f"({' | '.join(firsts)})"
        return f"({' | '.join(firsts)})?"


def _literal(value: object) -> str:
    """A JSON value as a text of GBNF."""
    text = json.dumps(value, ensure_ascii=False)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _repeat(least: int, most: int | None) -> str:
    return f"{{{least},{'' if most is None else most}}}"


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
