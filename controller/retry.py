"""The one way in which the controller tries again.

A thousand devices that come back at once must not be answered by a thousand retries at once: each
wait is drawn evenly from zero to a bound that doubles ("full jitter"). Only errors that call
themselves retryable are retried, only around idempotent operations, and never one retry inside
another.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from protos.errors import NanofleetError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Retry:
    """``attempts`` counts the first one; None goes on for ever."""

    attempts: int | None
    first_s: float = 0.2
    cap_s: float = 10.0
    draw: Callable[[float, float], float] = random.uniform
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    def wait_s(self, failures: int, error: NanofleetError) -> float:
        """How long to wait after so many failures; at least what the error asks for."""
        bound_s = min(self.cap_s, self.first_s * 2.0 ** min(failures - 1, 32))
        return self.draw(0.0, bound_s) + (error.retry_after_s or 0.0)

    def gives_up(self, failures: int, error: NanofleetError) -> bool:
        exhausted = self.attempts is not None and failures >= self.attempts
        return exhausted or not error.retryable

    async def pause(self, failures: int, error: NanofleetError) -> None:
        """Waits before the next attempt; raises ``error`` when there is none."""
        if self.gives_up(failures, error):
            raise error
        await self.sleep(self.wait_s(failures, error))

    async def call(self, operation: Callable[[], Awaitable[T]]) -> T:
        """The operation's result; raises its last error."""
        failures = 0
        while True:
            try:
                return await operation()
            except NanofleetError as error:
                failures += 1
                await self.pause(failures, error)


# Inside something that tries again itself.
ONCE = Retry(attempts=1)
# For a single call that somebody waits for: about a second of waiting in all.
BRIEF = Retry(attempts=4)
# For a transfer or a stream that has made progress before: about a minute without any, in which a
# board that was switched off and on is back.
STEADY = Retry(attempts=16)
# For following a job: a device may be off for days, and the job goes on when it is back.
ENDLESS = Retry(attempts=None, cap_s=30.0)
# For one process after another at the same file here: until the other one has ended.
TURNS = Retry(attempts=60, cap_s=1.0)
