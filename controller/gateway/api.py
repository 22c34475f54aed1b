"""The endpoints: who may ask, how much at once, and a request's way to a device and back."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from controller import Fleet
from controller.gateway import embeddings, errors, fields, models
from controller.gateway.chat import ChatFields, ChatVoice
from controller.gateway.completions import CompletionFields, CompletionVoice
from controller.gateway.embeddings import EmbeddingFields
from controller.gateway.errors import BODY_TOO_LARGE, METHOD_NOT_ALLOWED
from controller.gateway.fields import Generation
from controller.gateway.models import Model
from controller.gateway.prefixes import Prefixes
from controller.gateway.relay import Question, Relay
from controller.gateway.roster import Roster
from controller.gateway.speaking import DEVICE_HEADER, Answers, Prompt, Voice, asks, side_by_side
from controller.selector import Selector, parse
from controller.web.door import Door
from controller.web.exchange import ClientLeft, Exchange, Json
from protos.errors import Busy, InternalError, InvalidRequest, NanofleetError
from protos.identity import Role
from protos.nanofleet.v1.inference_pb2 import EmbedResponse

_LOG = logging.getLogger(__name__)

SELECTOR_HEADER = "x-nanofleet-selector"
# A message to a device may have 4 MiB.
MOST_BODY_BYTES = 4 << 20
# Being answered at once: beyond that all of them would only wait for the devices.
MOST_AT_ONCE = 256
_RETRY_S = 1.0
# JSON can write half of a character that takes two of its escapes; nothing else can.
_HALF = rb"\ud"

Handler = Callable[[Exchange], Awaitable[None]]


class Gateway:
    """``offered``: names of the models that are offered; none: all that the fleet has."""

    def __init__(self, fleet: Fleet, door: Door, offered: Sequence[str] = ()) -> None:
        self._fleet = fleet
        self._door = door
        self._offered = offered
        self._roster = Roster(fleet)
        self._relay = Relay(self._roster, Prefixes())
        self._at_once = 0
        self.models()  # a name that there is not is told now

    async def close(self) -> None:
        await self._roster.close()

    def models(self) -> dict[str, Model]:
        return models.only(models.every(self._fleet.artifacts()), self._offered)

    def routes(self) -> list[Route]:
        made = (
            ("/v1/models", "GET", Role.VIEWER, self._list_models),
            ("/v1/models/{name:path}", "GET", Role.VIEWER, self._show_model),
            ("/v1/chat/completions", "POST", Role.OPERATOR, self._chat),
            ("/v1/completions", "POST", Role.OPERATOR, self._complete),
            ("/v1/embeddings", "POST", Role.OPERATOR, self._embed),
        )
        return [
            Route(path, Endpoint(method, self._admitted(role, handler)))
            for path, method, role, handler in made
        ]

    def _admitted(self, role: Role, handler: Handler) -> Handler:
        async def admitted(exchange: Exchange) -> None:
            exchange.log(key=self._door.admit(exchange.headers, role))
            await handler(exchange)

        return admitted

    async def _list_models(self, exchange: Exchange) -> None:
        sightings = await self._roster.seen()
        held = frozenset[str]().union(*(sighting.held for sighting in sightings))
        found = [m for m in self.models().values() if m.base_digest in held]
        await exchange.reply({"object": "list", "data": [self._described(m) for m in found]})

    async def _show_model(self, exchange: Exchange) -> None:
        model, _ = models.named(self.models(), exchange.path_params["name"])
        await exchange.reply(self._described(model))

    def _described(self, model: Model) -> Json:
        return {
            "id": model.id,
            "object": "model",
            "created": model.added_utc_ns // 10**9,
            "owned_by": self._fleet.name,
        }

    async def _chat(self, exchange: Exchange) -> None:
        async with self._asked(exchange) as body:
            asked = fields.read(ChatFields, body)
            await self._speak(exchange, ChatVoice(), asked, asked.prompts)

    async def _complete(self, exchange: Exchange) -> None:
        async with self._asked(exchange) as body:
            asked = fields.read(CompletionFields, body)
            await self._speak(exchange, CompletionVoice(), asked, asked.prompts)

    async def _speak(
        self, exchange: Exchange, voice: Voice, asked: Generation, prompts: Sequence[Prompt]
    ) -> None:
        model, selector = self._meant(asked.model, exchange)
        questions = [
            Question(model, selector, prompt.parts, ask)
            for prompt, ask in asks(self._fleet, model, prompts, asked)
        ]
        said = side_by_side([self._relay.answer(question) for question in questions])
        answers = Answers(voice, model, len(prompts), asked.n)
        if asked.stream:
            usage = asked.stream_options.include_usage
            await exchange.unless_left(answers.stream(exchange, said, include_usage=usage))
        else:
            await exchange.unless_left(answers.reply(exchange, said))

    async def _embed(self, exchange: Exchange) -> None:
        async with self._asked(exchange) as body:
            asked = fields.read(EmbeddingFields, body)
            texts = asked.checked()
            model, selector = self._meant(asked.model, exchange)
            exchange.log(model=model.id)

            def ask(device: str) -> AsyncGenerator[EmbedResponse, None]:
                base, adapter = model.base_digest, model.adapter_digest
                return self._fleet.embed(device, texts, base=base, adapter=adapter, normalized=True)

            async def reply() -> None:
                async with aclosing(self._relay.answer(Question(model, selector, (), ask))) as said:
                    pairs = [pair async for pair in said]
                device, found = pairs[0][0], [response for _, response in pairs]
                exchange.log(device=device, prompt_tokens=sum(one.tokens for one in found))
                document = await asyncio.to_thread(embeddings.document, asked, model, found)
                await exchange.reply(document, headers={DEVICE_HEADER: device})

            await exchange.unless_left(reply())

    def _meant(self, name: str, exchange: Exchange) -> tuple[Model, Selector]:
        """The model, and who may answer: by the name and by the header."""
        model, selector = models.named(self.models(), name)
        exchange.log(model=model.id)
        beside = parse(exchange.headers.get(SELECTOR_HEADER, ""))
        return model, Selector((*selector.terms, *beside.terms))

    @asynccontextmanager
    async def _asked(self, exchange: Exchange) -> AsyncIterator[Json]:
        """The body, while the request has one of the places. Raises Busy when there is none."""
        if self._at_once >= MOST_AT_ONCE:
            raise Busy(
                f"{self._at_once} requests are being answered.",
                why="More at once would only wait for the devices.",
                fix=f"Try again in {_RETRY_S:g} s.",
                retry_after_s=_RETRY_S,
            )
        self._at_once += 1
        try:
            yield await _body(exchange)
        finally:
            self._at_once -= 1


class Endpoint:
    """An ASGI application: one method of one path, and its errors as documents."""

    def __init__(self, method: str, handler: Handler) -> None:
        self._method = method
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        try:
            if scope["method"] != self._method:
                raise InvalidRequest(
                    f"{scope['method']} is not how this is asked.",
                    fix=f"Send {self._method}.",
                    reason=METHOD_NOT_ALLOWED,
                )
            await self._handler(exchange)
        except ClientLeft:
            exchange.log(left=True)
        except NanofleetError as error:
            await fail(exchange, error)
        except Exception as error:  # noqa: BLE001 (a defect: the others' requests go on)
            _LOG.exception("a request failed")
            await fail(exchange, _defect(error))


async def fail(exchange: Exchange, error: NanofleetError) -> None:
    """With a status of its own, or as the last event of an answer that has begun."""
    exchange.log(error=error.reason)
    document = errors.document(error)
    if not exchange.has_begun:
        status = errors.answer_of(error).status
        await exchange.reply(document, status, errors.headers(error))
        return
    await exchange.event(document)
    await exchange.end_events(b"")


async def _body(exchange: Exchange) -> Json:
    kind = exchange.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise InvalidRequest(
            f"The body is {kind or 'of no kind that is told'!r}.",
            why="Requests are JSON; a browser must not send one without asking.",
            fix="Add the header `Content-Type: application/json`.",
            field="",
        )
    too_large = InvalidRequest(
        f"The body has more than {MOST_BODY_BYTES >> 20} MiB.",
        why="A device takes no larger message.",
        fix="Send less at once.",
        reason=BODY_TOO_LARGE,
    )
    raw = await exchange.body(MOST_BODY_BYTES, too_large)
    try:
        found = json.loads(raw)
        if _HALF in raw.lower():
            json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The body is no JSON: {error}.") from None
    if not isinstance(found, dict):
        raise InvalidRequest("The body is no JSON object.", fix='Send {"model": …}.')
    return found


def _defect(error: Exception) -> InternalError:
    return InternalError(
        "The service has a defect.",
        why=f"{type(error).__name__}.",
        fix="Its log has the details; report them.",
    )
