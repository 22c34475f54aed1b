"""What stands below ``limits`` in a job file: under which conditions of the board the job rests.

    limits:
      pause_above_c: 85          # and resume_below_c: 75, which is the default
      hours: 22:00-06:00         # or a list; in the device's local time

The keys are those of ``[limits]`` in agent.toml, and mean the same; the device keeps to both.
"""

from typing import Annotated

from pydantic import BeforeValidator, model_validator

from controller.jobfields import Real, Strict, as_tuple
from protos.limits import USUAL_GAP_C, problem
from protos.nanofleet.v1 import job_pb2


def _spans(value: object) -> object:
    return (value,) if isinstance(value, str) else as_tuple(value)


class Limits(Strict):
    """0, empty and false: no limit."""

    pause_above_c: Real = 0.0
    resume_below_c: Real = 0.0
    over_current: bool = False
    pause_above_pressure_percent: Real = 0.0
    pause_above_swap_in_mib_per_s: Real = 0.0
    hours: Annotated[tuple[str, ...], BeforeValidator(_spans)] = ()
    mains_only: bool = False
    pause_below_battery_percent: Real = 0.0
    rest_s: Real = 30.0

    @model_validator(mode="after")
    def _sensible(self) -> "Limits":
        if wrong := problem(self.to_proto()):
            raise ValueError(f"`limits.{wrong[0]}` {wrong[1]}")
        return self

    def to_proto(self) -> job_pb2.OperatingLimits:
        """With every field set."""
        below = self.resume_below_c
        if self.pause_above_c and not below:
            below = self.pause_above_c - USUAL_GAP_C
        return job_pb2.OperatingLimits(**{**dict(self), "resume_below_c": below})
