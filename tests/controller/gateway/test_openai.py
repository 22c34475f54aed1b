"""The official client, unchanged, against a real service on real devices."""

import asyncio
import json
import math
import time
from collections.abc import Iterator

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam

from tests.controller.gateway.conftest import Service

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Who are you?"}]


@pytest.fixture
def client(service: Service) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{service.url}/v1", api_key="none needed", max_retries=0) as client:
        yield client


def test_models_are_listed_with_their_adapters(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "tiny:persona"]
    one = client.models.retrieve("tiny:persona")
    assert (one.id, one.owned_by) == ("tiny:persona", "lab")
    assert 0 < time.time() - one.created < 3600
    with pytest.raises(openai.NotFoundError, match="Did you mean tiny:persona") as caught:
        client.models.retrieve("persona")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_a_chat(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=8, temperature=0
    )
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert answer.model == "tiny"
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_the_same_streamed(client: OpenAI) -> None:
    def said(stream_options: dict[str, bool]) -> tuple[str, list[object]]:
        stream = client.chat.completions.create(
            model="tiny", messages=HELLO, max_tokens=8, temperature=0, stream=True,
            stream_options=stream_options,  # type: ignore[arg-type]
        )  # fmt: skip
        parts = list(stream)
        assert parts[0].choices[0].delta.role == "assistant"
        assert len({part.id for part in parts}) == 1
        choices = [part.choices[0] for part in parts if part.choices]
        assert [choice.finish_reason for choice in choices[:-1]] == [None] * (len(choices) - 1)
        assert choices[-1].finish_reason
        text = "".join(choice.delta.content or "" for choice in choices)
        return text, [part.usage for part in parts]

    whole = client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=8, temperature=0
    )
    text, usages = said({"include_usage": True})
    assert text == whole.choices[0].message.content
    assert usages[:-1] == [None] * (len(usages) - 1)
    assert whole.usage is not None
    assert usages[-1].completion_tokens == whole.usage.completion_tokens  # type: ignore[attr-defined]
    assert said({"include_usage": False})[1][-1] is None


def test_a_seed_gives_the_same_answer(client: OpenAI, endless: dict[str, int]) -> None:
    """On one device, and with the prompt in its cache each time: then it is the same arithmetic."""

    def answer(seed: int) -> str | None:
        (choice,) = client.chat.completions.create(
            model="tiny@name=kitchen", messages=HELLO, max_tokens=12, temperature=1.5, seed=seed,
            logit_bias=endless,
        ).choices  # fmt: skip
        return choice.message.content

    answer(1)
    first = answer(7)
    assert answer(7) == first
    assert answer(-1) != first


def test_each_of_several_answers_is_its_own(client: OpenAI, endless: dict[str, int]) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=12, temperature=1.5, seed=7, n=3,
        logit_bias=endless,
    )  # fmt: skip
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) == 3
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 36


def test_several_answers_are_streamed_side_by_side(client: OpenAI, endless: dict[str, int]) -> None:
    roles, ends = [0, 0], [0, 0]
    stream = client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=12, seed=7, n=2, stream=True, temperature=1.5,
        logit_bias=endless, stream_options={"include_usage": True},
    )  # fmt: skip
    *parts, last = stream
    for part in parts:
        (choice,) = part.choices
        assert not ends[choice.index], "nothing comes after the end of a choice"
        roles[choice.index] += choice.delta.role == "assistant"
        ends[choice.index] += choice.finish_reason == "length"
    assert roles == ends == [1, 1]
    assert last.usage is not None
    assert last.usage.completion_tokens == 24


def test_log_probabilities(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=6, temperature=0, logprobs=True, top_logprobs=3
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert answer.usage is not None
    assert len(logprobs.content) == answer.usage.completion_tokens
    for token in logprobs.content:
        assert [one.logprob for one in token.top_logprobs] == sorted(
            (one.logprob for one in token.top_logprobs), reverse=True
        )
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob), "greedy"
    data = b"".join(bytes(token.bytes or []) for token in logprobs.content)
    assert (answer.choices[0].message.content or "") in data.decode(errors="replace")


