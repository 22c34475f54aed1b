"""What moves a job from one state to the next. Pure: no clock, no disk, no process.

                            Started            Finished
                   ┌─────────────────▶ ┌─────────┐ ─────────────────────▶ SUCCEEDED
              ┌────────┐               │ RUNNING │ ── Broke, no retry ──▶ FAILED
    submit ──▶│ QUEUED │ ◀──────────── └─────────┘
              └────────┘    Broke,       │   │  after CancelAsked
   PauseAsked │  ▲  │  Interrupted,      │   └────────────────────────┐
              ▼  │  │     Stopped        │ after PauseAsked,          │
           ┌────────┐                    │ or a cause that waits      │
           │ PAUSED │ ◀──────────────────┘ for a person               ▼
           └────────┘ ─── CancelAsked (QUEUED, too) ──────────────▶ CANCELED

The same as a table, which a test makes from ``apply``: to which states an event leads, by where the
job is ("-": it cannot happen there, and is refused).

    event        in QUEUED  in RUNNING                     in PAUSED  when ended
    Started      RUNNING    -                              -          -
    Saved        -          RUNNING                        -          -
    Finished     -          SUCCEEDED                      -          -
    Stopped      -          QUEUED PAUSED CANCELED         -          -
    Broke        -          QUEUED PAUSED FAILED CANCELED  -          -
    Interrupted  -          QUEUED PAUSED FAILED CANCELED  -          -
    PauseAsked   PAUSED     RUNNING                        PAUSED     -
    ResumeAsked  QUEUED     RUNNING                        QUEUED     -
    CancelAsked  CANCELED   RUNNING                        CANCELED   unchanged

A running job stops only between two micro-steps, so what was asked of it is kept as a *wish* until
its worker has ended; the wish is journalled, and a power cut in between forgets nothing.

A job that breaks goes on from its last checkpoint, as its cause allows (protos/causes.py). What
bounds the retries is counted since that checkpoint: a job that makes progress between two power
cuts may be cut for ever, one that does not is given up after ``MAX_TRANSITIONS``.
"""

import enum
from dataclasses import dataclass, replace
from typing import TypeAlias

from protos.causes import POLICIES, Cause, Retry
from protos.errors import Refused
from protos.nanofleet.v1 import job_pb2

State: TypeAlias = "job_pb2.JobState.ValueType"

QUEUED = job_pb2.JOB_STATE_QUEUED
RUNNING = job_pb2.JOB_STATE_RUNNING
PAUSED = job_pb2.JOB_STATE_PAUSED
SUCCEEDED = job_pb2.JOB_STATE_SUCCEEDED
FAILED = job_pb2.JOB_STATE_FAILED
CANCELED = job_pb2.JOB_STATE_CANCELED
NO_CAUSE = job_pb2.CAUSE_UNSPECIFIED
ACTIVE = frozenset({QUEUED, RUNNING, PAUSED})
ENDED = frozenset({SUCCEEDED, FAILED, CANCELED})

# Starts and interruptions without a checkpoint between them.
MAX_TRANSITIONS = 28
MAX_CRASHES = 3
MAX_SHRINKS = 1


class Wish(str, enum.Enum):
    """What was asked of a running job and has not happened yet."""

    NONE = ""
    PAUSE = "pause"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Standing:
    """All that the next step of a job depends on."""

    state: State = QUEUED
    wish: Wish = Wish.NONE
    transitions: int = 0  # starts and interruptions since the last checkpoint
    crashes: int = 0  # since the last checkpoint
    shrinks: int = (
        0  # times that it ran out of memory, in all: from the first on it takes the least
    )


@dataclass(frozen=True, slots=True)
class Started:
    pass


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint is on disk: from here on there is something to lose again."""


@dataclass(frozen=True, slots=True)
class Finished:
    pass


@dataclass(frozen=True, slots=True)
class Stopped:
    """The worker wrote a checkpoint and ended because it was told to."""


@dataclass(frozen=True, slots=True)
class Broke:
    """The attempt ended other than well."""

    cause: Cause


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The agent itself was gone when the attempt ended: nobody can say that the job is at fault."""

    cause: Cause


@dataclass(frozen=True, slots=True)
class PauseAsked:
    pass


@dataclass(frozen=True, slots=True)
class ResumeAsked:
    pass


@dataclass(frozen=True, slots=True)
class CancelAsked:
    pass


