"""What a job's events say of its rehearsal; device and controller keep the same picture of it."""

from protos.nanofleet.v1.job_pb2 import JobEvent, Rehearsal


def note(rehearsal: Rehearsal, event: JobEvent) -> None:
    """Takes in an event with a check or the plan. A check that passed again replaces the older."""
    if event.HasField("plan"):
        rehearsal.plan.CopyFrom(event.plan)
        return
    others = [check for check in rehearsal.checks if check.name != event.check.name]
    del rehearsal.checks[:]
    rehearsal.checks.extend([*others, event.check])
