"""A question to the device where it is answered soonest, and to another one if that fails first.

    choose ──▶ ask ──▶ first response ──▶ the rest
      ▲         │           │                └─ an error goes to the client: what it has read of an
      └─────────┘           │                   answer cannot be taken back
       elsewhere, three     └─ from here on the device is this answer's
       devices at most

Asked again is only what another device may do better: one is busy, away, or has no room. What is
wrong with the question is wrong everywhere, and what ended a worker would end the next one.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Generic, TypeVar

from controller.gateway import prefixes, routing
from controller.gateway.models import Model
from controller.gateway.prefixes import Prefixes
from controller.gateway.roster import Roster
from controller.gateway.routing import Wanted
from controller.selector import Selector
from protos import errors
from protos.errors import Busy, InternalError, NanofleetError, Unauthenticated, Unreachable

R = TypeVar("R")

MOST_TRIES = 3

_ELSEWHERE = (
    errors.Busy,
    errors.Unreachable,
    errors.TimedOut,
    errors.InUse,
    errors.OutOfMemory,
    errors.DiskFull,
    errors.DiskFailed,
    errors.NotFound,
)


@dataclass(frozen=True, slots=True)
class Question(Generic[R]):
    """``ask`` sends it to a device. ``parts``: what the device has to read, the beginning first;
    empty when nothing of it is kept."""

    model: Model
    selector: Selector
    parts: Sequence[str]
    ask: Callable[[str], AsyncGenerator[R, None]]


class Relay:
    def __init__(self, roster: Roster, warm: Prefixes) -> None:
        self._roster = roster
        self._warm = warm

    async def answer(self, question: Question[R]) -> AsyncGenerator[tuple[str, R], None]:
        """The responses, each with the device that gives them. Closing it cancels there what is
        not read yet."""
        model = question.model
        digests = prefixes.beginnings((model.base_digest, model.adapter_digest), question.parts)
        failed: dict[str, NanofleetError] = {}
        while True:
            device = await self._chosen(question, digests, failed)
            responses = question.ask(device)
            with self._roster.engaged(device):
                async with aclosing(responses):
                    try:
                        first = await _first(responses, device)
                    except NanofleetError as error:
                        failed[device] = self._told(device, error)
                        if not isinstance(failed[device], _ELSEWHERE) or len(failed) == MOST_TRIES:
                            raise _most_telling(failed) from error
                        continue
                    self._warm.note(digests, device)
                    yield device, first
                    try:
                        async for response in responses:
                            yield device, response
                    except NanofleetError as error:
                        raise self._told(device, error) from error
                    return

    async def _chosen(
        self, question: Question[R], digests: Sequence[bytes], failed: dict[str, NanofleetError]
    ) -> str:
        """The device. Raises why there is none."""
        model = question.model
        wanted = Wanted(model.base_digest, model.adapter_digest, question.selector)
        warm = self._warm.device(digests)
        for look in (self._roster.seen, self._roster.seen_now):
            seen = [s for s in await look() if s.status.record.name not in failed]
            route = routing.choose(wanted, self._roster.candidates(seen, warm))
            if route.device:
                return route.device
            if failed:
                raise _most_telling(failed)
        raise routing.refusal(model.id, route.rejections)

    def _told(self, device: str, error: NanofleetError) -> NanofleetError:
        """The error as a client may hear it: that this controller and a device do not know each
        other is no matter of the client's key."""
        if isinstance(error, Unauthenticated):
            error = Unreachable(error.what, why=error.why, fix=error.fix, reason=error.reason)
        if isinstance(error, Unreachable):
            self._roster.lost(device, error)
        return error


async def _first(responses: AsyncGenerator[R, None], device: str) -> R:
    try:
        return await anext(responses)
    except StopAsyncIteration:
        raise InternalError(f"{device} ended the answer before it began.") from None


def _most_telling(failed: dict[str, NanofleetError]) -> NanofleetError:
    """Of several devices' errors: that one is busy gives hope; otherwise the last."""
    last = [*failed.values()][-1]
    busy = [error for error in failed.values() if isinstance(error, Busy)]
    if not busy or not isinstance(last, _ELSEWHERE):
        return last
    return min(busy, key=lambda error: error.retry_after_s or 0.0)