Event: TypeAlias = (
    Started
    | Saved
    | Finished
    | Stopped
    | Broke
    | Interrupted
    | PauseAsked
    | ResumeAsked
    | CancelAsked
)


def apply(standing: Standing, event: Event) -> Standing:
    """The standing after the event. Raises Refused for an event that cannot be in this state."""
    match event:
        case PauseAsked() | ResumeAsked() | CancelAsked():
            return _asked(standing, event)
        case Started() if standing.state == QUEUED:
            return replace(standing, state=RUNNING, transitions=standing.transitions + 1)
        case Saved() if standing.state == RUNNING:
            return replace(standing, transitions=0, crashes=0)
        case Finished() if standing.state == RUNNING:
            return replace(standing, state=SUCCEEDED, wish=Wish.NONE)
        case Stopped() if standing.state == RUNNING:
            # As it was before the start: who makes room again and again is not at fault.
            given_back = replace(standing, transitions=max(0, standing.transitions - 1))
            return _after_wish(given_back, otherwise=QUEUED)
        case Broke() if standing.state == RUNNING:
            return _broken(standing, event)
        case Interrupted() if standing.state == RUNNING:
            return _again(replace(standing, transitions=standing.transitions + 1))
    name = job_pb2.JobState.Name(standing.state).removeprefix("JOB_STATE_")
    raise Refused(f"A job that is {name} cannot have {type(event).__name__}.")


def cause_of(event: Event, after: State) -> Cause:
    """Why the job is where the event brought it. A cancelled job is so because somebody asked for
    it, however its worker ended: killed, stopped at a checkpoint, or failed in that very moment."""
    if after == CANCELED:
        return job_pb2.CAUSE_CANCELED
    return event.cause if isinstance(event, Broke | Interrupted) else NO_CAUSE


def _asked(standing: Standing, event: PauseAsked | ResumeAsked | CancelAsked) -> Standing:
    """What people ask for; asking twice is the same as asking once."""
    if isinstance(event, CancelAsked):
        if standing.state in ENDED:
            return standing
        if standing.state == RUNNING:
            return replace(standing, wish=Wish.CANCEL)
        return replace(standing, state=CANCELED)
    if standing.state in ENDED:
        raise Refused("The job has ended.", fix="Submit it again under a new id.")
    if isinstance(event, PauseAsked):
        if standing.state == RUNNING:
            return _wishing(standing, Wish.PAUSE)
        return replace(standing, state=PAUSED)
    if standing.state == PAUSED:
        return replace(standing, state=QUEUED, transitions=0, crashes=0)
    return _wishing(standing, Wish.NONE)


def _wishing(standing: Standing, wish: Wish) -> Standing:
    """Nobody takes back a cancellation."""
    return standing if standing.wish is Wish.CANCEL else replace(standing, wish=wish)


def _after_wish(standing: Standing, otherwise: State) -> Standing:
    wished = {Wish.PAUSE: PAUSED, Wish.CANCEL: CANCELED, Wish.NONE: otherwise}
    return replace(standing, state=wished[standing.wish], wish=Wish.NONE)


def _broken(standing: Standing, event: Broke) -> Standing:
    retry = POLICIES[event.cause].retry
    after = replace(
        standing,
        transitions=standing.transitions + 1,
        crashes=standing.crashes + (retry is Retry.FEW),
        shrinks=standing.shrinks + (retry is Retry.SMALLER),
    )
    match retry:
        case Retry.NEVER:
            again = False
        case Retry.ALWAYS:
            again = True
        case Retry.FEW:
            again = after.crashes < MAX_CRASHES
        case Retry.SMALLER:
            again = after.shrinks <= MAX_SHRINKS
        case Retry.ON_REQUEST:
            after = _wishing(after, Wish.PAUSE)
            again = True
    if again or standing.wish is Wish.CANCEL:
        return _again(after)
    return replace(after, state=FAILED, wish=Wish.NONE)


def _again(standing: Standing) -> Standing:
    """Back into the queue, or where a wish leads; given up when it goes round in circles, and there
    is no room for one more start and its end."""
    if standing.wish is not Wish.CANCEL and standing.transitions > MAX_TRANSITIONS - 2:
        return replace(standing, state=FAILED, wish=Wish.NONE)
    return _after_wish(standing, otherwise=QUEUED)
