"""How long an attempt that was told to stop may take: as long as its worker gets somewhere.

A micro-step of a large model takes a slow board minutes, and a checkpoint an SD card some more. A
fixed time would cost the largest model on the slowest board its work, and only that. What spins
without getting anywhere looks busy, too: so there is an end to it all.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Stopping(Protocol):
    """An attempt, as far as it matters here."""

    settled: asyncio.Event

    @property
    def silent_s(self) -> float | None:
        """Since the worker's last sign of life; None: there is no worker."""
        ...

    def kill(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Patience:
    """``silence_s``: without a sign of life; longer than the watchdog takes from look to look."""

    silence_s: float = 60.0
    most_s: float = 900.0


async def settled(
    attempt: Stopping, patience: Patience, on_wait: Callable[[float], None] = lambda for_s: None
) -> None:
    """Returns when it has settled; its worker is ended when ``patience`` is. ``on_wait`` hears for
    how long it will wait at least."""
    now = asyncio.get_running_loop().time
    end_s = now() + patience.most_s
    while not attempt.settled.is_set():
        on_wait(patience.silence_s)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(attempt.settled.wait(), min(patience.silence_s, end_s - now()))
            return
        silent_s = attempt.silent_s
        if silent_s is None or silent_s >= patience.silence_s or now() >= end_s:
            attempt.kill()
            await attempt.settled.wait()
