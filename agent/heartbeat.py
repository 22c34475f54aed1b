"""systemd's watchdog is fed by progress, not by a timer: what hangs is started again.

A timer in a thread would feed it while the agent is long stuck. So a beat is sent only when

    the event loop    ran this task in time; a loop that hangs sends nothing
    the journal       answered a read in its own thread: a disk that hangs holds up every job
    the running job   is past its deadline by no more than its worker's own watchdog takes to end
                      one that hangs (workers/watchdog.py). Past that, either nobody looks after
                      the worker any more, or it cannot be ended; it would hold the queue for ever

One bad look proves nothing (an SD card that takes a checkpoint stalls for seconds), so beats come
four times in the time that systemd allows. What a restart does is what a power cut does: workers
end, and the job goes on at its last checkpoint.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable

from async_timeout import timeout

from agent.service_manager import ServiceManager
from agent.workers.watchdog import PATIENCE_S

_LOG = logging.getLogger(__name__)

# The worker's own watchdog has had its turn, twice.
MOST_SILENT_S = 2 * PATIENCE_S
_BEATS = 4


class Heartbeat:
    def __init__(
        self,
        manager: ServiceManager,
        journal_answers: Callable[[], Awaitable[object]],
        job_silent_s: Callable[[], float | None],
    ) -> None:
        """``job_silent_s``: since the job's worker showed a sign of life; None: there is none."""
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
            async with timeout(self.period_s):
                await self._journal_answers()
        except asyncio.TimeoutError:
            return f"The journal has not answered for {self.period_s:g} s."
        except sqlite3.Error as error:
            return f"The journal cannot be read: {error}."
        silent_s = self._job_silent_s()
        if silent_s is not None and silent_s > MOST_SILENT_S:
            return f"The job's worker hangs for {silent_s / 60:.0f} min, and was not ended."
        return ""
