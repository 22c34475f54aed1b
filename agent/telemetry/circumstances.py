"""What the board was like while something was measured: stamped on every attempt of a job.

An observation begins with the newest sample that there is, so that an over-current in its first
second counts, and takes in each sample until it ends. All of it happens in the event loop's thread.
"""

from collections.abc import Callable

from protos.nanofleet.v1.job_pb2 import Circumstances
from protos.nanofleet.v1.telemetry_pb2 import TelemetrySample


class Observations:
    """The observations that are open now. ``energy_j`` is the meter's reading."""

    def __init__(self, energy_j: Callable[[], float | None]) -> None:
        self._energy_j = energy_j
        self._newest: TelemetrySample | None = None
        self._open: list[_Observation] = []

    def add(self, sample: TelemetrySample) -> None:
        self._newest = sample
        for observation in self._open:
            observation.add(sample)

    def begin(self) -> Callable[[], Circumstances]:
        """Opens one; calling what is returned ends it. To be ended once."""
        observation = _Observation(self._newest)
        self._open.append(observation)
        before_j = self._energy_j()

        def end() -> Circumstances:
            self._open.remove(observation)
            circumstances = observation.circumstances()
            after_j = self._energy_j()
            if after_j is not None:
                circumstances.energy_j = after_j - (before_j or 0.0)
            return circumstances

        return end


class _Mean:
    """Of values that are not kept: an attempt may take days."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0
        self.peak: float | None = None

    def add(self, value: float) -> None:
        self._sum += value
        self._count += 1
        self.peak = value if self.peak is None else max(self.peak, value)

    @property
    def mean(self) -> float | None:
        return self._sum / self._count if self._count else None


class _Observation:
    def __init__(self, before: TelemetrySample | None) -> None:
        self._first = before
        self._last: TelemetrySample | None = None
        self._samples = 0
        self._changed = False
        self._heat, self._power = _Mean(), _Mean()

    def add(self, sample: TelemetrySample) -> None:
        self._first = self._first or sample
        self._samples += 1
        self._changed |= self._last is not None and _state(self._last) != _state(sample)
        self._last = sample
        if sample.HasField("heat"):
            self._heat.add(sample.heat.celsius)
        if sample.power.HasField("total_mw"):
            self._power.add(sample.power.total_mw)

    def circumstances(self) -> Circumstances:
        last = self._last or self._first
        if last is None:
            return Circumstances()
        mode, cpu = last.power_mode, last.cpu
        found = Circumstances(
            power_mode=_name(last),
            changed=self._changed,
            clocks_pinned=mode.clocks_pinned if mode.HasField("clocks_pinned") else None,
            cores_online=cpu.cores_online if cpu.HasField("cores_online") else None,
            heat_zone=last.heat.zone,
            mean_celsius=self._heat.mean,
            peak_celsius=self._heat.peak,
            mean_power_mw=self._power.mean,
            power_source=last.power.total_source,
            samples=self._samples,
            simulated=last.simulated,
        )
        before = {one.name: one.events for one in self._first.over_current} if self._first else {}
        for one in last.over_current:
            risen = one.events - before.get(one.name, one.events)
            found.over_current.add(name=one.name, events=max(0, risen))
        return found


def _state(sample: TelemetrySample) -> tuple[str, bool, int]:
    mode = sample.power_mode
    return _name(sample), mode.clocks_pinned, sample.cpu.cores_online


def _name(sample: TelemetrySample) -> str:
    mode = sample.power_mode
    if not mode.HasField("id"):
        return ""
    return f"{mode.name} ({mode.id})" if mode.name else f"mode {mode.id}"
