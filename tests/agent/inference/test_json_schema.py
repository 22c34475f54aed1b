"""Schemas as grammars, judged by llama.cpp itself: which texts it takes, and which it does not."""

import json
import random

import pytest

from agent.inference import json_schema
from agent.inference.decoder import never
from agent.inference.engine import Finish, JsonSchema, Request, Sampling
from agent.inference.grammar import Grammar
from agent.inference.llama import LlamaEngine
from protos.errors import InvalidRequest
from tests.agent.inference import schemas
from tests.agent.inference.engine_contract import ask

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


SHAPES = {
    "oneOf": [{"$ref": "#/$defs/circle"}, {"$ref": "#/$defs/square"}],
    "$defs": {
        "circle": {
            "properties": {"kind": {"const": "circle"}, "r": {"type": "number", "minimum": 0}},
            "required": ["kind", "r"],
            "additionalProperties": False,
        },
        "square": {
            "type": "object",
            "properties": {"kind": {"enum": ["square"]}},
            "required": ["kind"],
        },
    },
}


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
        ({"type": "string", "pattern": r'^[A-Z]{2}-\d+("|\\|é)?$'},
         ['"AB-1"', '"XY-42\\""', '"XY-4\\\\"', '"AA-0é"'], ['"ab-1"', '"AB-"', '"AB-1x"', "1"]),
        ({"pattern": "(?:ab|c+)x"}, ['"abx"', '"__cccx__"'], ['"ab"', '"x"']),
        ({"pattern": "^a|b$"}, ['"ab"', '"a"', '"anything"', '"xxb"'], ['"xa"', '"bx"']),
        ({"pattern": r"^[^\sa-c]\S[\d\].-]$"},
         ['"dx9"', '"zz]"', '"zz-"'], ['"ax9"', '"d 9"', '"dxx"']),
        ({"type": "integer", "minimum": -3, "maximum": 12},
         ["-3", "-1", "0", "9", "10", "12"], ["-4", "13", "-0", "03", "1.0"]),
        ({"type": "integer", "exclusiveMinimum": 99, "exclusiveMaximum": 2000},
         ["100", "1999"], ["99", "2000"]),
        ({"minimum": 0, "exclusiveMaximum": 1}, ["0", "0.5", "0.999"], ["1", "-0.1", "1.0"]),
        ({"type": "number", "minimum": -1.5, "maximum": 2.25},
         ["-1.5", "-1.4999", "-0.1", "0", "0.1", "2", "2.2", "2.25", "2.250"],
         ["-1.51", "2.26", "2.3", "3", "-2"]),
        ({"oneOf": [{"type": "integer"}, {"enum": ["x"]}, {"type": "null"}]},
         ["1", '"x"', "null"], ['"y"', "true"]),
        (SHAPES, ['{"kind": "circle", "r": 1}', '{"kind": "square"}'],
         ['{"kind": "circle"}', '{"kind": "square", "r": 1}', '{"kind": "line"}']),
        ({"type": "string", "maxLength": 1}, ['"\\u00e9"'], ['"\\ud83d\\ude00"', '"\\ud800"']),
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
        ({"type": "integer", "multipleOf": 3}, "At #/multipleOf: 'multipleOf' cannot be said"),
        ({"properties": {"a": {"not": {}}}}, "At #/properties/a/not: 'not'"),
        ({"pattern": "(?=a)b"}, "At #/pattern: at its character 1, what looks ahead"),
        ({"pattern": r"a\b"}, r"at its character 2, \b cannot be said"),
        ({"pattern": "a(^b)"}, "at its character 3, '^' cannot stand here"),
        ({"pattern": "(a$|b)"}, "at its character 3, an anchor inside parentheses"),
        ({"pattern": "a$b"}, "nothing can follow $"),
        ({"pattern": "(a"}, "the ( has no )"),
        ({"pattern": "a)"}, "the ) has no ("),
        ({"pattern": "[a"}, "the [ has no ]"),
        ({"pattern": "[]"}, "the class is empty"),
        ({"pattern": "[z-a]"}, "the range is none"),
        ({"pattern": "*"}, "'*' cannot stand here"),
        ({"pattern": "a{2000}"}, "more than 1000 repetitions"),
        ({"pattern": "a{3,1}"}, "3 is more than 1"),
        ({"pattern": "\\x4"}, "2 hexadecimal digits"),
        ({"pattern": "\x01"}, "a control character is all"),
        ({"pattern": "a\\"}, "escapes nothing"),
        ({"pattern": "(a?)*"}, "repeated without end"),
        ({"pattern": "a", "maxLength": 3}, "At #/maxLength: 'maxLength' beside pattern"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "there is no integer between its bounds"),
        ({"type": "integer", "minimum": 0.2, "maximum": 0.8}, "there is no integer"),
        ({"type": "number", "exclusiveMinimum": 5, "maximum": 5}, "there is no number between"),
        ({"minimum": 1, "exclusiveMinimum": 1}, "At #/exclusiveMinimum: it stands beside"),
        ({"minimum": "1"}, "At #/minimum: a number is expected"),
        ({"minimum": 1e30}, "At #/minimum: the bound has too many digits"),
        ({"type": "string", "minimum": 1}, "'minimum' is not about string"),
        (
            {"oneOf": [{"type": "integer"}, {"type": "number"}]},
            "At #/oneOf: what its schemas 0 and 1",
        ),
        ({"oneOf": [{"const": 1}, {"const": 1.0}]}, "not plainly apart"),
        ({"oneOf": []}, "At #/oneOf: there is nothing to choose from"),
        ({"enum": []}, "At #/enum: there is nothing to choose from"),
        ({"anyOf": [{"type": "null"}], "type": "null"}, "At #/type: 'type' beside anyOf"),
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


def test_valid_instances_of_random_schemas_are_taken(engine: LlamaEngine) -> None:
    rng = random.Random(1)
    for _ in range(150):
        schema = {**schemas.schema(rng), "$defs": schemas.DEFS}
        for _ in range(3):
            value = schemas.instance(rng, schema)
            assert schemas.is_valid(value, schema), (value, schema)
            text = json.dumps(value, ensure_ascii=False)
            assert takes(engine, schema, text), (text, schema)


def test_what_is_generated_by_random_schemas_is_valid(engine: LlamaEngine) -> None:
    """At random, and with a liking for what ends a text, a list and an object."""
    rng = random.Random(2)
    enders = {engine.vocabulary.plain(text)[-1]: 4.0 for text in ('"', "}", "]")}
    ended = 0
    for seed in range(150):
        schema = {**schemas.schema(rng), "$defs": schemas.DEFS}
        sampling = Sampling(temperature=2.0, seed=seed, logit_bias=enders)
        grammar = JsonSchema(json.dumps(schema))
        answer = ask(engine, Request("x", max_tokens=120, sampling=sampling, grammar=grammar))
        # llama.cpp's grammars take bytes that are no character; only a model at random says them.
        if answer.finish is Finish.STOP and "\ufffd" not in answer.text:
            ended += 1
            assert schemas.is_valid(json.loads(answer.text), schema), (answer.text, schema)
    assert ended > 100
