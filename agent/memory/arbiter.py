"""Who has the board's memory: from what is seen, who starts, yields, goes on or goes, and why.

                    room                       a request waits, and both do not fit
       WAITING ───────────────▶ RUNNING ────────────────────────────────────────────▶ SUSPENDED
          ▲                      │   ▲          its model was quiet long enough            │
          │   below the floor    │   └─────────────────────────────────────────────────────┤
          └──────────────────────┴─────────────────────────────────────────────────────────┘
            STOP_JOB: a checkpoint, and the process is gone      not even suspended there is room

A suspended trainer keeps its process and its adapter, and has given back what it computes in: it is
back within a second. ``decide`` gives one decision at a time, the most urgent; it is carried out,
and then what is seen next is decided anew. Pure: no clock, no process, no file. What holds of every
sequence of decisions is in tests/agent/memory/test_arbiter.py.

Beside memory there are the operating limits (agent/operating): the job must rest, whoever asks.

       WAITING    is not begun
       RUNNING    is SUSPENDED
       SUSPENDED  stays so. Afterwards one that made room for nobody goes on as soon as it fits
                  beside the model, also one that answers; one that did waits for the quiet.

Serving goes on meanwhile, and a request may still have the suspended job stopped for its room.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace

from agent.memory.budget import Budget, Claim, known, needed_bytes

MB = 1_000_000


class Phase(enum.Enum):
    """Of the job at the head of the queue."""

    WAITING = "waiting for memory"
    RUNNING = "running"
    SUSPENDED = "suspended"


@dataclass(frozen=True, slots=True)
class Job:
    """``yields``: whether it makes room for a request; ``rested``: whether it was suspended for a
    rest, and for nobody, or has waited for one's end."""

    claim: Claim
    phase: Phase
    yields: bool = True
    rested: bool = False

    @property
    def held(self) -> tuple[Claim, ...]:
        match self.phase:
            case Phase.WAITING:
                return ()
            case Phase.RUNNING:
                return (self.claim,)
            case Phase.SUSPENDED:
                return (self.suspended,)

    @property
    def suspended(self) -> Claim:
        return replace(self.claim, forecast=self.claim.forecast.at_rest)


@dataclass(frozen=True, slots=True)
class Model:
    """The served one. ``busy``: requests run or wait; ``quiet_s``: since the last one ended."""

    claim: Claim
    busy: bool
    quiet_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Observation:
    """``pressure_percent``: share of the last 10 s in which some task waited for memory; None where
    the kernel does not say. ``wanted``: what a request waits for that no loaded model serves.
    ``rest``: why the job must not compute now; empty: it may."""

    budget: Budget
    available_bytes: int
    pressure_percent: float | None = None
    job: Job | None = None
    model: Model | None = None
    wanted: Claim | None = None
    # Whether somebody waits for it; else it is loaded for whoever may come.
    is_asked: bool = True
    rest: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    # Of MemAvailable: below it the kernel soon kills, and may choose the agent.
    floor_bytes: int
    # Above it a suspended trainer helps the request more than a running one does.
    most_pressure_percent: float = 40.0
    # A model without requests for so long lets the job go on.
    quiet_s: float = 30.0
    # A model without requests for so long is unloaded. 0: never.
    idle_s: float = 900.0


class Act(enum.Enum):
    START_JOB = "start the job"
    REFUSE_JOB = "refuse the job"
    SUSPEND_JOB = "suspend the job"
    RESUME_JOB = "resume the job"
    STOP_JOB = "stop the job at a checkpoint"
    LOAD_MODEL = "load the model"
    REFUSE_MODEL = "refuse the model"
    UNLOAD_MODEL = "unload the model"


@dataclass(frozen=True, slots=True)
class Decision:
    act: Act
    reason: str


def decide(seen: Observation, policy: Policy) -> Decision | None:
    """What to do next; None: nothing until something changes, or time has passed."""
    return (
        _rest(seen)
        or _relieve(seen, policy)
        or _serve(seen, policy)
        or _train(seen, policy)
        or _tidy(seen, policy)
    )


def _rest(seen: Observation) -> Decision | None:
    """The job computes where it must not."""
    if seen.rest and seen.job is not None and seen.job.phase is Phase.RUNNING:
        return Decision(Act.SUSPEND_JOB, seen.rest)
    return None


def _relieve(seen: Observation, policy: Policy) -> Decision | None:
    """The board is short of memory, whatever was forecast."""
    is_short = _is_short(seen, policy)
    if not is_short and not _is_pressed(seen, policy):
        return None
    why = _shortage(seen, policy)
    model, job = seen.model, seen.job
    if model is not None and not model.busy:
        return Decision(Act.UNLOAD_MODEL, f"{why}; {model.claim.owner} has no request.")
    if job is None or job.phase is Phase.WAITING:
        return None
    if model is not None and job.phase is Phase.RUNNING:
        return Decision(Act.SUSPEND_JOB, f"{why} while {model.claim.owner} answers.")
    if is_short:
        return Decision(Act.STOP_JOB, f"{why}; it starts again when there is room.")
    return None


