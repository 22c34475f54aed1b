"""Answers in words: from a request's fields to the fleet's question, and from what the devices say
to the one document, or the events, that a client reads.

What chat and completions differ in is a ``Voice``.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from controller import Fleet
from controller.gateway.fields import Generation
from controller.gateway.models import Model
from controller.web.exchange import Exchange, Json
from protos.nanofleet.v1 import inference_pb2
from protos.nanofleet.v1.inference_pb2 import GenerateResponse, TokenLogprob

T = TypeVar("T")
Said = tuple[str, GenerateResponse]

# On which device; a proxy's log may want it, too.
DEVICE_HEADER = "x-nanofleet-device"

# Characters of a text, to find another one with the same beginning by.
_PART = 512

_FINISHES: Mapping[int, str] = {
    inference_pb2.FINISH_REASON_STOP: "stop",
    inference_pb2.FINISH_REASON_LENGTH: "length",
    # Cut off, as by max_tokens; the API has no word for these.
    inference_pb2.FINISH_REASON_LOOP: "length",
    inference_pb2.FINISH_REASON_CANCELED: "length",
}


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is answered: a text to go on with, or messages of (role, content); and in which form."""

    text: str = ""
    messages: Sequence[tuple[str, str]] = ()
    json_schema: str = ""
    top_logprobs: int | None = None
    max_tokens: int = 0

    @property
    def parts(self) -> list[str]:
        """What the device reads, for who looks for the same beginning."""
        if self.messages:
            return [part for message in self.messages for part in message]
        return [self.text[at : at + _PART] for at in range(0, len(self.text), _PART)]


class Voice(Protocol):
    """How an endpoint says it: fields of a choice, without its number and finish_reason."""

    prefix: str
    whole_object: str
    part_object: str

    def opening(self) -> Json | None:
        """Of a choice's first event; None: there is none without text."""

    def part(self, text: str, logprobs: Json | None) -> Json: ...
    def closing(self) -> Json: ...
    def whole(self, text: str, logprobs: Json | None) -> Json: ...
    def logprobs(self, tokens: Sequence[TokenLogprob], offset: int) -> Json:
        """``offset``: how many characters of the choice stand before these tokens."""


@dataclass(slots=True)
class Choice:
    """One answer, as far as it has come."""

    text: list[str] = field(default_factory=list)
    length: int = 0
    tokens: list[TokenLogprob] = field(default_factory=list)
    finish: str = ""
    usage: inference_pb2.Usage = field(default_factory=inference_pb2.Usage)

    def add(self, response: GenerateResponse) -> None:
        self.text.append(response.text)
        self.length += len(response.text)
        self.tokens += response.logprobs
        if response.finish_reason:
            self.finish = _FINISHES.get(response.finish_reason, "stop")
            self.usage = response.usage


