"""The watchdog is fed by progress, not by a timer: what hangs is started again by systemd.

A timer in a thread would feed it while the agent is long stuck. So a beat is sent only when

    the event loop    ran this task in time; a loop that hangs sends nothing
    the journal       answered a read in its own thread: a disk that hangs holds up every job
    the running job   heard from its worker within MOST_SILENT_S. A worker that computes reports
                      each step; one that hangs in a driver would hold the queue for ever

One bad look proves nothing (an SD card that takes a checkpoint stalls for seconds), so beats come
four times in the time that systemd allows. What a restart does is what a power cut does: workers
end, and the job goes on at its last checkpoint.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable

from agent.service_manager import ServiceManager

_LOG = logging.getLogger(__name__)

# A step of 8 long samples of a 1B model takes minutes on the slowest board; tokenising a large
# dataset, or reading a base from a worn card, the better part of an hour.
MOST_SILENT_S = 3600.0
_BEATS = 4


class Watchdog:
    def __init__(
        self,
        manager: ServiceManager,
        journal_answers: Callable[[], Awaitable[object]],
        job_silent_s: Callable[[], float | None],
    ) -> None:
        """``job_silent_s``: for how long a report of the worker has been due; None: none is."""
        self._manager = manager
        self._journal_answers = journal_answers
        self._job_silent_s = job_silent_s

    @property
    def period_s(self) -> float:
        return self._manager.watchdog_s / _BEATS

    async def run(self) -> None:
        """Looks and feeds until it is cancelled; returns at once where nobody watches."""
        while self.period_s:
            ailment = await self.look()
            if ailment:
                _LOG.error("the watchdog is not fed: %s", ailment)
                self._manager.ailing(ailment)
            else:
                self._manager.alive()
            await asyncio.sleep(self.period_s)

    async def look(self) -> str:
        """What hangs, as a sentence; empty: nothing does."""
        try:
            await asyncio.wait_for(self._answered(), self.period_s)
        except asyncio.TimeoutError:
            return f"The journal has not answered for {self.period_s:g} s."
        except sqlite3.Error as error:
            return f"The journal cannot be read: {error}."
        silent_s = self._job_silent_s()
        if silent_s is not None and silent_s > MOST_SILENT_S:
            return f"The training worker has said nothing for {silent_s / 60:.0f} minutes."
        return ""

    async def _answered(self) -> None:
        await self._journal_answers()