def test_a_stop_text_ends_the_answer(client: OpenAI, endless: dict[str, int]) -> None:
    def answer(stop: list[str]) -> tuple[str, str]:
        (choice,) = client.chat.completions.create(
            model="tiny", messages=HELLO, max_tokens=24, temperature=0, stop=stop,
            logit_bias=endless,
        ).choices  # fmt: skip
        return choice.message.content or "", choice.finish_reason

    text, _ = answer(["never said at all"])
    stop = text[4:7]
    assert answer([stop]) == (text[: text.index(stop)], "stop")


def test_json_by_a_schema(client: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["Pico", "Asha"]}, "age": {"type": "boolean"}},
        "required": ["name", "age"],
    }
    answer = client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=100, seed=1,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "robot", "schema": schema, "strict": True},
        },
    )  # fmt: skip
    found = json.loads(answer.choices[0].message.content or "")
    assert found["name"] in ("Pico", "Asha")
    assert isinstance(found["age"], bool)
    begun = client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=4, response_format={"type": "json_object"}
    )
    assert (begun.choices[0].message.content or "").startswith("{")


def test_a_text_is_gone_on_with(client: OpenAI) -> None:
    both = client.completions.create(
        model="tiny", prompt=["Once upon a time", "Hello"], max_tokens=6, temperature=0, logprobs=2
    )
    assert [choice.index for choice in both.choices] == [0, 1]
    one = client.completions.create(
        model="tiny", prompt="Once upon a time", max_tokens=6, temperature=0, stream=True
    )
    assert "".join(part.choices[0].text for part in one) == both.choices[0].text
    logprobs = both.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.text_offset is not None
    assert len(logprobs.tokens) == len(logprobs.text_offset) == len(logprobs.token_logprobs or [])
    assert logprobs.text_offset[0] == 0
    assert logprobs.text_offset[-1] == len("".join(logprobs.tokens[:-1]))


def test_embeddings_in_both_forms(client: OpenAI) -> None:
    texts = ["Who are you?", "वह कौन है?", "Who are you?"]
    packed = client.embeddings.create(model="tiny", input=texts)  # base64, as the client likes it
    plain = client.embeddings.create(model="tiny", input=texts, encoding_format="float")
    assert [item.index for item in packed.data] == [0, 1, 2]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert math.hypot(*one.embedding) == pytest.approx(1, abs=1e-4)
    assert packed.data[0].embedding == packed.data[2].embedding != packed.data[1].embedding
    assert packed.usage.prompt_tokens == plain.usage.total_tokens > 0


def test_an_adapter_answers_where_it_has_to_be_sent(client: OpenAI) -> None:
    def on(device: str) -> tuple[str | None, str | None]:
        raw = client.chat.completions.with_raw_response.create(
            model=f"tiny:persona@name={device}", messages=HELLO, max_tokens=8, temperature=0
        )
        answer = raw.parse()
        return raw.headers.get("x-nanofleet-device"), answer.choices[0].message.content

    device, text = on("kitchen")
    assert device == "kitchen"
    assert on("porch") == ("porch", text)


def test_the_selector_may_be_a_header(client: OpenAI) -> None:
    for site, device in (("lab", "kitchen"), ("field", "porch")):
        raw = client.chat.completions.with_raw_response.create(
            model="tiny", messages=HELLO, max_tokens=2,
            extra_headers={"X-Nanofleet-Selector": f"site={site}"},
        )  # fmt: skip
        assert raw.headers.get("x-nanofleet-device") == device
    with pytest.raises(openai.NotFoundError, match="does not match site=moon"):
        client.chat.completions.create(model="tiny@site=moon", messages=HELLO)
    with pytest.raises(openai.BadRequestError, match="selector"):
        client.chat.completions.create(model="tiny@site~moon", messages=HELLO)


