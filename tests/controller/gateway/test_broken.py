"""What a client sees when a device, its worker, the client itself or the service goes away."""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import httpx2
import openai
import psutil
import pytest
from openai import AsyncOpenAI, AsyncStream
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

from controller import Fleet
from tests.controller.gateway.conftest import Pair, Service, serving

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Who are you?"}]
OTHER = {"kitchen": "porch", "porch": "kitchen"}
LONG = 1900


@pytest.fixture
async def client(service: Service) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{service.url}/v1", api_key="-", max_retries=0) as client:
        yield client


async def stream(
    client: AsyncOpenAI, model: str, endless: dict[str, int]
) -> AsyncStream[ChatCompletionChunk]:
    """A long answer, once its first words are here."""
    begun = await client.chat.completions.create(
        model=model, messages=HELLO, max_tokens=LONG, seed=1, stream=True, logit_bias=endless
    )
    await anext(begun)
    return begun


async def rest(begun: AsyncStream[ChatCompletionChunk]) -> str | None:
    """Why it ended."""
    finish = None
    async for part in begun:
        finish = part.choices[0].finish_reason or finish
    return finish


async def answered_by(client: AsyncOpenAI, model: str = "tiny") -> str:
    raw = await client.chat.completions.with_raw_response.create(
        model=model, messages=HELLO, max_tokens=2
    )
    return raw.headers["x-nanofleet-device"]


def worker_of(pair: Pair, device: str) -> psutil.Process:
    children = psutil.Process(pair.agents[device].pid).children(recursive=True)
    return next(child for child in children if "agent.inference.worker" in child.cmdline())


@contextmanager
def away(pair: Pair, device: str) -> Iterator[None]:
    """The agent was killed just now, and is started again in the end."""
    pair.agents[device].kill()
    try:
        yield
    finally:
        pair.agents[device].start()


@pytest.mark.parametrize("device", ["kitchen", "porch"])
async def test_a_device_dies_in_the_middle_of_an_answer(
    pair: Pair, client: AsyncOpenAI, endless: dict[str, int], device: str
) -> None:
    begun = await stream(client, f"tiny@name={device}", endless)
    with away(pair, device):
        with pytest.raises(openai.APIError, match=f"Cannot reach device {device}") as caught:
            await rest(begun)
        assert caught.value.type == "server_error"
        assert caught.value.code == "unreachable"
        # The conversation began there; it goes on elsewhere.
        assert await answered_by(client) == OTHER[device]
        with pytest.raises(openai.InternalServerError, match="can be reached") as refused:
            await answered_by(client, f"tiny@name={device}")
        assert refused.value.status_code == 503
    assert await answered_by(client, f"tiny@name={device}") == device


async def test_a_device_that_is_away_before_the_first_word_costs_nothing(
    pair: Pair, client: AsyncOpenAI
) -> None:
    """The service does not know yet: it has seen it a moment ago."""
    await answered_by(client, "tiny@name=kitchen")
    await answered_by(client, "tiny@name=kitchen")  # its conversation is there
    with away(pair, "kitchen"):
        assert await answered_by(client) == "porch"


async def test_a_worker_dies_in_the_middle_of_an_answer(
    pair: Pair, client: AsyncOpenAI, endless: dict[str, int]
) -> None:
    begun = await stream(client, "tiny@name=porch", endless)
    worker_of(pair, "porch").kill()
    with pytest.raises(openai.APIError) as caught:
        await rest(begun)
    assert caught.value.type == "server_error"
    assert caught.value.code == "worker_failed"
    assert await answered_by(client, "tiny@name=porch") == "porch", "a new worker answers"


async def test_a_device_that_has_enough_to_do_says_when_to_come_back(
    client: AsyncOpenAI, endless: dict[str, int]
) -> None:
    async def ask(seed: int) -> None:
        await client.chat.completions.create(
            model="tiny@name=kitchen", messages=HELLO, max_tokens=100, seed=seed, n=16,
            logit_bias=endless,
        )  # fmt: skip

    answers = await asyncio.gather(*map(ask, range(4)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, openai.RateLimitError)]
    assert refused, "64 are more than wait in one queue"
    assert all(int(error.response.headers["retry-after"]) >= 1 for error in refused)
    assert {error.code for error in refused} == {"rate_limit_exceeded"}
    assert all(answer is None or answer in refused for answer in answers)


async def test_a_client_that_leaves_costs_the_device_nothing_more(
    pair: Pair, client: AsyncOpenAI, service: Service, endless: dict[str, int]
) -> None:
    begun = await stream(client, "tiny@name=kitchen", endless)
    await begun.close()
    line = await asyncio.to_thread(service.request, "/v1/chat/completions")
    while not line.get("left"):
        line = await asyncio.to_thread(service.request, "/v1/chat/completions")
    assert (line["device"], line["model"]) == ("kitchen", "tiny")
    async with Fleet.open(pair.home) as fleet:
        deadline_s = time.monotonic() + 30
        while (status := await fleet.status("kitchen")).device is None or status.device.requests:
            assert time.monotonic() < deadline_s


async def test_one_that_leaves_before_the_first_word(
    pair: Pair, service: Service, endless: dict[str, int]
) -> None:
    body = {"model": "tiny@name=kitchen", "messages": HELLO, "max_tokens": LONG, "n": 8,
            "logit_bias": endless}  # fmt: skip
    data = json.dumps(body).encode()
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as leaving:
        leaving.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
            b"application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data)
        )
        async with Fleet.open(pair.home) as fleet:
            while (status := await fleet.status("kitchen")).device is None or not (
                status.device.requests
            ):
                pass
            leaving.close()
            deadline_s = time.monotonic() + 30
            while (status := await fleet.status("kitchen")).device is None or (
                status.device.requests
            ):
                assert time.monotonic() < deadline_s


async def test_a_service_that_is_ended_ends_its_answers(
    pair: Pair, endless: dict[str, int]
) -> None:
    with serving(pair.home) as service:
        async with AsyncOpenAI(base_url=f"{service.url}/v1", api_key="-", max_retries=0) as client:
            begun = await stream(client, "tiny", endless)
            os.kill(service.process.pid, signal.SIGTERM)
            assert await rest(begun) == "length", "to its end"
            with pytest.raises(openai.APIConnectionError):
                await answered_by(client)
            assert await asyncio.to_thread(service.process.wait, 30) == 0


async def test_one_that_is_ended_twice_does_not_wait(pair: Pair, endless: dict[str, int]) -> None:
    with serving(pair.home) as service:
        async with AsyncOpenAI(base_url=f"{service.url}/v1", api_key="-", max_retries=0) as client:
            stopped = worker_of(pair, "kitchen")
            begun = await stream(client, "tiny@name=kitchen", endless)
            stopped.suspend()
            try:
                for _ in range(2):
                    os.kill(service.process.pid, signal.SIGINT)
                    await asyncio.to_thread(_settled, service)
                with pytest.raises((openai.APIError, httpx2.RemoteProtocolError)):
                    await rest(begun)
                assert await asyncio.to_thread(service.process.wait, 20) == 0
            finally:
                stopped.resume()


def _settled(service: Service) -> None:
    """Its signal was seen: the service does not listen any more."""
    host, port = service.url.removeprefix("http://").split(":")
    while True:
        try:
            socket.create_connection((host, int(port))).close()
        except ConnectionRefusedError:
            return
