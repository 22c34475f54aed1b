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

A running job stops only between two micro-steps, so what was asked of it is kept as a *wish* until
its worker has ended; the wish is journalled, and a power cut in between forgets nothing.

A job that breaks goes on from its last checkpoint, as its cause allows (``POLICIES``). What bounds
the retries is counted since that checkpoint: a job that makes progress between two power cuts may
be cut for ever, one that does not is given up after ``MAX_TRANSITIONS``.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from protos.errors import Refused
from protos.nanofleet.v1 import job_pb2

State: TypeAlias = "job_pb2.JobState.ValueType"
Cause: TypeAlias = "job_pb2.Cause.ValueType"

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
    shrinks: int = 0  # times that the recipe was made smaller, in all


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
    can_shrink: bool = False  # a recipe that needs less memory exists


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


class Retry(enum.Enum):
    NEVER = enum.auto()
    ALWAYS = enum.auto()  # within MAX_TRANSITIONS
    FEW = enum.auto()  # MAX_CRASHES times
    SMALLER = enum.auto()  # MAX_SHRINKS times, with a recipe that needs less memory
    ON_REQUEST = enum.auto()  # paused until a person has removed the cause


@dataclass(frozen=True, slots=True)
class Policy:
    retry: Retry
    sentence: str  # for the user, where the worker has nothing more exact to say


POLICIES: Mapping[Cause, Policy] = {
    job_pb2.CAUSE_UNSPECIFIED: Policy(Retry.NEVER, ""),
    job_pb2.CAUSE_OOM: Policy(
        Retry.SMALLER,
        "The worker ran out of memory; use a shorter sequence_length or fewer stored_layers.",
    ),
    job_pb2.CAUSE_THERMAL: Policy(
        Retry.ON_REQUEST, "The board got too hot; improve its cooling, then resume the job."
    ),
    job_pb2.CAUSE_POWER_LOSS: Policy(
        Retry.ALWAYS,
        "The device lost its power or was restarted; the job goes on from where it was.",
    ),
    job_pb2.CAUSE_DISK_FULL: Policy(
        Retry.ON_REQUEST, "The disk is full; delete artifacts, then resume the job."
    ),
    job_pb2.CAUSE_BAD_SPEC: Policy(
        Retry.NEVER, "The recipe cannot be run; correct the job file and submit it again."
    ),
    job_pb2.CAUSE_BAD_DATA: Policy(
        Retry.NEVER, "The dataset cannot be used; correct it and submit the job again."
    ),
    job_pb2.CAUSE_WORKER_CRASH: Policy(
        Retry.FEW, "The worker died unexpectedly; the end of its log says more."
    ),
    job_pb2.CAUSE_GATE_FAILED: Policy(
        Retry.NEVER, "The adapter did not pass its checks; it was not kept."
    ),
    job_pb2.CAUSE_TIMEOUT: Policy(Retry.NEVER, "The job did not end within the time it was given."),
    job_pb2.CAUSE_CANCELED: Policy(Retry.NEVER, "The job was cancelled."),
}


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
            return _after_wish(standing, otherwise=QUEUED)
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
    crash = event.cause == job_pb2.CAUSE_WORKER_CRASH
    shrink = event.cause == job_pb2.CAUSE_OOM
    after = replace(
        standing,
        transitions=standing.transitions + 1,
        crashes=standing.crashes + crash,
        shrinks=standing.shrinks + shrink,
    )
    match POLICIES[event.cause].retry:
        case Retry.NEVER:
            again = False
        case Retry.ALWAYS:
            again = True
        case Retry.FEW:
            again = after.crashes < MAX_CRASHES
        case Retry.SMALLER:
            again = event.can_shrink and after.shrinks <= MAX_SHRINKS
        case Retry.ON_REQUEST:
            after = _wishing(after, Wish.PAUSE)
            again = True
    if again or standing.wish is Wish.CANCEL:
        return _again(after)
    return replace(after, state=FAILED, wish=Wish.NONE)


def _again(standing: Standing) -> Standing:
    """Back into the queue, or where a wish leads; given up when it goes round in circles."""
    if standing.wish is not Wish.CANCEL and standing.transitions >= MAX_TRANSITIONS:
        return replace(standing, state=FAILED, wish=Wish.NONE)
    return _after_wish(standing, otherwise=QUEUED)
