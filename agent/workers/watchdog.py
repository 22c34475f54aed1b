"""Ends a worker that hangs: by signs of life, never by how long its task takes.

    a report                         it got somewhere: a step, a micro-step, a token, a piece of
                                     the dataset (the workers' beats)
    bytes from or to the disk        it waits for a slow one, and gets something
    processor time, at least 1 %     it computes: alive, and perhaps it spins

A fixed limit would end the largest model on the slowest board, and only that. What shows none of
the three for PATIENCE_S (a driver that never comes back, a deadlock) does not begin again by
itself, and its job would be in progress for ever. All processes of the worker's session count, and
a worker that was told to rest is excused.

Processor time alone is believed for STALL_S: nothing that a worker does between two beats (a
micro-step, the reading of a prompt, a conversion) takes a board an hour. Where something did take
long, the limit grows with it, to STALL_TIMES the longest stretch from which the worker came back.
What computes longer without getting anywhere spins.

Only bytes of the disk count: those of pipes are reports, and a worker's threads read /proc all the
time, whatever the one that works does.
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
STALL_S = 3600.0
STALL_TIMES = 10
_LEAST_CPU = 0.01


class Watched(Protocol):
    """A worker, as far as it matters here."""

    pid: int

    def kill(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """``silence_s`` without any sign of life; ``stall_s``, or ``stall_times`` the longest stretch
    so far, with nothing but processor time. ``period_s`` is from look to look."""

    period_s: float = PERIOD_S
    silence_s: float = PATIENCE_S
    stall_s: float = STALL_S
    stall_times: int = STALL_TIMES


@dataclass(frozen=True, slots=True)
class Signs:
    at_s: float
    reports: int
    used: Used


def progresses(before: Signs, now: Signs) -> bool:
    """Whether it got somewhere between the two. Counters fall when a child has ended: that is
    something, too."""
    return now.reports != before.reports or now.used.moved_bytes != before.used.moved_bytes


def computes(before: Signs, now: Signs) -> bool:
    computed_s = now.used.cpu_s - before.used.cpu_s
    return computed_s > 0 and computed_s >= _LEAST_CPU * (now.at_s - before.at_s)


class Watchdog:
    """``reports`` is counted up by whoever reads them; ``hung`` says that the worker was ended, and
    ``said`` why."""

    def __init__(
        self,
        worker: Watched,
        is_resting: Callable[[], bool] = lambda: False,
        *,
        limits: Limits = Limits(),
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[int], Used] = orphans.used_by_session,
    ) -> None:
        self.reports = 0
        self.hung = False
        self._worker = worker
        self._is_resting = is_resting
        self._limits = limits
        self._clock = clock
        self._used = used
        # At the last look that saw a sign of life, and that saw progress.
        self._alive = self._advanced = self._signs()
        self._longest_s = 0.0
        self._why = ""

    @property
    def silent_s(self) -> float:
        """Since the last look that saw a sign of life: longer than its patience only where nobody
        looks any more, or where the worker cannot be ended."""
        return self._clock() - self._alive.at_s

    @property
    def stalled_s(self) -> float:
        """Since the last look that saw it get somewhere; processor time alone does not count."""
        return self._clock() - self._advanced.at_s

    @property
    def most_stalled_s(self) -> float:
        """So long processor time alone is believed."""
        return max(self._limits.stall_s, self._limits.stall_times * self._longest_s)

    def look(self) -> bool:
        """Ends the worker when it hangs; returns whether it did."""
        now = self._signs()
        if self._is_resting():
            self._alive = self._advanced = now
        elif progresses(self._advanced, now):
            self._longest_s = max(self._longest_s, now.at_s - self._advanced.at_s)
            self._alive = self._advanced = now
        elif now.at_s - self._advanced.at_s >= self.most_stalled_s:
            self._end(
                f"it computed for {readable(self.stalled_s)} without a step or any other sign of"
                " getting on: it reported nothing, and read and wrote nothing"
            )
        elif computes(self._alive, now):
            self._alive = now
        elif now.at_s - self._alive.at_s >= self._limits.silence_s:
            self._end(
                f"for {readable(self.silent_s)} it reported nothing, took no processor time, and"
                " read and wrote nothing"
            )
        return self.hung

    def said(self, worker: str) -> str:
        """What happened to it, for people."""
        return f"The {worker} worker hung and was ended: {self._why}."

    def _end(self, why: str) -> None:
        self.hung, self._why = True, why
        self._worker.kill()

    def _signs(self) -> Signs:
        return Signs(self._clock(), self.reports, self._used(self._worker.pid))


@asynccontextmanager
async def watching(
    worker: Watched,
    is_resting: Callable[[], bool] = lambda: False,
    limits: Limits = Limits(),
) -> AsyncIterator[Watchdog]:
    """Looks after the worker while the block runs."""
    watchdog = Watchdog(worker, is_resting, limits=limits)
    looking = asyncio.create_task(
        _look(watchdog, limits.period_s), name=f"watchdog of {worker.pid}"
    )
    try:
        yield watchdog
    finally:
        looking.cancel()
        await asyncio.wait({looking})


async def _look(watchdog: Watchdog, period_s: float) -> None:
    while True:
        await asyncio.sleep(period_s)
        if watchdog.look():
            return


def readable(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"
