"""A job's picture after an event. Pure: picture and event give the next picture.

The controller needs no more of the state machine than this; what is legal was decided on the
device, before the event was journalled. A job that has ended stays as it ended.
"""

from controller.records import ENDED
from protos import rehearsal as rehearsals
from protos.nanofleet.v1 import job_pb2


def has_ended(job: job_pb2.Job) -> bool:
    return job.state in ENDED


def ends(event: job_pb2.JobEvent) -> bool:
    """Whether the event is the last of its job."""
    return event.HasField("transition") and event.transition.to in ENDED


def after(job: job_pb2.Job, event: job_pb2.JobEvent) -> job_pb2.Job:
    """The picture after the event; ``job`` itself is not changed."""
    if has_ended(job):
        return job
    picture = job_pb2.Job()
    picture.CopyFrom(job)
    if event.HasField("progress"):
        picture.progress.CopyFrom(event.progress)
    elif event.HasField("generated"):
        picture.generating.CopyFrom(event.generated)
    elif event.HasField("decided"):
        _decided(picture, event.decided)
    elif event.HasField("check") or event.HasField("plan"):
        rehearsals.note(picture.rehearsal, event)
    elif event.HasField("transition"):
        _transition(picture, event)
    return picture


def failed(job: job_pb2.Job, message: str) -> job_pb2.Job:
    """The picture of a job that its device has refused, or forgotten."""
    picture = job_pb2.Job()
    picture.CopyFrom(job)
    picture.state = job_pb2.JOB_STATE_FAILED
    picture.ClearField("held")
    picture.message = message
    return picture


def _decided(picture: job_pb2.Job, decided: job_pb2.Decided) -> None:
    if decided.holds:
        picture.held.CopyFrom(decided)
    else:
        picture.ClearField("held")


def _transition(picture: job_pb2.Job, event: job_pb2.JobEvent) -> None:
    transition = event.transition
    picture.state = transition.to
    picture.ClearField("held")
    picture.message = transition.message
    if transition.HasField("result"):
        picture.result.CopyFrom(transition.result)
    if transition.to in ENDED:
        picture.ended.CopyFrom(event.at)
    if event.attempt:
        _attempt(picture, event)


def _attempt(picture: job_pb2.Job, event: job_pb2.JobEvent) -> None:
    """The attempt that the event belongs to; events come in order, so it is the last or new."""
    transition = event.transition
    if not picture.attempts or picture.attempts[-1].number != event.attempt:
        picture.attempts.add(number=event.attempt, started=event.at)
    attempt = picture.attempts[-1]
    attempt.state = transition.to
    attempt.message = transition.message
    if transition.cause:
        attempt.cause = transition.cause
    if transition.to not in (job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_PAUSED):
        attempt.ended.CopyFrom(event.at)
