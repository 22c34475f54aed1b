"""The journal for the event loop: calls run in its one thread, and watchers are woken.

A synced commit takes a fraction of a millisecond on a quiet disk and seconds on an SD card that
is taking a checkpoint; on the loop it would hold up every token and every answer. One thread keeps
the calls in order, and a cancelled caller does not cancel a commit.

A watcher holds no queue here: it reads the journal after its own cursor and then waits for news, so
a client that reads slowly costs nothing however long it takes.
"""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from agent.jobs import states
from agent.jobs.journal import Journal
from protos.errors import NanofleetError
from protos.nanofleet.v1.job_pb2 import JobEvent

_LOG = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

BATCH = 256


class Records:
    """Make it in the running loop; it owns the journal from then on."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._news = asyncio.Event()

    @property
    def journal_id(self) -> str:
        return self.journal.journal_id

    async def read(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``await records.read(records.journal.job, job_id)``"""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: call(*args, **kwargs))

    async def write(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As ``read``, and wakes the watchers after the commit, also when the caller gave up."""
        loop = asyncio.get_running_loop()

        def told() -> T:
            try:
                return call(*args, **kwargs)
            finally:
                loop.call_soon_threadsafe(self._publish)

        return await asyncio.shield(loop.run_in_executor(self._thread, told))

    async def replay(self, after_seq: int, job_id: str = "") -> AsyncIterator[list[JobEvent]]:
        """Batches of the events after the number that are journalled by now."""
        while batch := await self.read(self.journal.events, after_seq, job_id, BATCH):
            yield batch
            after_seq = batch[-1].seq

    async def watch(self, after_seq: int, job_id: str = "") -> AsyncIterator[list[JobEvent]]:
        """As ``replay``, then live; ends after the event that ends the watched job.

        What to wait for and whether the job has ended is looked up before the events are read, so
        that nothing falls in between.
        """
        while True:
            news = self._news
            ended = job_id and await self._has_ended(job_id)
            async for batch in self.replay(after_seq, job_id):
                yield batch
                after_seq = batch[-1].seq
            if ended:
                return
            await news.wait()

    async def keep_room(self) -> None:
        """Lets go of old events as soon as there is something to let go of (retention.py), until it
        is cancelled. A slice at a time: others have the journal's thread in between."""
        while True:
            news = self._news
            try:
                while await self.read(self.journal.retention.prune):
                    pass
            except (NanofleetError, sqlite3.Error) as error:
                _LOG.warning("The journal's old events stay for now: %s", error)
            await news.wait()

    async def close(self) -> None:
        await self.read(self.journal.close)
        self._thread.shutdown()

    def _publish(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _has_ended(self, job_id: str) -> bool:
        return (await self.read(self.journal.job, job_id)).state in states.ENDED
