"""The keywords of a JSON schema, read strictly: which there are, and what their values may be.

What is wrong, or cannot be said in a grammar, is refused with the keyword's place (a JSON pointer)
and what to write instead.
"""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import NoReturn, TypeAlias

from agent.inference.failures import invalid_grammar
from agent.inference.gbnf import MOST_REPEATS
from agent.inference.json_numbers import Range, is_told
from protos.errors import InvalidRequest

Schema: TypeAlias = Mapping[str, object]

_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}
# Which types a keyword is about: of the first, when the schema names none.
_NUMBERS = ("number", "integer")
_HINTS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("properties", "required", "additionalProperties"), ("object",)),
    **dict.fromkeys(("items", "minItems", "maxItems"), ("array",)),
    **dict.fromkeys(("minLength", "maxLength", "format", "pattern"), ("string",)),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _NUMBERS),
}
ANNOTATIONS = frozenset({"title", "description", "default", "examples", "deprecated"}) | {
    "readOnly", "writeOnly", "$schema", "$id", "$comment", "$defs", "definitions"}  # fmt: skip
_BOUNDS = frozenset(keyword for keyword, types in _HINTS.items() if types == _NUMBERS)
_KEYWORDS = ANNOTATIONS | frozenset(_HINTS) | {"type", "enum", "const", "anyOf", "oneOf", "$ref"}
_LEAVE_OUT = "Leave it out, and check the answer for it yourself."
_INSTEAD = {
    "not": "Say what may come: by enum, or by the types and properties that are allowed.",
    "allOf": "Write its schemas as one.",
    "if": "Write one schema for each case, below anyOf.",
    "prefixItems": "Make it an object: a property for each place.",
    "patternProperties": "Name the properties, or use additionalProperties.",
    "dependentRequired": "Write one schema for each case, below anyOf.",
    "$dynamicRef": "Use $ref.",
}


def check_known(schema: Schema, where: str) -> None:
    for keyword in schema:
        if keyword not in _KEYWORDS:
            what = f"{keyword!r} cannot be said in a grammar"
            fail(f"{where}/{keyword}", what, _INSTEAD.get(keyword, _LEAVE_OUT))


def check_alone(schema: Schema, keyword: str, where: str) -> None:
    others = [other for other in schema if other != keyword and other not in ANNOTATIONS]
    if others:
        what = f"{others[0]!r} beside {keyword} cannot be said"
        fail(f"{where}/{others[0]}", what, f"Move it into what {keyword} names.")


def types_of(schema: Schema, where: str) -> Sequence[str]:
    if "type" not in schema:
        hinted = dict.fromkeys(_HINTS[keyword][0] for keyword in schema if keyword in _HINTS)
        return list(hinted) or ["value"]
    given = schema["type"]
    names = [text_of(name, where) for name in (given if isinstance(given, list) else [given])]
    for name in names:
        if name not in _TYPES:
            fail(f"{where}/type", f"{name!r} is no type", f"Types are {', '.join(_TYPES)}.")
    if not names:
        fail(f"{where}/type", "there is no type")
    for keyword in schema:
        if keyword in _HINTS and not set(_HINTS[keyword]) & set(names):
            what = f"{keyword!r} is not about {' or '.join(names)}"
            fail(f"{where}/{keyword}", what, f"Leave it out, or allow {_HINTS[keyword][0]}.")
    return names


def values_of(schema: Schema, types: Sequence[str], where: str) -> Sequence[object] | None:
    """All that it allows, where it lists that."""
    if not schema.keys() & {"enum", "const"}:
        return None
    keyword = "enum" if "enum" in schema else "const"
    values = listed(schema["enum"], f"{where}/enum") if keyword == "enum" else [schema["const"]]
    where = f"{where}/{keyword}"
    if not values:
        fail(where, "there is nothing to choose from")
    for value in values:
        if types != ["value"] and not any(_is(value, name) for name in types):
            what = f"{json.dumps(value)} is not of the type {' or '.join(types)}"
            fail(where, what, "Leave it out, or allow its type.")
    if schema.keys() & _HINTS.keys() or {"enum", "const"} <= schema.keys():
        fix = "List the values that remain, and leave the other keywords out."
        fail(where, "beside given values other keywords cannot be said", fix)
    return values


def range_of(schema: Schema, where: str) -> Range | None:
    """Between which numbers, if it says so."""
    if not schema.keys() & _BOUNDS:
        return None
    least, without_least = _bound(schema, "minimum", "exclusiveMinimum", where)
    most, without_most = _bound(schema, "maximum", "exclusiveMaximum", where)
    everything = Range()
    return Range(
        everything.least if least is None else least,
        everything.most if most is None else most,
        without_least,
        without_most,
    )


def _bound(schema: Schema, keyword: str, exclusive: str, where: str) -> tuple[Decimal | None, bool]:
    """The bound, and whether it is itself left out."""
    if keyword in schema and exclusive in schema:
        fail(f"{where}/{exclusive}", f"it stands beside {keyword!r}", "Leave one of them out.")
    keyword = exclusive if exclusive in schema else keyword
    if keyword not in schema:
        return None, False
    value = schema[keyword]
    if not _is(value, "number"):
        fail(f"{where}/{keyword}", "a number is expected")
    bound = Decimal(str(value))
    if not is_told(bound):
        fix = "Choose one of 12 digits at most."
        fail(f"{where}/{keyword}", "the bound has too many digits", fix)
    return bound, keyword == exclusive


def limits(schema: Schema, low: str, high: str, where: str) -> tuple[int, int | None]:
    found: list[int | None] = []
    for keyword in (low, high):
        value = schema.get(keyword)
        if value is not None and not (_is(value, "integer") and int(str(value)) >= 0):
            fail(f"{where}/{keyword}", f"{keyword} is a number from 0")
        found.append(None if value is None else int(str(value)))
        if (found[-1] or 0) > MOST_REPEATS:
            fail(f"{where}/{keyword}", f"{keyword} is above {MOST_REPEATS}", "Choose less.")
    least, most = found[0] or 0, found[1]
    if most is not None and least > most:
        fail(f"{where}/{low}", f"{low} is more than {high}")
    return least, most


def _is(value: object, name: str) -> bool:
    return isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def listed(value: object, where: str) -> list[object]:
    if not isinstance(value, list):
        fail(where, "a list is expected")
    return value


def text_of(value: object, where: str) -> str:
    if not isinstance(value, str):
        fail(where, f"{json.dumps(value)} is no text")
    return value


def fail(where: str, what: str, fix: str = "Mend it, and send the request again.") -> NoReturn:
    raise refused(f"At {where}: {what}.", fix)


def refused(why: str, fix: str = "Mend it, and send the request again.") -> InvalidRequest:
    return invalid_grammar(why, field="json_schema", fix=fix)
