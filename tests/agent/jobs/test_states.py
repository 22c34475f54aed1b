"""The state machine, judged by a table, and by everything that could happen in any order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.jobs import states
from agent.jobs.states import (
    CANCELED,
    ENDED,
    FAILED,
    MAX_TRANSITIONS,
    PAUSED,
    POLICIES,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    Broke,
    CancelAsked,
    Event,
    Finished,
    Interrupted,
    PauseAsked,
    ResumeAsked,
    Retry,
    Saved,
    Standing,
    Started,
    State,
    Stopped,
    Wish,
    apply,
)
from protos.errors import Refused
from protos.nanofleet.v1 import job_pb2

OOM, CRASH = job_pb2.CAUSE_OOM, job_pb2.CAUSE_WORKER_CRASH
POWER, FULL = job_pb2.CAUSE_POWER_LOSS, job_pb2.CAUSE_DISK_FULL
DATA, CANCEL = job_pb2.CAUSE_BAD_DATA, job_pb2.CAUSE_CANCELED

TABLE: list[tuple[str, list[Event], State]] = [
    ("a job that goes well", [Started(), Saved(), Finished()], SUCCEEDED),
    ("told to stop", [Started(), Stopped()], QUEUED),
    ("paused while it waits", [PauseAsked()], PAUSED),
    ("paused while it runs", [Started(), PauseAsked()], RUNNING),
    ("paused, and its worker has ended", [Started(), PauseAsked(), Stopped()], PAUSED),
    ("paused, and its worker crashes", [Started(), PauseAsked(), Broke(CRASH)], PAUSED),
    ("paused, and finished before it could", [Started(), PauseAsked(), Finished()], SUCCEEDED),
    ("resumed", [PauseAsked(), ResumeAsked()], QUEUED),
    ("resumed before it was paused", [Started(), PauseAsked(), ResumeAsked(), Stopped()], QUEUED),
    ("cancelled while it waits", [CancelAsked()], CANCELED),
    ("cancelled while it is paused", [PauseAsked(), CancelAsked()], CANCELED),
    ("cancelled while it runs", [Started(), CancelAsked(), Broke(CRASH)], CANCELED),
    ("cancelled, then resumed", [Started(), CancelAsked(), ResumeAsked(), Stopped()], CANCELED),
    ("cancelled twice", [CancelAsked(), CancelAsked()], CANCELED),
    ("cancelled after its end", [Started(), Finished(), CancelAsked()], SUCCEEDED),
    ("cancelled, then the power fails", [Started(), CancelAsked(), Interrupted(POWER)], CANCELED),
    ("the power fails", [Started(), Interrupted(POWER)], QUEUED),
    ("the power fails while pausing", [Started(), PauseAsked(), Interrupted(POWER)], PAUSED),
    ("the agent dies", [Started(), Interrupted(CRASH)], QUEUED),
    ("bad data", [Started(), Broke(DATA)], FAILED),
    ("one crash", [Started(), Broke(CRASH)], QUEUED),
    ("three crashes", [Started(), Broke(CRASH)] * 3, FAILED),
    ("crashes between checkpoints", [Started(), Saved(), Broke(CRASH)] * 9, QUEUED),
    ("out of memory", [Started(), Broke(OOM)], FAILED),
    ("out of memory, can shrink", [Started(), Broke(OOM, can_shrink=True)], QUEUED),
    ("shrunk, and again", [Started(), Saved(), Broke(OOM, can_shrink=True)] * 2, FAILED),
    ("the disk is full", [Started(), Broke(FULL)], PAUSED),
    ("the disk is full again and again", [Started(), Broke(FULL), ResumeAsked()] * 40, QUEUED),
    ("boots in a loop", [Started(), Interrupted(POWER)] * (MAX_TRANSITIONS // 2), FAILED),
    ("boots, with progress", [Started(), Saved(), Interrupted(POWER)] * 99, QUEUED),
]


@pytest.mark.parametrize(("events", "state"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE])
def test_table(events: list[Event], state: State) -> None:
    standing = Standing()
    for event in events:
        standing = apply(standing, event)
    assert job_pb2.JobState.Name(standing.state) == job_pb2.JobState.Name(state)


@pytest.mark.parametrize("event", [Started(), Saved(), Finished(), Stopped(), Broke(CRASH)])
def test_what_cannot_be_is_refused(event: Event) -> None:
    with pytest.raises(Refused):
        apply(Standing(state=SUCCEEDED), event)


def test_every_cause_has_a_policy_and_a_sentence() -> None:
    assert set(POLICIES) == set(job_pb2.Cause.values())
    for cause, policy in POLICIES.items():
        assert cause == states.NO_CAUSE or policy.sentence.endswith(".")
    assert {policy.retry for policy in POLICIES.values()} == set(Retry)


CAUSES = st.sampled_from([cause for cause in POLICIES if cause])
EVENTS = st.one_of(
    st.sampled_from(
        [Started(), Saved(), Finished(), Stopped(), PauseAsked(), ResumeAsked(), CancelAsked()]
    ),
    st.builds(Broke, CAUSES, st.booleans()),
    st.builds(Interrupted, CAUSES),
)


@given(st.lists(EVENTS, max_size=120))
def test_whatever_happens(events: list[Event]) -> None:
    """An end is an end; a wish lives only while a job runs; no circle without progress is long."""
    standing, starts = Standing(), 0
    for event in events:
        try:
            after = apply(standing, event)
        except Refused:
            continue
        assert standing.state not in ENDED or after == standing
        assert after.state == RUNNING or after.wish is Wish.NONE
        if isinstance(event, Started):
            starts += 1
        if isinstance(event, Saved | ResumeAsked):
            starts = 0
        assert starts <= MAX_TRANSITIONS
        standing = after
