"""Options that several commands share, declared once."""

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli.output import Format
from protos.errors import InvalidRequest

if TYPE_CHECKING:
    from protos.nanofleet.v1 import artifact_pb2, job_pb2

Output = Annotated[
    Format, typer.Option("-o", "--output", help="How to print the result.", show_choices=True)
]
Home = Annotated[
    Path | None,
    typer.Option(
        "--home",
        envvar="NANOFLEET_HOME",
        show_envvar=True,
        help="The fleet's folder.  [default: ~/.local/share/nanofleet]",
    ),
]
Selector = Annotated[
    str,
    typer.Option(
        "-l",
        "--selector",
        help="Choose devices by label and property: site=lab,mem>=3500Mi.",
    ),
]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Do not ask before changing many.")]


class Kind(str, enum.Enum):
    """Kinds of artifact by the words that people use for them."""

    MODEL = "model"
    DATASET = "dataset"
    ADAPTER = "adapter"
    CHECKPOINT = "checkpoint"

    @property
    def number(self) -> "artifact_pb2.ArtifactKind.ValueType":
        from protos.nanofleet.v1 import artifact_pb2

        return {
            Kind.MODEL: artifact_pb2.ARTIFACT_KIND_BASE_MODEL,
            Kind.DATASET: artifact_pb2.ARTIFACT_KIND_DATASET,
            Kind.ADAPTER: artifact_pb2.ARTIFACT_KIND_ADAPTER,
            Kind.CHECKPOINT: artifact_pb2.ARTIFACT_KIND_CHECKPOINT,
        }[self]


class State(str, enum.Enum):
    """States of a job, as ``job list`` prints them."""

    ASSIGNED = "assigned"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def number(self) -> "job_pb2.JobState.ValueType":
        from protos.nanofleet.v1 import job_pb2

        if self is State.ASSIGNED:
            return job_pb2.JOB_STATE_UNSPECIFIED
        return job_pb2.JobState.Value(f"JOB_STATE_{self.name}")


def seconds(text: str, field: str) -> float:
    """A duration as it was typed; raises InvalidRequest that names the flag."""
    from controller.cli import units

    try:
        return units.seconds_of(text)
    except ValueError:
        raise InvalidRequest(
            f"--{field}: {text!r} is not a duration.", fix="Write 90s, 15m or 2h.", field=field
        ) from None
