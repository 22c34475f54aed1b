"""Within which conditions of the board jobs work: of the device (agent.toml), or of one job."""

from dataclasses import dataclass, replace

from protos.limits import USUAL_GAP_C, Limits
from protos.nanofleet.v1.job_pb2 import JobSpec


@dataclass(frozen=True, slots=True)
class OperatingLimits:
    """0, empty and false: no limit. Checked by protos.limits.problem."""

    pause_above_c: float = 0.0
    resume_below_c: float = 0.0
    over_current: bool = False
    pause_above_pressure_percent: float = 0.0
    pause_above_swap_in_mib_per_s: float = 0.0
    hours: tuple[str, ...] = ()
    mains_only: bool = False
    pause_below_battery_percent: float = 0.0
    rest_s: float = 30.0


NONE = OperatingLimits()


def of_job(spec: JobSpec) -> OperatingLimits:
    """The job's own ones."""
    if not spec.HasField("limits"):
        return NONE
    asked: Limits = spec.limits
    return OperatingLimits(
        pause_above_c=asked.pause_above_c,
        resume_below_c=asked.resume_below_c,
        over_current=asked.over_current,
        pause_above_pressure_percent=asked.pause_above_pressure_percent,
        pause_above_swap_in_mib_per_s=asked.pause_above_swap_in_mib_per_s,
        hours=tuple(asked.hours),
        mains_only=asked.mains_only,
        pause_below_battery_percent=asked.pause_below_battery_percent,
        rest_s=asked.rest_s,
    )


def filled(limits: OperatingLimits) -> OperatingLimits:
    """As a person has written them, with what they leave out."""
    if limits.pause_above_c and not limits.resume_below_c:
        return replace(limits, resume_below_c=limits.pause_above_c - USUAL_GAP_C)
    return limits
