"""Watching: replayed, then live, in order, without a gap or a duplicate, and it ends."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.jobs import states
from agent.jobs.journal import Journal
from agent.jobs.records import BATCH, Records
from protos.errors import NotFound
from protos.nanofleet.v1.job_pb2 import JobEvent, TrainProgress
from tests.agent.clocks import FakeClock
from tests.agent.jobs.samples import FIRST, SECOND, spec_bytes


@pytest.fixture
async def records(tmp_path: Path) -> AsyncIterator[Records]:
    opened = Records(Journal(tmp_path / "journal.db", FakeClock()))
    for job_id in (FIRST, SECOND):
        await opened.write(opened.journal.submit, job_id, 1, spec_bytes(), "")
    await opened.write(opened.journal.apply, FIRST, states.Started())
    yield opened
    await opened.close()


async def collected(batches: AsyncIterator[list[JobEvent]]) -> list[int]:
    return [event.seq async for batch in batches for event in batch]


async def test_a_watcher_sees_all_and_ends_with_the_job(records: Records) -> None:
    watcher = asyncio.create_task(collected(records.watch(0, FIRST)))
    everything = asyncio.create_task(collected(records.watch(0)))
    for step in range(3 * BATCH):
        await records.write(records.journal.progress, FIRST, TrainProgress(step=step))
        if step % 50 == 0:
            await records.write(records.journal.progress, SECOND, TrainProgress(step=step))
    await records.write(records.journal.apply, FIRST, states.Finished())
    seen = await watcher
    journalled = await records.read(records.journal.events, 0, FIRST, 10_000)
    assert seen == [event.seq for event in journalled]
    assert not everything.done(), "other jobs may still have something to say"
    everything.cancel()
    await asyncio.wait([everything])


async def test_it_goes_on_after_a_number(records: Records) -> None:
    await records.write(records.journal.apply, FIRST, states.Finished())
    assert await collected(records.watch(1, FIRST)) == [3, 4]
    assert await collected(records.watch(4, FIRST)) == []
    assert await collected(records.watch(99, FIRST)) == []


async def test_replay_ends_with_what_is_there(records: Records) -> None:
    assert await collected(records.replay(0)) == [1, 2, 3]
    assert await collected(records.replay(0, SECOND)) == [2]


async def test_an_event_between_two_reads_is_not_missed(records: Records) -> None:
    """The end comes while a slow watcher holds a batch: it is still delivered."""
    watch = records.watch(0, FIRST)
    first = await anext(watch)
    await records.write(records.journal.apply, FIRST, states.Finished())
    rest = [event.seq async for batch in watch for event in batch]
    assert [event.seq for event in first] + rest == [1, 3, 4]


async def test_a_caller_that_gives_up_does_not_hide_the_event(records: Records) -> None:
    watcher = asyncio.create_task(collected(records.watch(0, FIRST)))
    write = asyncio.create_task(records.write(records.journal.apply, FIRST, states.Finished()))
    await asyncio.sleep(0)
    write.cancel()
    assert (await watcher)[-1] == 4


async def test_errors_come_through(records: Records) -> None:
    with pytest.raises(NotFound):
        await records.read(records.journal.job, "01JD00000000000000000000ZZ")
