"""What the journal lets go of, and what it keeps whatever happens."""

import asyncio
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.jobs import retention, states
from agent.jobs.journal import Account, Journal
from agent.jobs.records import Records
from agent.jobs.retention import Limits
from protos.errors import AlreadyExists
from protos.nanofleet.v1 import job_pb2
from protos.nanofleet.v1.device_pb2 import DeviceEvent
from protos.nanofleet.v1.job_pb2 import JobEvent
from tests.agent.clocks import FakeClock
from tests.agent.jobs.samples import FIRST, SECOND, spec_bytes

NOTHING = Limits(keep_bytes=0, most_bytes=1 << 30)
STEPS = 20


def opened(folder: Path, limits: Limits) -> Journal:
    return Journal(folder / "journal.db", FakeClock(), limits)


@pytest.fixture
def open_with(tmp_path: Path) -> Iterator[Callable[[Limits], Journal]]:
    """A journal with these limits, in one file: the one before is closed."""
    journals: list[Journal] = []

    def reopened(limits: Limits) -> Journal:
        while journals:
            journals.pop().close()
        journals.append(opened(tmp_path, limits))
        return journals[-1]

    yield reopened
    for journal in journals:
        journal.close()


def begin(journal: Journal, job_id: str, steps: int = STEPS) -> None:
    journal.submit(job_id, 1, spec_bytes(), "controller/ann")
    journal.apply(job_id, states.Started())
    for step in range(steps):
        journal.progress(job_id, job_pb2.TrainProgress(step=step + 1, loss=1 / (step + 1)))


def run(journal: Journal, job_id: str, steps: int = STEPS) -> None:
    """To its end, which has a diagnosis."""
    begin(journal, job_id, steps)
    account = Account("line 3: no text", log_tail="Traceback")
    journal.apply(job_id, states.Broke(job_pb2.CAUSE_BAD_DATA), account)


def prune(journal: Journal) -> int:
    """Returns in how many slices."""
    slices = 0
    while journal.retention.prune():
        slices += 1
    return slices


def bodies(journal: Journal, job_id: str = "") -> list[str]:
    return [event.WhichOneof("body") or "" for event in journal.events(0, job_id, 100_000)]


def test_nothing_goes_while_there_is_room(open_with: Callable[[Limits], Journal]) -> None:
    journal = open_with(retention.LIMITS)
    run(journal, FIRST)
    before = journal.events(0)
    journal.retention.acknowledge(journal.newest_seq())
    assert prune(journal) == 0
    assert journal.events(0) == before


def test_the_summary_of_an_acknowledged_job_stays(open_with: Callable[[Limits], Journal]) -> None:
    journal = open_with(NOTHING)
    run(journal, FIRST)
    before, job = journal.events(0), journal.job(FIRST)
    journal.retention.acknowledge(journal.newest_seq())
    assert prune(journal) == 1
    left = journal.events(0)
    assert bodies(journal) == ["transition", "transition", "pruned", "transition"]
    assert [event for event in left if event.HasField("transition")] == [
        event for event in before if event.HasField("transition")
    ]
    gone = left[2]
    assert (gone.pruned.events, gone.pruned.first_seq, gone.seq) == (STEPS, 3, STEPS + 2)
    assert not gone.pruned.unacknowledged
    assert (gone.job_id, gone.attempt, gone.at) == (FIRST, 1, before[STEPS + 1].at)
    assert journal.job(FIRST) == job
    assert job.attempts[0].log_tail == "Traceback"


def test_a_job_is_known_by_its_id_for_ever(open_with: Callable[[Limits], Journal]) -> None:
    journal = open_with(NOTHING)
    run(journal, FIRST)
    journal.retention.acknowledge(journal.newest_seq())
    prune(journal)
    journal = open_with(NOTHING)
    newest = journal.newest_seq()
    again = journal.submit(FIRST, 1, spec_bytes(), "controller/ann")
    assert again.state == states.FAILED
    assert journal.next_queued() is None
    assert journal.newest_seq() == newest, "nothing has happened"
    with pytest.raises(AlreadyExists):
        journal.submit(FIRST, 1, spec_bytes() + b"\x0a\x00", "controller/ann")