def _serve(seen: Observation, policy: Policy) -> Decision | None:
    """A request waits for a model that is not in memory."""
    wanted, model, job = seen.wanted, seen.model, seen.job
    if wanted is None:
        return None
    if _is_short(seen, policy):
        return Decision(Act.REFUSE_MODEL, f"{_shortage(seen, policy)}.")
    if model is not None:
        if model.busy:
            return Decision(Act.REFUSE_MODEL, f"{model.claim.owner} is answering.")
        return Decision(Act.UNLOAD_MODEL, f"A request wants {wanted.owner} in its place.")
    held = job.held if job else ()
    if job is not None and not seen.is_asked:
        # Nobody waits for it: the job has its room, also one that has yet to begin.
        held = (job.claim,)
    there_is = seen.available_bytes - wanted.forecast.anonymous_bytes >= policy.floor_bytes
    if there_is and seen.budget.fits(wanted, held):
        return Decision(Act.LOAD_MODEL, _beside(seen.budget, wanted, held))
    beside = _beside(seen.budget, wanted, held)
    if not there_is:
        beside = f"{beside[:-1]}, and {_mb(seen.available_bytes)} are available."
    if job is not None and held and job.yields and seen.is_asked and seen.budget.fits(wanted):
        why = f"A request wants {wanted.owner}. {beside}"
        if job.phase is Phase.RUNNING and seen.budget.fits(wanted, [job.suspended]):
            return Decision(Act.SUSPEND_JOB, why)
        return Decision(Act.STOP_JOB, f"{why} Suspending the job is not enough.")
    return Decision(Act.REFUSE_MODEL, beside)


def _train(seen: Observation, policy: Policy) -> Decision | None:
    """A job waits for its memory, or for its turn to go on."""
    job, model = seen.job, seen.model
    if job is None or job.phase is Phase.RUNNING or seen.wanted or _is_short(seen, policy):
        return None
    if seen.rest:
        return None
    if not seen.budget.fits(job.claim):
        # It was admitted when the board had more.
        act = Act.REFUSE_JOB if job.phase is Phase.WAITING else Act.STOP_JOB
        return Decision(act, _beside(seen.budget, job.claim, []))
    if model is not None and (model.busy or model.quiet_s < policy.quiet_s):
        fits = seen.budget.fits(job.claim, [model.claim])
        # One that made room waits for the quiet, or it would be suspended again at once.
        made_room = job.phase is Phase.SUSPENDED and not job.rested
        is_free = not made_room and (fits or not (model.busy or job.yields))
        if not is_free:
            return None
    if model is not None and not seen.budget.fits(job.claim, [model.claim]):
        why = (
            f"{job.claim.owner} needs its memory, and it had no request for {model.quiet_s:.0f} s."
        )
        return Decision(Act.UNLOAD_MODEL, why)
    held_bytes = sum(claim.forecast.anonymous_bytes for claim in job.held)
    more_bytes = job.claim.forecast.anonymous_bytes - held_bytes
    if seen.available_bytes - more_bytes < policy.floor_bytes:
        return None
    room = _beside(seen.budget, job.claim, [model.claim] if model else [])
    act = Act.START_JOB if job.phase is Phase.WAITING else Act.RESUME_JOB
    return Decision(act, f"What it rested for is over. {room}" if job.rested else room)


def _tidy(seen: Observation, policy: Policy) -> Decision | None:
    """A model that nobody asks."""
    model = seen.model
    if model is None or model.busy or not 0 < policy.idle_s <= model.quiet_s:
        return None
    return Decision(Act.UNLOAD_MODEL, f"No request for {model.quiet_s / 60:.0f} minutes.")


def waits_for(seen: Observation, policy: Policy) -> str:
    """Why the job at the head of the queue does not run, for people."""
    job, model = seen.job, seen.model
    if job is None or job.phase is Phase.RUNNING:
        return ""
    if seen.rest:
        return seen.rest
    if _is_short(seen, policy):
        return f"{_shortage(seen, policy)}."
    if model is not None and (model.busy or model.quiet_s < policy.quiet_s):
        return f"Waits until {model.claim.owner} was quiet for {policy.quiet_s:.0f} s."
    need = _mb(job.claim.forecast.anonymous_bytes)
    return f"Waits for memory: it needs {need}, and {_mb(seen.available_bytes)} are available."


def _is_short(seen: Observation, policy: Policy) -> bool:
    return seen.available_bytes < policy.floor_bytes


def _is_pressed(seen: Observation, policy: Policy) -> bool:
    return seen.pressure_percent is not None and (
        seen.pressure_percent > policy.most_pressure_percent
    )


def _shortage(seen: Observation, policy: Policy) -> str:
    if _is_short(seen, policy):
        floor = _mb(policy.floor_bytes)
        return f"{_mb(seen.available_bytes)} of memory are available, {floor} must be"
    return f"Tasks waited for memory {seen.pressure_percent:.0f} % of the last seconds"


def _beside(budget: Budget, claim: Claim, held: Sequence[Claim]) -> str:
    """The numbers behind a decision."""
    more_bytes = needed_bytes([*held, claim]) - needed_bytes(held)
    beside = f" beside {' and '.join(other.owner for other in held)}" if held else ""
    needed = f"It needs {_mb(more_bytes)}{known(claim)}{beside}"
    return f"{needed}; {_mb(budget.free_bytes(held))} are free."


def _mb(size_bytes: int) -> str:
    return f"{round(size_bytes / MB):,} MB"
