"""Schemas as grammars, judged by llama.cpp itself: which texts it takes, and which it does not."""

import json

import pytest

from agent.inference import json_schema
from agent.inference.decoder import never
from agent.inference.engine import JsonSchema
from agent.inference.grammar import Grammar
from agent.inference.llama import LlamaEngine
from protos.errors import InvalidRequest

OBJECT = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "string"}, "c": {"type": "null"}},
    "required": ["b"],
}
TREE = {
    "$ref": "#/$defs/tree",
    "$defs": {
        "tree": {
            "type": "object",
            "properties": {"left": {"$ref": "#/$defs/tree"}},
        }
    },
}
EITHER = {"anyOf": [{"const": {"a": [1, "x\n"]}}, {"type": "array", "items": {"type": "boolean"}}]}


def takes(engine: LlamaEngine, schema: object, text: str) -> bool:
    """Whether the text is a whole answer by the schema."""
    grammar = Grammar(JsonSchema(json.dumps(schema)), engine.vocabulary, never)
    try:
        for token in engine.vocabulary.plain(text):
            if engine.vocabulary.bytes_of(token) and not grammar.permits(token):
                return False
            grammar.take(token)
        return grammar.is_complete
    finally:
        grammar.close()


@pytest.mark.parametrize(
    ("schema", "texts", "others"),
    [
        (OBJECT, ['{"b": "x"}', '{"a":-1,"b":"","c":null}', '{\n  "b": "é\\n" }'],
         ['{"a":1}', '{"b":1}', '{"b":"x","a":1}', '{"b":"x"', '{"b":"x","d":1}', '{,"b":"x"}']),
        (TREE, ["{}", '{"left": {"left": {}}}'], ['{"left": 1}', '{"right": {}}']),
        (EITHER, ['{"a": [1, "x\\n"]}', "[true, false]", "[]"], ['{"a": [1]}', "[1]"]),
        ({"type": "array", "minItems": 1, "maxItems": 2, "items": {"enum": ["x", 2, 'q"']}},
         ['["x"]', '[2, "q\\""]'], ["[]", '["x","x","x"]', '["y"]']),
        ({"type": "array", "maxItems": 1}, ["[]", "[null]"], ["[1,2]"]),
        ({"type": "array", "maxItems": 0}, ["[]"], ["[1]"]),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ['"ab"', '"abc"'], ['"a"', '"abcd"']),
        ({"type": "string", "format": "date"}, ['"2025-02-28"', '"2024-12-31"'],
         ['"2025-02-30"', '"2025-04-31"', '"2025-13-01"', '"25-1-1"']),
        ({"type": ["number", "null"]}, ["-0.5e-3", "12", "null"], ["01", ".5", '"1"', "+1"]),
        ({"type": "object", "additionalProperties": {"type": "integer"}},
         ["{}", '{"x": 1, "y": 2}'], ['{"x": "1"}', '{"x"}']),
        ({"type": "object", "required": ["any"]}, ['{"any": [1, {"x": null}]}'], ["{}"]),
        ({"title": "anything", "description": "at all"}, ["1", '{"a": [true]}', '"x"'], ["x"]),
        ({"enum": [True, None], "type": ["boolean", "null"]}, ["true", "null"], ["false"]),
        (True, ["[]"], [""]),
    ],
)  # fmt: skip
def test_what_a_schema_takes(
    engine: LlamaEngine, schema: object, texts: list[str], others: list[str]
) -> None:
    for text in texts:
        assert takes(engine, schema, text), text
        json.loads(text)
    for text in others:
        assert not takes(engine, schema, text), text


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "integer", "minimum": 3}, "At #: 'minimum' cannot be enforced"),
        ({"properties": {"a": {"pattern": "x"}}}, "At #/properties/a: 'pattern'"),
        ({"oneOf": [{"type": "null"}]}, "'oneOf'"),
        ({"anyOf": [{"type": "null"}], "type": "null"}, "'type' beside anyOf"),
        ({"type": "text"}, "'text' is no type"),
        ({"type": "string", "items": {}}, "'items' is not about string"),
        ({"type": "string", "format": "email"}, "the format is none of"),
        ({"type": "array", "minItems": 3, "maxItems": 2}, "minItems is more than maxItems"),
        ({"type": "array", "maxItems": 10**6}, "maxItems is above"),
        ({"type": "array", "minItems": -1}, "minItems is a number from 0"),
        ({"type": "array", "minItems": True}, "minItems is a number from 0"),
        ({"type": "integer", "enum": ["x"]}, '"x" is not of the type integer'),
        ({"const": 1, "minLength": 2}, "is not of the type string"),
        ({"$ref": "#/$defs/none"}, "points to nothing"),
        ({"$ref": "https://example.org/schema"}, "does not point into this schema"),
        ({"$ref": "#"}, "A rule begins with itself"),
        ({"type": "object", "properties": {"a": False}}, "a schema is an object, or true"),
        ({"type": "object", "required": "a"}, "a list is expected"),
        ({"type": "object", "required": [1]}, "1 is no text"),
        ([1], "a schema is an object, or true"),
    ],
)
def test_what_cannot_be_enforced_is_refused_with_its_place(schema: object, why: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        json_schema.grammar(json.dumps(schema))
    assert (raised.value.reason, raised.value.field) == ("INVALID_GRAMMAR", "json_schema")
    assert why in raised.value.why


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "It is no JSON"),
        ('{"const": NaN}', "NaN is no number of JSON"),
        ('{"const": "\\ud800"}', "It is no JSON"),
        ("[" * 100_000, "bytes"),
        ("[" * 50_000, "It is no JSON"),
        ('{"items":' * 50 + "true" + "}" * 50, "more than 32 schemas are nested"),
    ],
)
def test_a_text_that_is_no_schema(text: str, why: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        json_schema.grammar(text)
    assert raised.value.field == "json_schema"
    assert why in raised.value.why