def test_what_runs_and_what_the_device_tells_is_left_alone(
    open_with: Callable[[Limits], Journal],
) -> None:
    journal = open_with(Limits(0, 0))
    journal.device.add(DeviceEvent(act="load the model"))
    begin(journal, FIRST)
    before = journal.events(0)
    journal.retention.acknowledge(journal.newest_seq())
    assert prune(journal) == 0
    assert journal.events(0) == before
    assert len(journal.device.newest(10)) == 1


def test_what_no_controller_has_stays_up_to_the_quota_and_then_goes_with_a_word(
    open_with: Callable[[Limits], Journal], caplog: pytest.LogCaptureFixture
) -> None:
    journal = open_with(NOTHING)
    run(journal, FIRST)
    run(journal, SECOND)
    first = [event.seq for event in journal.events(0, FIRST)]
    assert prune(journal) == 0
    journal.retention.acknowledge(first[5])
    assert prune(journal) == 0, "most of it is not there yet"
    one_job = sum(len(event.SerializeToString()) for event in journal.events(0, SECOND)) * 3 // 2
    journal = open_with(Limits(0, one_job))
    with caplog.at_level(logging.WARNING):
        assert prune(journal) == 1
    assert f"{STEPS} of its events go that no controller has: from number 3 to 22" in caplog.text
    (gone,) = [event.pruned for event in journal.events(0) if event.HasField("pruned")]
    assert (gone.events, gone.unacknowledged) == (STEPS, True)
    assert bodies(journal, SECOND).count("progress") == STEPS


def test_the_oldest_goes_first_and_only_as_much_as_must(
    open_with: Callable[[Limits], Journal],
) -> None:
    journal = open_with(retention.LIMITS)
    run(journal, FIRST)
    run(journal, SECOND)
    size_bytes = sum(len(event.SerializeToString()) for event in journal.events(0, SECOND))
    journal.retention.acknowledge(journal.newest_seq())
    journal = open_with(Limits(size_bytes + 100, 1 << 30))
    prune(journal)
    assert "progress" not in bodies(journal, FIRST)
    assert bodies(journal, SECOND).count("progress") == STEPS


