"""Ends a worker that hangs: by signs of life, never by how long its task takes.

    a report                         it got somewhere
    processor time, at least 1 %     it computes: a step may take an hour
    bytes read or written            it waits for a slow disk, and gets something

A fixed limit would end the largest model on the slowest board, and only that. What shows none of
the three for ten minutes (a driver that never comes back, a deadlock) does not begin again by
itself, and its job would be in progress for ever. All processes of the worker's session count, and
a worker that was told to rest is excused. What spins without getting anywhere is not seen here.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from agent.workers import orphans
from agent.workers.orphans import Used

PERIOD_S = 30.0
PATIENCE_S = 600.0
_LEAST_CPU = 0.01


class Watched(Protocol):
    """A worker, as far as it matters here."""

    pid: int

    def kill(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Signs:
    at_s: float
    reports: int
    used: Used


def lives(before: Signs, now: Signs) -> bool:
    """Whether there was any sign of life between the two."""
    if now.reports > before.reports or now.used.moved_bytes > before.used.moved_bytes:
        return True
    computed_s = now.used.cpu_s - before.used.cpu_s
    return computed_s > 0 and computed_s >= _LEAST_CPU * (now.at_s - before.at_s)


class Watchdog:
    """``reports`` is counted up by whoever reads them; ``hung`` says that the worker was ended."""

    def __init__(
        self,
        worker: Watched,
        is_resting: Callable[[], bool] = lambda: False,
        *,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[int], Used] = orphans.used_by_session,
    ) -> None:
        self.reports = 0
        self.hung = False
        self._worker = worker
        self._is_resting = is_resting
        self._patience_s = patience_s
        self._clock = clock
        self._used = used
        self._last = self._signs()

    @property
    def silent_s(self) -> float:
        """Since the last look that saw a sign of life: longer than its patience only where nobody
        looks any more, or where the worker cannot be ended."""
        return self._clock() - self._last.at_s

    def look(self) -> bool:
        """Ends the worker when it hangs; returns whether it did."""
        now = self._signs()
        if self._is_resting() or lives(self._last, now):
            self._last = now
        elif now.at_s - self._last.at_s >= self._patience_s:
            self.hung = True
            self._worker.kill()
        return self.hung

    def _signs(self) -> Signs:
        return Signs(self._clock(), self.reports, self._used(self._worker.pid))


@asynccontextmanager
async def watching(
    worker: Watched, is_resting: Callable[[], bool] = lambda: False
) -> AsyncIterator[Watchdog]:
    """Looks after the worker while the block runs."""
    watchdog = Watchdog(worker, is_resting)
    looking = asyncio.create_task(_look(watchdog), name=f"watchdog of {worker.pid}")
    try:
        yield watchdog
    finally:
        looking.cancel()
        await asyncio.wait({looking})


async def _look(watchdog: Watchdog) -> None:
    while True:
        await asyncio.sleep(PERIOD_S)
        if watchdog.look():
            return


def said(worker: str) -> str:
    """What happened to it, for people."""
    return (
        f"The {worker} worker hung and was ended: for {PATIENCE_S / 60:.0f} min it reported"
        " nothing, took no processor time and moved no byte."
    )
