"""How long an attempt that was told to stop may take: as long as its worker gets somewhere.

A micro-step of a large model takes a slow board minutes, and a checkpoint an SD card some more. A
fixed time would cost the largest model on the slowest board its work, and only that. So what ends
the patience is time without progress, and there are two kinds of it:

    silent     no sign of life at all        a driver that never comes back, a deadlock
    stalled    it computes, and nothing      it spins; or it is in the longest micro-step that
               comes of it                   anybody waits for
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from async_timeout import timeout


class Stopping(Protocol):
    """An attempt, as far as it matters here."""

    @property
    def silent_s(self) -> float | None:
        """Since the worker's last sign of life; None: there is no worker."""
        ...

    @property
    def stalled_s(self) -> float | None:
        """Since the worker last got somewhere; None: there is no worker."""
        ...

    def give_up(self) -> None:
        """Ends the worker, if there is one. It may be called again."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Both are longer than the watchdog takes from look to look."""

    silence_s: float = 60.0
    stall_s: float = 900.0

    def is_over(self, attempt: Stopping) -> bool:
        silent_s, stalled_s = attempt.silent_s, attempt.stalled_s
        if silent_s is None or stalled_s is None:
            return False  # it has yet to be started, or what it made is being stored
        return silent_s >= self.silence_s or stalled_s >= self.stall_s


async def stopped(
    attempt: Stopping,
    over: asyncio.Event,
    patience: Patience,
    on_wait: Callable[[float], None] = lambda for_s: None,
) -> None:
    """Returns when ``over`` is set; the worker is given up when ``patience`` is over. ``on_wait``
    hears for how long it will wait at least."""
    while not over.is_set():
        on_wait(patience.silence_s)
        with contextlib.suppress(asyncio.TimeoutError):
            async with timeout(patience.silence_s):
                await over.wait()
            return
        if patience.is_over(attempt):
            attempt.give_up()