class Answers:
    """All choices of a request on their way to the client: ``each`` of them for each of
    ``prompts``, in the order of the prompts."""

    def __init__(self, voice: Voice, model: Model, prompts: int, each: int) -> None:
        self._voice = voice
        self._each = each
        self._choices = [Choice() for _ in range(prompts * each)]
        self._common = {
            "id": f"{voice.prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model.id,
            "system_fingerprint": model.fingerprint,
        }

    async def reply(self, exchange: Exchange, said: AsyncGenerator[tuple[int, Said], None]) -> None:
        """As one document."""
        devices: dict[str, None] = {}
        async with aclosing(said):
            async for number, (device, response) in said:
                devices[device] = None
                self._choices[number].add(response)
        self._log(exchange, devices)
        choices = [self._whole(number, choice) for number, choice in enumerate(self._choices)]
        document = {
            **self._common,
            "object": self._voice.whole_object,
            "choices": choices,
            "usage": self._usage(),
        }
        await exchange.reply(document, headers={DEVICE_HEADER: ", ".join(devices)})

    async def stream(
        self,
        exchange: Exchange,
        said: AsyncGenerator[tuple[int, Said], None],
        *,
        include_usage: bool,
    ) -> None:
        """As events, from the first response on: until then an error has a status of its own."""
        devices: dict[str, None] = {}
        usage = {"usage": None} if include_usage else {}
        common = {**self._common, "object": self._voice.part_object, **usage}

        async def event(number: int, said_of_it: Json, finish: str | None) -> None:
            choice = {"index": number, **said_of_it, "finish_reason": finish}
            await exchange.event({**common, "choices": [choice]})

        async with aclosing(said):
            async for number, (device, response) in said:
                if not devices:
                    await exchange.begin_events({DEVICE_HEADER: device})
                    exchange.log(device=device)
                devices[device] = None
                choice = self._choices[number]
                opening = self._voice.opening() if not choice.text else None
                if opening is not None:
                    await event(number, opening, None)
                if response.text or response.logprobs:
                    found = self._found(response.logprobs, choice.length)
                    await event(number, self._voice.part(response.text, found), None)
                choice.add(response)
                if choice.finish:
                    await event(number, self._voice.closing(), choice.finish)
        self._log(exchange, devices)
        if include_usage:
            await exchange.event({**common, "choices": [], "usage": self._usage()})
        await exchange.end_events()

    def _whole(self, number: int, choice: Choice) -> Json:
        said = self._voice.whole("".join(choice.text), self._found(choice.tokens, 0))
        return {"index": number, **said, "finish_reason": choice.finish}

    def _found(self, tokens: Sequence[TokenLogprob], offset: int) -> Json | None:
        return self._voice.logprobs(tokens, offset) if tokens else None

    def _usage(self) -> Json:
        """A prompt counts once, however many answers it has."""
        prompts = [choice.usage for choice in self._choices[:: self._each]]
        read = sum(usage.prompt_tokens for usage in prompts)
        written = sum(choice.usage.completion_tokens for choice in self._choices)
        return {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
            "prompt_tokens_details": {
                "cached_tokens": sum(usage.cached_tokens for usage in prompts)
            },
        }

    def _log(self, exchange: Exchange, devices: Mapping[str, None]) -> None:
        usage = self._usage()
        exchange.log(
            device=", ".join(devices),
            prompt_tokens=usage["prompt_tokens"],
            completion_tokens=usage["completion_tokens"],
        )


def asks(
    fleet: Fleet, model: Model, prompts: Sequence[Prompt], fields: Generation
) -> list[tuple[Prompt, Callable[[str], AsyncGenerator[GenerateResponse, None]]]]:
    """For each choice its prompt, and what asks a device. Each has a seed of its own, all of them
    given by the first."""
    seed = secrets.randbits(63) if fields.seed is None else fields.seed

    def ask(prompt: Prompt, number: int) -> Callable[[str], AsyncGenerator[GenerateResponse, None]]:
        def of(device: str) -> AsyncGenerator[GenerateResponse, None]:
            return fleet.generate(
                device,
                base=model.base_digest,
                adapter=model.adapter_digest,
                prompt=prompt.text,
                messages=prompt.messages,
                max_tokens=prompt.max_tokens,
                temperature=fields.greedy_or,
                top_k=fields.top_k,
                top_p=fields.top_p,
                min_p=fields.min_p,
                repeat_penalty=fields.repeat_penalty,
                seed=(seed + number) % (1 << 64),
                stop=fields.stop,
                logit_bias=fields.logit_bias,
                json_schema=prompt.json_schema,
                top_logprobs=prompt.top_logprobs,
            )

        return of

    return [(prompt, ask(prompt, number)) for prompt in prompts for number in range(fields.n)]


async def side_by_side(
    streams: Sequence[AsyncGenerator[T, None]],
) -> AsyncGenerator[tuple[int, T], None]:
    """What all of them give, as it comes, with the number of its stream. The first error ends all;
    a slow reader holds all of them up."""
    if len(streams) == 1:  # without a task for each token
        async with aclosing(streams[0]) as only:
            async for item in only:
                yield 0, item
        return
    waiting: dict[asyncio.Future[T], int] = {}
    try:
        for number, stream in enumerate(streams):
            waiting[asyncio.ensure_future(anext(stream))] = number
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for arrived in done:
                number = waiting.pop(arrived)
                try:
                    item = arrived.result()
                except StopAsyncIteration:
                    continue
                waiting[asyncio.ensure_future(anext(streams[number]))] = number
                yield number, item
    finally:
        for pending in waiting:
            pending.cancel()
        # One error is told; those beside it are looked at, or asyncio would report them.
        await asyncio.gather(*waiting, return_exceptions=True)
        for stream in streams:
            await stream.aclose()
