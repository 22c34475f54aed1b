"""What is known of a job while it runs: a value, and one pure function that adds an event to it.

The screen (job_screen) draws it, the streams (follow) feed it; neither knows the other.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from controller.cli.plain import enum_name
from protos.errors import NanofleetError, WorkerFailed
from protos.nanofleet.v1 import job_pb2, telemetry_pb2

if TYPE_CHECKING:
    from controller import JobRecord

ENDED = frozenset(
    {job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELED}
)
# Enough for a curve as wide as a terminal; the newest are kept.
_MAX_LOSSES = 400


@dataclass(frozen=True, slots=True)
class JobView:
    job_id: str
    name: str
    device: str
    state: "job_pb2.JobState.ValueType" = job_pb2.JOB_STATE_UNSPECIFIED
    cause: "job_pb2.Cause.ValueType" = job_pb2.CAUSE_UNSPECIFIED
    message: str = ""
    # Why it computes nothing now, though it runs; empty: it computes.
    rests: str = ""
    attempt: int = 0
    progress: job_pb2.TrainProgress | None = None
    generating: job_pb2.GenerateProgress | None = None
    result: job_pb2.JobResult | None = None
    losses: tuple[float, ...] = ()
    # Those of the stage that runs: each stage has held-out samples of its own.
    evaluations: tuple[job_pb2.Evaluated, ...] = ()
    power_mw: int | None = None
    temperature_c: float | None = None
    # Power and heat are those of a simulated board.
    is_simulated: bool = False
    # Why nothing arrives at the moment; empty while the link is up.
    link_problem: str = ""

    @property
    def ended(self) -> bool:
        return self.state in ENDED


def of(record: "JobRecord") -> JobView:
    """What the controller knows of the job, without its events."""
    job = record.job
    last = job.attempts[-1] if job.attempts else job_pb2.Attempt()
    return JobView(
        record.id,
        record.name,
        record.device,
        state=record.state,
        cause=last.cause,
        message=job.message or last.message,
        rests=job.held.reason,
        attempt=last.number,
        result=job.result if job.HasField("result") else None,
    )


def apply(event: job_pb2.JobEvent, view: JobView) -> JobView:
    """The view after ``event``; events arrive in the order of the journal."""
    view = replace(view, attempt=event.attempt or view.attempt, link_problem="")
    body = event.WhichOneof("body")
    if body == "transition":
        return _moved(event.transition, view)
    if body == "progress":
        return replace(
            view,
            progress=event.progress,
            losses=_curve(view, event.progress),
            evaluations=_evaluations_at(view, event.progress),
        )
    if body == "generated":
        return replace(view, generating=event.generated)
    if body == "decided":
        return replace(view, rests=event.decided.reason if event.decided.holds else "")
    if body == "evaluated":
        return replace(view, evaluations=_evaluations_with(view, event.evaluated))
    return view


def observe(sample: telemetry_pb2.TelemetrySample, view: JobView) -> JobView:
    """The view with the board's power and heat; absent stays absent."""
    power = sample.power
    return replace(
        view,
        power_mw=power.total_mw if power.HasField("total_mw") else None,
        temperature_c=board_c(sample),
        is_simulated=sample.simulated,
        link_problem="",
    )


def disconnected(problem: str, view: JobView) -> JobView:
    """The view while the device does not answer: power and heat are no longer known."""
    return replace(view, link_problem=problem, power_mw=None, temperature_c=None)


def board_c(sample: telemetry_pb2.TelemetrySample) -> float | None:
    """The junction's temperature where the board tells it, else its hottest zone."""
    if sample.HasField("heat"):
        return sample.heat.celsius
    return max((zone.celsius for zone in sample.temperatures), default=None)


def failure(view: JobView) -> NanofleetError | None:
    """What a job that did not succeed is reported as; None for one that did, or still runs."""
    if not view.ended or view.state == job_pb2.JOB_STATE_SUCCEEDED:
        return None
    cause = enum_name(job_pb2.Cause.DESCRIPTOR, view.cause)
    if view.state == job_pb2.JOB_STATE_CANCELED:
        return WorkerFailed(f"Job {view.name} was canceled.", reason="JOB_CANCELED")
    return WorkerFailed(
        f"Job {view.name} failed on {view.device}" + (f": {cause}." if view.cause else "."),
        why=view.message,
        fix=f"See `nanofleet job logs {view.job_id}`.",
        reason=f"JOB_{cause.upper()}" if view.cause else "JOB_FAILED",
    )


def _moved(transition: job_pb2.Transition, view: JobView) -> JobView:
    return replace(
        view,
        state=transition.to,
        rests="",
        cause=transition.cause,
        message=transition.message,
        result=transition.result if transition.HasField("result") else view.result,
    )


def _curve(view: JobView, progress: job_pb2.TrainProgress) -> tuple[float, ...]:
    """The losses so far. A new attempt resumes at its checkpoint: what it repeats is cut off."""
    known = view.losses
    if view.progress is not None and progress.step <= view.progress.step:
        known = known[: max(0, len(known) - (view.progress.step - progress.step + 1))]
    return (*known, progress.loss)[-_MAX_LOSSES:]


def _evaluations_at(
    view: JobView, progress: job_pb2.TrainProgress
) -> tuple[job_pb2.Evaluated, ...]:
    """Those of the stage up to this step. What a new attempt repeats is evaluated again."""
    return tuple(
        found
        for found in view.evaluations
        if found.stage == progress.stage and found.step <= progress.step
    )


def _evaluations_with(view: JobView, new: job_pb2.Evaluated) -> tuple[job_pb2.Evaluated, ...]:
    known = (old for old in view.evaluations if old.stage == new.stage and old.step < new.step)
    return (*known, new)