def test_one_that_was_broken_off_goes_on_where_it_was(
    open_with: Callable[[Limits], Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "SLICE", 6)
    journal = open_with(NOTHING)
    run(journal, FIRST)
    journal.retention.acknowledge(journal.newest_seq())
    for _ in range(2):
        assert journal.retention.prune()
    journal = open_with(NOTHING)
    assert journal.retention.acknowledged_seq == journal.newest_seq()
    prune(journal)
    gone = [event.pruned for event in journal.events(0) if event.HasField("pruned")]
    assert sum(one.events for one in gone) == STEPS
    assert bodies(journal).count("transition") == 3
    assert set(bodies(journal)) == {"transition", "pruned"}


def test_numbers_that_were_never_given_and_older_ones_acknowledge_nothing(
    open_with: Callable[[Limits], Journal],
) -> None:
    journal = open_with(NOTHING)
    journal.retention.acknowledge(7)
    assert journal.retention.acknowledged_seq == 0
    run(journal, FIRST)
    journal.retention.acknowledge(1_000_000)
    newest = journal.newest_seq()
    assert journal.retention.acknowledged_seq == newest
    journal.retention.acknowledge(2)
    assert journal.retention.acknowledged_seq == newest


def test_the_file_grows_no_further(open_with: Callable[[Limits], Journal]) -> None:
    """The pages of what went take what comes."""
    journal = open_with(NOTHING)

    def page_count() -> int:
        return int(journal._db.execute("PRAGMA page_count").fetchone()[0])

    sizes = []
    for number in range(12):
        run(journal, f"01JD00000000000000000000{number:02}", steps=400)
        journal.retention.acknowledge(journal.newest_seq())
        prune(journal)
        sizes.append(page_count())
    grown_by = sizes[-1] - sizes[1]
    assert grown_by < 0.2 * 10 * (sizes[0] - 10), sizes


async def test_the_agent_does_it_by_itself(tmp_path: Path) -> None:
    """As soon as there is something to let go of."""
    journal = opened(tmp_path, NOTHING)
    run(journal, FIRST)
    records = Records(journal)
    keeping = asyncio.create_task(records.keep_room())
    await records.write(journal.retention.acknowledge, journal.newest_seq())
    while "progress" in await records.read(bodies, journal):
        pass
    keeping.cancel()
    await asyncio.wait({keeping})
    await records.close()


JOBS = [f"01JD0000000000000000000{letter}" for letter in ("AA1", "BB2", "CC3")]
ACTS = st.one_of(
    st.tuples(st.just("tell"), st.integers(1, 9)),
    st.tuples(st.just("end"), st.just(0)),
    st.tuples(st.just("acknowledge"), st.integers(0, 60)),
    st.tuples(st.just("prune"), st.just(0)),
    st.tuples(st.just("open again"), st.just(0)),
)


@given(
    acts=st.lists(ACTS, max_size=25),
    limits=st.builds(Limits, st.just(0), st.sampled_from([0, 1000, 1 << 30])),
)
def test_nothing_goes_in_silence(acts: list[tuple[str, int]], limits: Limits) -> None:
    """Whatever happens: changes of state stay, and each other event is there, or counted as gone;
    it goes only when its job has ended, and a controller has it or the quota is reached."""
    truth: dict[int, JobEvent] = {}
    with tempfile.TemporaryDirectory() as folder:
        journal, running = opened(Path(folder), limits), 0
        begin(journal, JOBS[0], steps=1)
        for act, number in acts:
            if act == "tell" and running < len(JOBS):
                for _ in range(number):
                    journal.log(JOBS[running], job_pb2.LogLine(text="x" * 40))
            elif act == "end" and running < len(JOBS):
                journal.apply(JOBS[running], states.Finished(), Account("done"))
                running += 1
                if running < len(JOBS):
                    begin(journal, JOBS[running], steps=1)
            elif act == "acknowledge":
                journal.retention.acknowledge(number)
            elif act == "open again":
                journal.close()
                journal = opened(Path(folder), limits)
            newest = max(truth, default=0)
            truth |= {event.seq: event for event in journal.events(newest, limit=10_000)}
            if act == "prune":
                prune(journal)
        left = {event.seq: event for event in journal.events(0, limit=10_000)}
        acknowledged = journal.retention.acknowledged_seq
        ends = {event.job_id: seq for seq, event in truth.items()
                if event.transition.to == states.SUCCEEDED}  # fmt: skip
        with closing(journal):
            check(truth, left, acknowledged, ends, limits)


def check(
    truth: dict[int, JobEvent],
    left: dict[int, JobEvent],
    acknowledged: int,
    ends: dict[str, int],
    limits: Limits,
) -> None:
    markers = [event for event in left.values() if event.HasField("pruned")]
    gone = {seq for seq in truth if left.get(seq) != truth[seq]}
    assert sum(event.pruned.events for event in markers) == len(gone)
    for event in markers:
        between = {seq for seq in gone if event.pruned.first_seq <= seq <= event.seq}
        assert event.pruned.events == len(between)
        assert event.pruned.unacknowledged or event.seq <= acknowledged
    for seq in gone:
        job_id = truth[seq].job_id
        assert not truth[seq].HasField("transition")
        assert job_id in ends, "only of jobs that have ended"
        assert ends[job_id] <= acknowledged or limits.most_bytes < 1 << 30
