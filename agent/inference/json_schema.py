"""A JSON schema as a grammar: every text of the grammar is valid by the schema.

Not the other way round: properties come in the order of the schema, and none but those that it
names. What a grammar cannot promise (``pattern``, ``minimum``, ``oneOf``, …) is refused with its
place. The converter that comes with llama-cpp-python leaves such keywords out without a word, and
writes a backslash in a constant wrongly.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NoReturn, TypeAlias

from agent.inference import gbnf
from agent.inference.failures import invalid_grammar
from agent.inference.gbnf import LIMIT_BYTES, MOST_REPEATS, ROOT
from protos.errors import InvalidRequest

MOST_NESTED = 32

Schema: TypeAlias = Mapping[str, object]

_SPACE = r'(" " | "\n" " "{0,20})?'
_BUILT_IN = {
    "space": _SPACE,
    "character": r'[^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})',
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
_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}
# Which type a schema without one is about.
_HINTS = {"properties": "object", "required": "object", "additionalProperties": "object",
          "items": "array", "minItems": "array", "maxItems": "array",
          "minLength": "string", "maxLength": "string", "format": "string"}  # fmt: skip
_ANNOTATIONS = frozenset({"title", "description", "default", "examples", "deprecated"}) | {
    "readOnly", "writeOnly", "$schema", "$id", "$comment", "$defs", "definitions"}  # fmt: skip
_KEYWORDS = _ANNOTATIONS | frozenset(_HINTS) | {"type", "enum", "const", "anyOf", "$ref"}


def grammar(text: str) -> str:
    """The schema as GBNF. Raises InvalidRequest (INVALID_GRAMMAR) that names the place."""
    if len(text.encode()) > LIMIT_BYTES:
        raise _refused(f"It has more than {LIMIT_BYTES} bytes.")
    try:
        schema = json.loads(text, parse_constant=_no_number)
        json.dumps(schema, ensure_ascii=False).encode()  # half a character could not be spelled
    except (ValueError, RecursionError) as error:
        raise _refused(f"It is no JSON: {error}.") from None
    text = _Converter(schema).text()
    try:
        gbnf.check(text)
    except InvalidRequest as error:
        raise _refused(f"Written as a grammar: {error.why}") from None
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
            _fail(where, f"$ref {pointer!r} does not point into this schema")
        found = self._schema
        for part in pointer.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or key not in found:
                _fail(where, f"$ref {pointer!r} points to nothing")
            found = found[key]
        return found

    def _visit(self, schema: object, where: str, depth: int) -> str:
        """The expression of a schema: one that may stand for itself, as a rule's body."""
        if depth > MOST_NESTED:
            _fail(where, f"more than {MOST_NESTED} schemas are nested")
        if schema is True:
            return "value"
        if not isinstance(schema, dict):
            _fail(where, "a schema is an object, or true")
        for keyword in schema:
            if keyword not in _KEYWORDS:
                _fail(where, f"{keyword!r} cannot be enforced")
        if "$ref" in schema:
            _check_alone(schema, "$ref", where)
            return self._referred(_text(schema["$ref"], where), where)
        if "anyOf" in schema:
            _check_alone(schema, "anyOf", where)
            options = _list(schema["anyOf"], f"{where}/anyOf")
            return " | ".join(
                self._rule(self._visit(option, f"{where}/anyOf/{number}", depth + 1))
                for number, option in enumerate(options)
            )
        types = _types(schema, where)
        if "enum" in schema or "const" in schema:
            return _constants(schema, types, where)
        return " | ".join(self._typed(name, schema, where, depth) for name in types)

    def _typed(self, name: str, schema: Schema, where: str, depth: int) -> str:
        if name == "object" and schema.keys() & {"properties", "required", "additionalProperties"}:
            return self._rule(self._object(schema, where, depth))
        if name == "array":
            return self._rule(self._array(schema, where, depth))
        if name == "string" and "format" in schema:
            return self._formatted(schema, where)
        if name == "string" and schema.keys() & {"minLength", "maxLength"}:
            bounds = _bounds(schema, "minLength", "maxLength", where)
            return self._rule(rf'"\"" character{bounds} "\""')
        return name

    def _formatted(self, schema: Schema, where: str) -> str:
        if schema["format"] not in _FORMATS or schema.keys() & {"minLength", "maxLength"}:
            _fail(where, f"the format is none of {', '.join(_FORMATS)}, or has a length as well")
        return self._rule(rf'"\"" {schema["format"]} "\""')

    def _array(self, schema: Schema, where: str, depth: int) -> str:
        item = self._rule(self._visit(schema.get("items", True), f"{where}/items", depth + 1))
        least, most = _limits(schema, "minItems", "maxItems", where)
        if most == 0:
            return '"[" space "]"'
        more = _repeat(max(least - 1, 0), None if most is None else most - 1)
        some = f'{item} space ("," space {item} space){more}' if most != 1 else f"{item} space"
        return f'"[" space {some} "]"' if least else f'"[" space ({some})? "]"'

    def _object(self, schema: Schema, where: str, depth: int) -> str:
        named = schema.get("properties", {})
        if not isinstance(named, dict):
            _fail(where, "properties is an object")
        required = [_text(name, where) for name in _list(schema.get("required", []), where)]
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


