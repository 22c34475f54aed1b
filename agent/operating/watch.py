"""The limits that are in force, and why a job must rest now: asked by the memory arbiter.

Two sets of them are looked at with each sample of telemetry, each with holds of its own: those of
the device (agent.toml), and those of the job that was asked for last. All of it happens in the
event loop's thread.
"""

import logging
import time
from collections.abc import Callable

from agent.operating.limits import NONE, OperatingLimits, of_job
from agent.operating.resting import Resting, step, unmeasured
from protos.nanofleet.v1.job_pb2 import JobSpec
from protos.nanofleet.v1.telemetry_pb2 import TelemetrySample

_LOG = logging.getLogger(__name__)

# A clock that shows less was never set: boards have no battery for it.
_FIRST_YEAR = 2024
_UNSEEN = "The board has not been looked at yet, and there are limits to keep."


def local_minute() -> int | None:
    """Of the day; None where the clock is not set."""
    now = time.localtime()
    return now.tm_hour * 60 + now.tm_min if now.tm_year >= _FIRST_YEAR else None


class Watch:
    """``own`` are the device's limits."""

    def __init__(
        self, own: OperatingLimits, local_minute: Callable[[], int | None] = local_minute
    ) -> None:
        self._local_minute = local_minute
        self._newest: TelemetrySample | None = None
        self._own = _Kept(own, "the agent")
        self._job = _Kept(NONE, "the job")
        self._told: set[str] = set()

    def add(self, sample: TelemetrySample) -> None:
        self._newest, minute = sample, self._local_minute()
        for kept in (self._own, self._job):
            kept.add(sample, minute)
        for said in unmeasured(self._own.limits, sample, minute):
            if said not in self._told:
                self._told.add(said)
                _LOG.warning("agent.toml: %s", said)

    def rest(self, spec: JobSpec) -> str:
        """Why the job must not compute now; empty: it may."""
        limits = of_job(spec)
        if limits != self._job.limits:
            self._job = _Kept(limits, "the job")
            if self._newest is not None:
                self._job.add(self._newest, self._local_minute())
        if self._newest is None:
            return _UNSEEN if {limits, self._own.limits} != {NONE} else ""
        return " ".join(filter(None, (self._own.why, self._job.why)))

    def without_effect(self, spec: JobSpec) -> list[str]:
        """What the job's limits ask for and this board does not measure."""
        if self._newest is None:
            return []
        return unmeasured(of_job(spec), self._newest, self._local_minute())


class _Kept:
    """One set of limits and its holds."""

    def __init__(self, limits: OperatingLimits, whose: str) -> None:
        self.limits = limits
        self._whose = whose
        self._state = Resting()

    @property
    def why(self) -> str:
        return self._state.why

    def add(self, sample: TelemetrySample, minute: int | None) -> None:
        self._state = step(self._state, self.limits, sample, minute, self._whose)
