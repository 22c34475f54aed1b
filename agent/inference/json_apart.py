"""Whether two schemas allow nothing in common, as far as that is plain to see.

``oneOf`` forbids what two of its schemas allow, and a grammar cannot forbid. So it is taken where
its schemas are apart: by their types, by their constants, or by a property that both require and
whose schemas are apart in turn. Pure.
"""

import json
from collections.abc import Callable, Mapping, Sequence

_MOST_STEPS = 8


class Apart:
    """``found``: what a reference points to."""

    def __init__(self, found: Callable[[str], object]) -> None:
        self._found = found

    def are(self, one: object, other: object, steps: int = 0) -> bool:
        """False also where it cannot be seen."""
        one, other = self._resolved(one), self._resolved(other)
        if one is None or other is None or steps > _MOST_STEPS:
            return False
        for first, second in ((one, other), (other, one)):
            for keyword in ("anyOf", "oneOf"):
                if keyword in first:
                    options = first[keyword]
                    return isinstance(options, list) and all(
                        self.are(option, second, steps + 1) for option in options
                    )
        values, others = _values(one), _values(other)
        if values is not None and others is not None:
            return not {_key(value) for value in values} & {_key(value) for value in others}
        types, other_types = _types(one), _types(other)
        if types is not None and other_types is not None and not types & other_types:
            return True
        return _is_object(one) and _is_object(other) and self._property_tells(one, other, steps)

    def _property_tells(
        self, one: Mapping[str, object], other: Mapping[str, object], steps: int
    ) -> bool:
        required = [_list(schema.get("required")) for schema in (one, other)]
        properties = [schema.get("properties") for schema in (one, other)]
        first, second = properties
        if not isinstance(first, dict) or not isinstance(second, dict):
            return False
        return any(
            isinstance(name, str)
            and name in required[1]
            and name in first
            and name in second
            and self.are(first[name], second[name], steps + 1)
            for name in required[0]
        )

    def _resolved(self, schema: object) -> Mapping[str, object] | None:
        for _ in range(_MOST_STEPS):
            if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
                return schema if isinstance(schema, dict) else None
            schema = self._found(schema["$ref"])
        return None


def _values(schema: Mapping[str, object]) -> Sequence[object] | None:
    """All that it allows, where it lists that."""
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else None


def _types(schema: Mapping[str, object]) -> set[str] | None:
    values = _values(schema)
    if values is not None:
        return {_type_of(value) for value in values}
    given = schema.get("type")
    names = [given] if isinstance(given, str) else _list(given)
    # Each integer is a number as well.
    return {"number" if name == "integer" else str(name) for name in names} or None


def _is_object(schema: Mapping[str, object]) -> bool:
    """Also where only its properties say so: others are not written by it."""
    types = _types(schema)
    return types == {"object"} or (types is None and "properties" in schema)


def _type_of(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", int: "number", float: "number", list: "array", dict: "object"}
    return names.get(type(value), "null")


def _key(value: object) -> str:
    """The same for what JSON schema calls equal: 1 is 1.0, and true is neither."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, list):
        return f"[{','.join(map(_key, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(n)}:{_key(v)}" for n, v in sorted(value.items())) + "}"
    return json.dumps(value)


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
