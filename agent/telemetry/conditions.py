"""How the board and a job's worker were when last looked at: for the record of an attempt.

A worker that is gone cannot be asked, and after a power cut there is nothing but the ring on the
disk; both are answered by the newest sample that shows the worker.
"""

from agent.telemetry.ring import MOST_UNSYNCED, TelemetryRing
from protos.nanofleet.v1.job_pb2 import Conditions
from protos.nanofleet.v1.telemetry_pb2 import TelemetrySample

# Samples: a worker that was not seen for longer ended long before.
_LOOK_BACK = 2 * MOST_UNSYNCED


def conditions_of(ring: TelemetryRing, job_id: str) -> Conditions:
    """Empty when no sample of the last minutes shows the job's worker."""
    recent = list(ring.after(max(0, ring.newest_seq - _LOOK_BACK)))
    for sample in reversed(recent):
        if any(worker.job_id == job_id for worker in sample.workers):
            return _seen(sample, job_id)
    return Conditions()


def _seen(sample: TelemetrySample, job_id: str) -> Conditions:
    worker = next(worker for worker in sample.workers if worker.job_id == job_id)
    found = Conditions(
        rss_bytes=worker.rss_bytes,
        anonymous_bytes=worker.anonymous_bytes,
        simulated=sample.simulated,
    )
    if worker.HasField("step"):
        found.step = worker.step
        found.total_steps = worker.total_steps
    if sample.HasField("memory"):
        found.available_bytes = sample.memory.available_bytes
    if sample.HasField("heat"):
        found.temperature_c = sample.heat.celsius
    elif sample.temperatures:  # one that an older agent has taken
        found.temperature_c = max(zone.celsius for zone in sample.temperatures)
    return found
