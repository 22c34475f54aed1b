"""What a body may say: strictly, and with a way out for whatever is refused."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.gateway import errors, fields
from controller.gateway.chat import ChatFields
from controller.gateway.completions import CompletionFields
from controller.gateway.embeddings import EmbeddingFields
from protos.errors import InvalidRequest, NanofleetError, tree

MESSAGES = [{"role": "user", "content": "Hello"}]
CHAT = {"model": "tiny", "messages": MESSAGES}


def refused(body: dict[str, object]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        assert fields.read(ChatFields, {**CHAT, **body}).prompts
    return caught.value


@pytest.mark.parametrize("name", fields.UNSUPPORTED)
def test_what_is_not_supported_is_refused_unless_it_asks_for_nothing(name: str) -> None:
    error = refused({name: {"something": "else"}})
    assert (error.field, error.reason) == (name, errors.UNSUPPORTED_PARAMETER)
    assert error.why
    assert error.fix
    for value in (None, *fields.UNSUPPORTED[name].harmless):
        assert fields.read(ChatFields, {**CHAT, name: value}).model == "tiny"


def test_no_is_not_zero() -> None:
    """Python's 0 == False, 1 == True."""
    assert refused({"presence_penalty": False}).field == "presence_penalty"
    assert refused({"store": 0}).field == "store"
    assert refused({"temperature": True}).field == "temperature"
    assert refused({"stream": 1}).field == "stream"
    assert refused({"max_tokens": "8"}).field == "max_tokens"
    assert fields.read(ChatFields, {**CHAT, "presence_penalty": 0.0, "temperature": 1})


def test_a_top_p_of_nothing_leaves_the_likeliest() -> None:
    assert fields.read(ChatFields, {**CHAT, "top_p": 0}).greedy_or == 0
    assert fields.read(ChatFields, CHAT).greedy_or == 1


def test_a_schema_may_have_nulls_in_it() -> None:
    schema = {"const": None}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    (prompt,) = fields.read(ChatFields, {**CHAT, "response_format": form}).prompts
    assert prompt.json_schema == '{"const": null}'


def test_texts_are_texts() -> None:
    assert fields.read(CompletionFields, {"model": "m", "prompt": "a"}).prompt == ("a",)
    for wrong in ([1, 2], [[1]], [], "", ["a", ""], {"a": 1}, ["a"] * 17):
        with pytest.raises(InvalidRequest) as caught:
            assert fields.read(CompletionFields, {"model": "m", "prompt": wrong}).prompts
        assert caught.value.field == "prompt"
    for wrong in ([], [""], [7]):
        with pytest.raises(InvalidRequest) as caught:
            fields.read(EmbeddingFields, {"model": "m", "input": wrong}).checked()
        assert caught.value.field == "input"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "judge", "content": "x"}, "judge"),
        ({"content": "x"}, "role"),
        ({"role": "user"}, "content"),
        ({"role": "user", "content": []}, "content"),
        ({"role": "user", "content": ["x"]}, "parts like"),
        ({"role": "user", "content": "x", "name": "ada"}, "name"),
        ({"role": "assistant", "content": "x", "tool_calls": [{}]}, "tool_calls"),
    ],
)
def test_a_wrong_message_is_told_by_its_place(message: dict[str, object], said: str) -> None:
    error = refused({"messages": [*MESSAGES, message]})
    assert "messages[1]" in error.what
    assert said in str(error)
    assert error.field == "messages"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
NAMES = st.sampled_from([*ChatFields.model_fields, *fields.UNSUPPORTED, "x"]) | st.text(max_size=5)


@given(st.dictionaries(NAMES, JSON, max_size=5))
def test_whatever_is_sent_is_read_or_refused(body: dict[str, object]) -> None:
    with contextlib.suppress(InvalidRequest):
        assert fields.read(ChatFields, {**CHAT, **body}).prompts


@pytest.mark.parametrize("kind", tree())
def test_every_error_has_a_status_and_a_document(kind: type[NanofleetError]) -> None:
    error = kind("It happened.", why="So.", fix="Do.", field="sampling.top_p", retry_after_s=0.2)
    document = errors.document(error)["error"]
    assert isinstance(document, dict)
    assert document["message"] == "It happened. So. Do."
    assert document["param"] == "top_p"
    assert document["code"] == str(document["code"]).lower()
    status = errors.answer_of(error).status
    assert 400 <= status < 600
    if status in (429, 503):
        assert errors.headers(error)["retry-after"] == "1"


def test_every_type_stands_in_the_table() -> None:
    assert set(errors.ANSWERS) == set(tree())
