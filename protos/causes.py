"""The causes for which an attempt of a job ends, in one table: is it tried again, and what is said.

The device decides by it (agent/jobs/states.py), the controller explains by it (`job show`), and
docs/causes.md has a section for each row; a test holds the page against the table.

The sentence is for people where whoever saw it happen has nothing more exact to say. What bounds
the retries is counted since the last checkpoint: see agent/jobs/states.py.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from protos.nanofleet.v1 import job_pb2

Cause: TypeAlias = "job_pb2.Cause.ValueType"

PAGE = "docs/causes.md"


class Retry(enum.Enum):
    """Whether the job goes on by itself; the value is what a person is told."""

    NEVER = "It is not tried again."
    ALWAYS = "The job goes on by itself from its last checkpoint."
    FEW = "It is tried again from the last checkpoint, three times at most without progress."
    SMALLER = (
        "It is tried again once, with the least memory that gives the same result; then it fails."
    )
    ON_REQUEST = "The job is paused at its last checkpoint until it is resumed."


@dataclass(frozen=True, slots=True)
class Policy:
    retry: Retry
    sentence: str


POLICIES: Mapping[Cause, Policy] = {
    job_pb2.CAUSE_UNSPECIFIED: Policy(Retry.NEVER, ""),
    job_pb2.CAUSE_OOM: Policy(
        Retry.SMALLER,
        "The worker ran out of memory; set a memory_budget, or a shorter sequence_length.",
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
    job_pb2.CAUSE_TIMEOUT: Policy(Retry.FEW, "The worker got nowhere any more, and was ended."),
    job_pb2.CAUSE_CANCELED: Policy(Retry.NEVER, "The job was cancelled."),
}


def name(cause: Cause) -> str:
    """``OOM``, ``POWER_LOSS``: as in docs/causes.md, and in messages."""
    return job_pb2.Cause.Name(cause).removeprefix("CAUSE_")


def page(cause: Cause) -> str:
    """Where the cause is explained."""
    return f"{PAGE}#{name(cause).lower()}"