def test_a_conversation_stays_where_it_began(client: OpenAI) -> None:
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "You are a robot on the porch, and like to talk."},
        {"role": "user", "content": "Who are you?"},
    ]

    def ask(model: str) -> tuple[str | None, str, int]:
        raw = client.chat.completions.with_raw_response.create(
            model=model, messages=messages, max_tokens=4, temperature=0
        )
        answer = raw.parse()
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        cached = answer.usage.prompt_tokens_details.cached_tokens or 0
        text = answer.choices[0].message.content or ""
        return raw.headers.get("x-nanofleet-device"), text, cached

    for device in ("porch", "kitchen"):
        messages[0] = {"role": "system", "content": f"You are a robot of {device}, and talk."}
        del messages[2:]
        where, text, _ = ask(f"tiny@name={device}")
        assert where == device
        messages.append({"role": "assistant", "content": text or "I am."})
        messages.append({"role": "user", "content": "And who am I?"})
        where, _, cached = ask("tiny")
        assert where == device
        assert cached > 0


@pytest.mark.parametrize(
    ("extra", "param", "said"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "calls no tools"),
        ({"presence_penalty": 0.5}, "presence_penalty", "repeat_penalty"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"n": 99}, "n", "less than or equal to 16"),
        ({"extra_body": {"temprature": 1}}, "temprature", "Did you mean `temperature`?"),
        ({"max_tokens": 1 << 40}, "max_tokens", "less than or equal to"),
        ({"extra_body": {"top_k": 1 << 40}}, "top_k", "less than or equal to"),
        ({"logit_bias": {"9" * 20: 1}}, "logit_bias", "token ids"),
        ({"stop": ["a"] * 17}, "stop", "at most 16"),
        ({"stop": [""]}, "stop", "empty"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "token ids"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias", "tokens below 640"),
        ({"top_logprobs": 2}, "top_logprobs", "logprobs: true"),
        ({"response_format": {"type": "xml"}}, "response_format", "json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {
                "name": "x", "schema": {"not": {}}}}},
            "response_format",
            "not",
        ),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "tool", "content": "4", "tool_call_id": "1"}]}, "messages", "user"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
         "messages", "read text"),
        ({"messages": [{"role": "user", "content": "word " * 4000}]}, "prompt", "context has"),
    ],
)  # fmt: skip
def test_what_is_refused_says_why(
    client: OpenAI, extra: dict[str, object], param: str, said: str
) -> None:
    arguments: dict[str, object] = {"model": "tiny", "messages": HELLO, **extra}
    with pytest.raises(openai.BadRequestError, match=said) as caught:
        client.chat.completions.create(**arguments)  # type: ignore[call-overload]
    assert caught.value.type == "invalid_request_error"
    assert caught.value.param == param


def test_what_asks_for_nothing_is_taken(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny", max_completion_tokens=2, user="ada", metadata={"a": "b"}, store=False,
        presence_penalty=0, frequency_penalty=0.0, tool_choice="none", service_tier="auto",
        parallel_tool_calls=True, modalities=["text"], top_p=0,
        messages=[
            {"role": "developer", "content": "Be short."},
            {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
            {"role": "assistant", "content": "Hi.", "refusal": None},
            {"role": "user", "content": "Who are you?"},
        ],
    )  # fmt: skip
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 2


async def test_many_at_once_are_answered_by_both(service: Service, endless: dict[str, int]) -> None:
    async with AsyncOpenAI(base_url=f"{service.url}/v1", api_key="-", max_retries=0) as client:

        async def ask(number: int) -> tuple[str, str | None]:
            raw = await client.chat.completions.with_raw_response.create(
                model="tiny", messages=HELLO, max_tokens=60, seed=number, logit_bias=endless
            )
            return raw.headers["x-nanofleet-device"], raw.parse().choices[0].message.content

        for model in ("tiny@name=kitchen", "tiny@name=porch"):  # both have it in memory now
            await client.chat.completions.create(model=model, messages=HELLO, max_tokens=1)
        answered = await asyncio.gather(*map(ask, range(16)))
    assert {device for device, _ in answered} == {"kitchen", "porch"}
    assert all(text for _, text in answered)
