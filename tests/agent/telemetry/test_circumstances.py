"""What an attempt is stamped with."""

from agent.telemetry.circumstances import Observations
from protos.nanofleet.v1.job_pb2 import Circumstances
from protos.nanofleet.v1.telemetry_pb2 import (
    CpuSample,
    HeatSample,
    OverCurrentSample,
    PowerModeSample,
    PowerSample,
    TelemetrySample,
)


def sample(
    celsius: float, power_mw: int, events: int, mode: int = 0, *, pinned: bool = False
) -> TelemetrySample:
    return TelemetrySample(
        heat=HeatSample(zone="tj-thermal", celsius=celsius),
        power=PowerSample(total_mw=power_mw, total_source="VDD_IN"),
        over_current=[OverCurrentSample(name="OC1 under-voltage", events=events)],
        power_mode=PowerModeSample(id=mode, name=("15W", "25W")[mode], clocks_pinned=pinned),
        cpu=CpuSample(cores_online=6),
    )


def test_circumstances_are_those_of_the_time_between() -> None:
    spent_j = iter([10.0, 34.5])
    observations = Observations(lambda: next(spent_j))
    observations.add(sample(90.0, 9_000, events=40))
    end = observations.begin()
    observations.add(sample(50.0, 4_000, events=42))
    observations.add(sample(54.0, 6_000, events=43))
    found = end()
    observations.add(sample(80.0, 9_000, events=99))
    assert found == Circumstances(
        power_mode="15W (0)",
        clocks_pinned=False,
        cores_online=6,
        heat_zone="tj-thermal",
        mean_celsius=52.0,
        peak_celsius=54.0,
        # One of them happened between the sample before and the first.
        over_current=[OverCurrentSample(name="OC1 under-voltage", events=3)],
        energy_j=24.5,
        mean_power_mw=5_000.0,
        power_source="VDD_IN",
        samples=2,
    )


def test_mode_that_changes_meanwhile_is_said() -> None:
    observations = Observations(lambda: None)
    changed, pinned, same = (observations.begin() for _ in range(3))
    observations.add(sample(50.0, 4_000, events=0))
    assert same().changed is False
    observations.add(sample(50.0, 4_000, events=0, pinned=True))
    assert pinned().changed is True
    observations.add(sample(50.0, 4_000, events=0, mode=1))
    found = changed()
    assert (found.changed, found.power_mode) == (True, "25W (1)")
    assert not found.HasField("energy_j")


def test_absent_is_absent() -> None:
    observations = Observations(lambda: None)
    assert observations.begin()() == Circumstances()
    end = observations.begin()
    observations.add(TelemetrySample())
    assert end() == Circumstances(samples=1)
