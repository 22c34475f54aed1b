"""Schemas at random, valid instances of them, and a judge of its own: what JSON schema says, in the
plainest words, with none of the product's code."""

import random
import re
from collections.abc import Mapping
from typing import Any

# Patterns, and texts that match.
PATTERNS = {
    r"^[a-z]{2,4}$": ["ab", "wxyz"],
    r"^(?:\d{3}-)?\d{4}$": ["123-4567", "0000"],
    r"^(red|green|blue)( light)?$": ["red", "blue light"],
    r'^["\\/]+$': ['"', '\\"/'],
    r"^[^x]\w\S$": ["a_!", "é1z"],
    r"sea": ["sea", "the sea is wide"],
}


def schema(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    kinds = ["text", "pattern", "whole", "number", "enum", "const", "boolean"]
    if depth < 3:
        kinds += ["array", "object", "object", "any", "one", "ref"]
    match rng.choice(kinds):
        case "text":
            least = rng.randint(0, 3)
            return {"type": "string", "minLength": least, "maxLength": least + rng.randint(0, 4)}
        case "pattern":
            return {"type": "string", "pattern": rng.choice(list(PATTERNS))}
        case "whole":
            least = rng.randint(-1000, 1000)
            return {
                "type": "integer",
                rng.choice(["minimum", "exclusiveMinimum"]): least,
                rng.choice(["maximum", "exclusiveMaximum"]): least + rng.randint(2, 3000),
            }
        case "number":
            least = rng.randint(-400, 400) / 4
            return {"type": "number", "minimum": least, "exclusiveMaximum": least + 0.25}
        case "enum":
            return {"enum": rng.sample(["a", 'q"', 1, 2.5, None, True, [1, "x"], {"k": "v"}], 3)}
        case "const":
            return {"const": rng.choice(["\\n", "é", 7, {"a": [None]}])}
        case "array":
            least = rng.randint(0, 2)
            items = schema(rng, depth + 1)
            most = least + rng.randint(0, 2)
            return {"type": "array", "items": items, "minItems": least, "maxItems": most}
        case "object":
            names = rng.sample(["name", "a b", "legs", 'q"', "é"], rng.randint(1, 4))
            return {
                "type": "object",
                "properties": {name: schema(rng, depth + 1) for name in names},
                "required": [name for name in names if rng.random() < 0.6],
                "additionalProperties": False,
            }
        case "any":
            return {"anyOf": [schema(rng, depth + 1) for _ in range(2)]}
        case "one":
            return {
                "oneOf": [
                    {
                        "type": "object",
                        "properties": {"kind": {"const": kind}, "of": schema(rng, depth + 1)},
                        "required": ["kind", "of"],
                    }
                    for kind in ("x", "y")
                ]
            }
        case "ref":
            return {"$ref": "#/$defs/list"}
    return {"type": "boolean"}


# A list in a list, to any depth.
DEFS = {
    "list": {
        "type": "object",
        "properties": {"head": {"type": "boolean"}, "tail": {"$ref": "#/$defs/list"}},
        "required": ["head"],
        "additionalProperties": False,
    }
}


def instance(rng: random.Random, of: Mapping[str, Any], depth: int = 0) -> Any:
    """A valid value, with its properties in the schema's order."""
    if "$ref" in of:
        return instance(rng, DEFS["list"], depth)
    for keyword in ("anyOf", "oneOf"):
        if keyword in of:
            return instance(rng, rng.choice(of[keyword]), depth)
    if "const" in of:
        return of["const"]
    if "enum" in of:
        return rng.choice(of["enum"])
    match of["type"]:
        case "string" if "pattern" in of:
            return rng.choice(PATTERNS[of["pattern"]])
        case "string":
            size = rng.randint(of["minLength"], of["maxLength"])
            return "".join(rng.choice('ab"\\é€') for _ in range(size))
        case "integer":
            least = of["minimum"] if "minimum" in of else of["exclusiveMinimum"] + 1
            most = of["maximum"] if "maximum" in of else of["exclusiveMaximum"] - 1
            return rng.choice([least, most, rng.randint(least, most)])
        case "number":
            return rng.choice([of["minimum"], of["minimum"] + rng.randint(1, 24) / 100])
        case "array":
            size = rng.randint(of["minItems"], of["maxItems"])
            return [instance(rng, of["items"], depth + 1) for _ in range(size)]
        case "object":
            return {
                name: instance(rng, value, depth + 1)
                for name, value in of["properties"].items()
                if name in of["required"] or (depth < 4 and rng.random() < 0.5)
            }
    return rng.random() < 0.5


def is_valid(value: Any, of: Mapping[str, Any]) -> bool:
    if "$ref" in of:
        return is_valid(value, DEFS[of["$ref"].rpartition("/")[2]])
    if "anyOf" in of:
        return any(is_valid(value, option) for option in of["anyOf"])
    if "oneOf" in of:
        return sum(is_valid(value, option) for option in of["oneOf"]) == 1
    if "enum" in of or "const" in of:
        listed = of.get("enum", [of.get("const")])
        return any(value == one and type(value) is type(one) for one in listed)
    match of["type"]:
        case "string":
            return (
                isinstance(value, str)
                and of.get("minLength", 0) <= len(value) <= of.get("maxLength", 1000)
                and re.search(of.get("pattern", ""), value) is not None
            )
        case "integer" | "number":
            is_number = type(value) is int or (of["type"] == "number" and type(value) is float)
            return (
                is_number
                and of.get("minimum", value) <= value <= of.get("maximum", value)
                and ("exclusiveMinimum" not in of or value > of["exclusiveMinimum"])
                and ("exclusiveMaximum" not in of or value < of["exclusiveMaximum"])
            )
        case "array":
            is_sized = isinstance(value, list) and of["minItems"] <= len(value) <= of["maxItems"]
            return is_sized and all(is_valid(item, of["items"]) for item in value)
        case "object":
            named = of["properties"]
            return (
                isinstance(value, dict)
                and set(of["required"]) <= value.keys()
                and (of.get("additionalProperties", True) or value.keys() <= named.keys())
                and all(
                    is_valid(item, named[name]) for name, item in value.items() if name in named
                )
            )
    return isinstance(value, bool)