def _types(schema: Schema, where: str) -> Sequence[str]:
    if "type" not in schema:
        hinted = dict.fromkeys(_HINTS[keyword] for keyword in schema if keyword in _HINTS)
        return list(hinted) or ["value"]
    given = schema["type"]
    names = [_text(name, where) for name in (given if isinstance(given, list) else [given])]
    for name in names:
        if name not in _TYPES:
            _fail(where, f"{name!r} is no type")
    if not names:
        _fail(where, "there is no type")
    for keyword in schema:
        if keyword in _HINTS and _HINTS[keyword] not in names:
            _fail(where, f"{keyword!r} is not about {' or '.join(names)}")
    return names


def _constants(schema: Schema, types: Sequence[str], where: str) -> str:
    values = _list(schema["enum"], where) if "enum" in schema else [schema["const"]]
    for value in values:
        if types != ["value"] and not any(_is(value, name) for name in types):
            _fail(where, f"{json.dumps(value)} is not of the type {' or '.join(types)}")
    if schema.keys() & _HINTS.keys() or {"enum", "const"} <= schema.keys():
        _fail(where, "beside given values other keywords cannot be enforced")
    return " | ".join(_literal(value) for value in values)


def _is(value: object, name: str) -> bool:
    return isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def _literal(value: object) -> str:
    """A JSON value as a text of GBNF."""
    text = json.dumps(value, ensure_ascii=False)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _limits(schema: Schema, low: str, high: str, where: str) -> tuple[int, int | None]:
    found: list[int | None] = []
    for keyword in (low, high):
        value = schema.get(keyword)
        if value is not None and not (_is(value, "integer") and int(str(value)) >= 0):
            _fail(where, f"{keyword} is a number from 0")
        found.append(None if value is None else int(str(value)))
        if (found[-1] or 0) > MOST_REPEATS:
            _fail(where, f"{keyword} is above {MOST_REPEATS}")
    least, most = found[0] or 0, found[1]
    if most is not None and least > most:
        _fail(where, f"{low} is more than {high}")
    return least, most


def _bounds(schema: Schema, low: str, high: str, where: str) -> str:
    return _repeat(*_limits(schema, low, high, where))


def _repeat(least: int, most: int | None) -> str:
    return f"{{{least},{'' if most is None else most}}}"


def _check_alone(schema: Schema, keyword: str, where: str) -> None:
    others = [other for other in schema if other != keyword and other not in _ANNOTATIONS]
    if others:
        _fail(where, f"{others[0]!r} beside {keyword} cannot be enforced")


def _list(value: object, where: str) -> list[object]:
    if not isinstance(value, list):
        _fail(where, "a list is expected")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        _fail(where, f"{json.dumps(value)} is no text")
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _fail(where: str, what: str) -> NoReturn:
    raise _refused(f"At {where}: {what}.")


def _refused(why: str) -> InvalidRequest:
    return invalid_grammar(why, field="json_schema")
