"""The record of an attempt: from the newest sample that shows its worker, also after a cut."""

from pathlib import Path

from agent.telemetry.conditions import conditions_of
from agent.telemetry.ring import TelemetryRing
from protos.nanofleet.v1.job_pb2 import Conditions
from protos.nanofleet.v1.telemetry_pb2 import (
    MemorySample,
    TelemetrySample,
    TemperatureSample,
    WorkerSample,
)


def sample(job_id: str = "", step: int | None = None) -> TelemetrySample:
    zones = [TemperatureSample(zone="cpu", celsius=51), TemperatureSample(zone="gpu", celsius=71)]
    seen = TelemetrySample(
        boot_id="b", memory=MemorySample(available_bytes=32 << 20), temperatures=zones
    )
    if job_id:
        seen.workers.append(
            WorkerSample(
                job_id=job_id, rss_bytes=1500, anonymous_bytes=400, step=step, total_steps=9
            )
        )
    return seen


def test_the_newest_sample_that_shows_the_worker_tells(tmp_path: Path) -> None:
    ring = TelemetryRing(tmp_path / "ring", 1 << 20)
    assert conditions_of(ring, "job") == Conditions()
    for taken in (sample("job", 3), sample("job", 4), sample("other", 8), sample()):
        ring.append(taken)
    ring.close()
    again = TelemetryRing(tmp_path / "ring", 1 << 20)
    assert conditions_of(again, "job") == Conditions(
        step=4,
        total_steps=9,
        rss_bytes=1500,
        anonymous_bytes=400,
        available_bytes=32 << 20,
        temperature_c=71,
    )
    simulated = sample("job", 5)
    simulated.simulated = True
    again.append(simulated)
    assert conditions_of(again, "job").simulated
    again.close()


def test_what_was_not_measured_is_absent(tmp_path: Path) -> None:
    ring = TelemetryRing(tmp_path / "ring", 1 << 20)
    ring.append(TelemetrySample(boot_id="b", workers=[WorkerSample(job_id="job", rss_bytes=1)]))
    found = conditions_of(ring, "job")
    ring.close()
    assert not found.simulated
    assert not any(map(found.HasField, ("step", "available_bytes", "temperature_c")))
