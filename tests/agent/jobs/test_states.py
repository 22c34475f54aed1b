"""The state machine, judged by a table, and by everything that could happen in any order."""

import re

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
    Saved,
    Standing,
    Started,
    State,
    Stopped,
    Wish,
    apply,
)
from protos.causes import POLICIES
from protos.errors import Refused
from protos.nanofleet.v1 import job_pb2

OOM, CRASH = job_pb2.CAUSE_OOM, job_pb2.CAUSE_WORKER_CRASH
POWER, FULL = job_pb2.CAUSE_POWER_LOSS, job_pb2.CAUSE_DISK_FULL
DATA, TIMEOUT = job_pb2.CAUSE_BAD_DATA, job_pb2.CAUSE_TIMEOUT

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
    ("out of memory", [Started(), Broke(OOM)], QUEUED),
    ("out of memory with the least, too", [Started(), Saved(), Broke(OOM)] * 2, FAILED),
    ("hung", [Started(), Broke(TIMEOUT)], QUEUED),
    ("hung three times", [Started(), Broke(TIMEOUT)] * 3, FAILED),
    ("makes room for others again and again", [Started(), Stopped()] * 99, QUEUED),
    (
        "made room, then a cut",
        [*[Started(), Stopped()] * 99, Started(), Interrupted(POWER)],
        QUEUED,
    ),
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


CAUSES = [cause for cause in POLICIES if cause]
EVENTS: list[Event] = [
    Started(),
    Saved(),
    Finished(),
    Stopped(),
    *(Broke(cause) for cause in CAUSES),
    *(Interrupted(cause) for cause in CAUSES),
    PauseAsked(),
    ResumeAsked(),
    CancelAsked(),
]


def after(standing: Standing, event: Event) -> Standing | None:
    """None where the event is refused."""
    try:
        return apply(standing, event)
    except Refused:
        return None


def reachable() -> set[Standing]:
    """Every standing that any events lead to, in any order: they are a few thousand."""
    found, new = {Standing()}, [Standing()]
    while new:
        standing = new.pop()
        nexts = {then for event in EVENTS if (then := after(standing, event))}
        new += nexts - found
        found |= nexts
    return found


REACHABLE = reachable()


def test_no_job_goes_round_in_circles() -> None:
    """The bound holds in each standing there is, so it holds for each sequence of events."""
    assert max(standing.transitions for standing in REACHABLE) == MAX_TRANSITIONS
    assert {s.state for s in REACHABLE if s.transitions == MAX_TRANSITIONS} <= ENDED
    for standing in REACHABLE:
        for event in EVENTS:
            then = after(standing, event)
            if then is None or isinstance(event, Saved | ResumeAsked):
                continue
            gone_on = then.transitions - standing.transitions
            assert gone_on >= (-1 if isinstance(event, Stopped) else 0)
            assert gone_on == 1 or not isinstance(event, Started | Broke | Interrupted)


def test_an_end_is_an_end_and_a_wish_lives_only_while_a_job_runs() -> None:
    for standing in REACHABLE:
        assert standing.state == RUNNING or standing.wish is Wish.NONE
        if standing.state in ENDED:
            assert {after(standing, event) for event in EVENTS} <= {standing, None}


def test_the_table_beside_the_code_is_what_it_does() -> None:
    wheres = {"in QUEUED": QUEUED, "in RUNNING": RUNNING, "in PAUSED": PAUSED}

    def leads(event: str, standings: list[Standing]) -> str:
        kinds = [each for each in EVENTS if type(each).__name__ == event]
        moves = [(s, then) for s in standings for each in kinds if (then := after(s, each))]
        if moves and standings[0].state in ENDED:
            assert all(before == then for before, then in moves)
            return "unchanged"
        return " ".join(NAMES[state] for state in NAMES if state in {m.state for _, m in moves})

    def row(event: str) -> list[str]:
        places = [[s for s in REACHABLE if s.state == state] for state in wheres.values()]
        ended = [s for s in REACHABLE if s.state in ENDED]
        return [event, *(leads(event, place) or "-" for place in [*places, ended])]

    rows = [["event", *wheres, "when ended"]]
    rows += [row(event) for event in dict.fromkeys(type(each).__name__ for each in EVENTS)]
    drawn = [re.split(r"\s{2,}", line.strip()) for line in (states.__doc__ or "").splitlines()]
    start = drawn.index(rows[0])
    assert drawn[start : start + len(rows)] == rows


NAMES = {
    state: job_pb2.JobState.Name(state).removeprefix("JOB_STATE_")
    for state in (QUEUED, RUNNING, PAUSED, SUCCEEDED, FAILED, CANCELED)
}


@given(st.lists(st.sampled_from(EVENTS), max_size=120))
def test_progress_is_what_a_job_may_be_cut_after_for_ever(events: list[Event]) -> None:
    """Whatever happened before: with a checkpoint in between, a power cut ends no job."""
    standing = Standing()
    for event in events:
        standing = after(standing, event) or standing
    if standing.state != RUNNING:
        return
    cut = apply(apply(standing, Saved()), Interrupted(POWER))
    expected = {Wish.NONE: QUEUED, Wish.PAUSE: PAUSED, Wish.CANCEL: CANCELED}
    assert cut.state == expected[standing.wish]
