"""The leases that this device holds: which jobs with a lease may run, and until when.

In memory only. An agent that was restarted holds none, and its jobs with a lease wait until a
controller grants them again: nobody can tell how old a lease on the disk is. The arithmetic, and
why a late grant lengthens nothing, is in protos/lease.py.

Read and written in the event loop's thread, and read in the journal's.
"""

from agent.clock import Clock
from protos import lease
from protos.lease import Instant
from protos.nanofleet.v1.job_pb2 import Job


class Leases:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ends: dict[str, int] = {}

    def grant(self, job: Job, stamp: Instant) -> int:
        """Takes a grant that echoes ``stamp``; returns when the job's lease ends, 0 for never held.
        It never ends sooner than before."""
        now = Instant(self._clock.boot_id, self._clock.boottime_ns())
        granted_ns = lease.end_ns(stamp, now, job.spec.lease_s)
        if granted_ns > self.end_ns(job.id):
            self._ends[job.id] = granted_ns
        return self.end_ns(job.id)

    def end_ns(self, job_id: str) -> int:
        """On CLOCK_BOOTTIME; 0 when no lease was ever held."""
        return self._ends.get(job_id, 0)

    def may_run(self, job: Job) -> bool:
        """A job without a lease belongs to this device, and always may."""
        return not job.spec.lease_s or self._clock.boottime_ns() < self.end_ns(job.id)

    def forget(self, job_id: str) -> None:
        """The job has ended."""
        self._ends.pop(job_id, None)
